"""Does synthetic data help a segmentation model, which generator makes it, and how much of it is needed?"""

import os
from typing import Any

# Set before any heavy import: no telemetry, no model hub, no window system, unless the user decided otherwise.
for _name, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "HF_HUB_OFFLINE": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "MPLBACKEND": "Agg",
    "NO_ALBUMENTATIONS_UPDATE": "1",
}.items():
    os.environ.setdefault(_name, _value)

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Give what is for users of Python, imported when it is asked for."""
    if name == "verdict":
        from harness.stats.verdicts import verdict

        return verdict
    raise AttributeError(f"module 'harness' has no attribute {name!r}")

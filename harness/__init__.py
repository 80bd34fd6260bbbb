"""Does synthetic data help a segmentation model, which generator makes it, and how much of it is needed?"""

import os

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

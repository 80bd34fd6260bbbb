"""Everything that a plugin may import from the harness. Its code is part of the key of what used it.

Here is the contract with its data and errors; the modules beside it are what plugins and stages learn with. Imports
``plugins``, ``metrics``, ``weights`` and ``data``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.errors import DataError, HarnessError, OutOfMemory, PluginError, WeightsError, nearest
from harness.plugins.contract import (
    Card,
    Checkpoint,
    FitContext,
    Generator,
    Parameters,
    PublishedParameters,
    Refiner,
    Sample,
    SampleContext,
    Segmenter,
)

if TYPE_CHECKING:
    from harness.data.pairs import PairSet

__all__ = [
    "Card",
    "Checkpoint",
    "DataError",
    "FitContext",
    "Generator",
    "HarnessError",
    "OutOfMemory",
    "PairSet",
    "Parameters",
    "PluginError",
    "PublishedParameters",
    "Refiner",
    "Sample",
    "SampleContext",
    "Segmenter",
    "WeightsError",
    "nearest",
]


def __getattr__(name: str) -> Any:
    """Import ``PairSet`` when it is asked for: it needs numpy, and a study is checked without."""
    if name != "PairSet":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from harness.data.pairs import PairSet

    return PairSet

"""Everything that a plugin may import from the harness. Its code is part of the key of what used it.

Here is the contract with its data and errors; the modules beside it are what plugins and stages learn with. Imports
``plugins``, ``metrics``, ``weights`` and ``data``.
"""

from harness.data.pairs import PairSet
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

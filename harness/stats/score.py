"""The score of one arm, as tables and figures take it."""

from __future__ import annotations

from dataclasses import dataclass

from harness.stats.estimator import NAN
from harness.stats.verdicts import ArmKey

#: Caveat of a score that all runs have done and that no image has, such as one of small polyps where there are none.
NO_VALUE = "no image has a value"


@dataclass(frozen=True)
class Score:
    """The score of one arm: a segmenter, trained on a recipe, on one role of one dataset.

    Attributes:
        key: which arm.
        metric: such as ``iou``.
        reduction: ``micro`` or ``micro-imagewise``.
        mean: over folds and seeds, never over fewer than planned: NaN when cells are missing.
        low: lower end of the 95 % interval over images and runs; NaN when there is none.
        high: upper end.
        spread: standard deviation over training runs (n - 1), NaN for one run.
        runs: training runs (seeds x folds) with a result.
        planned: training runs planned.
        seeds: number of different training seeds.
        images: distinct images scored.
        groups: their groups, the unit that is resampled.
        leak: what was seen that should not have been, or an empty string.
        caveat: what the interval cannot cover, or why there is none.
    """

    key: ArmKey
    metric: str
    reduction: str
    mean: float = NAN
    low: float = NAN
    high: float = NAN
    spread: float = NAN
    runs: int = 0
    planned: int = 0
    seeds: int = 0
    images: int = 0
    groups: int = 0
    leak: str = ""
    caveat: str = ""

    @property
    def complete(self) -> bool:
        """Whether every planned run has a result."""
        return self.runs == self.planned and self.planned > 0

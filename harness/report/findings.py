"""What tables and figures are made from: the results of a study and the statistics of them, computed once."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import pandas as pd

from harness.metrics.segmentation.scores import size_of
from harness.metrics.spec import SegmentationMetric, segmentation_metrics
from harness.results.schema import StudyResults
from harness.stats.arms import ArmKey
from harness.stats.study import ArmRows, Effect, Score, arm_rows, effects, scores


@dataclass(frozen=True)
class Findings:
    """The results of a study, with the score of every arm and the difference of every comparison.

    Attributes:
        results: what was collected.
    """

    results: StudyResults
    _scores: dict[tuple[str, str], list[Score]] = field(default_factory=dict, init=False, repr=False, compare=False)

    @cached_property
    def _scored(self) -> pd.DataFrame:
        """The rows of segmenters that have a value."""
        rows = self.results.rows
        return rows[(rows["kind"] == "segmentation") & rows["value"].notna()]

    @cached_property
    def _sorted_rows(self) -> dict[ArmKey, ArmRows]:
        """The rows of every arm, which each score of the study is made from."""
        return arm_rows(self.results)

    @property
    def reductions(self) -> list[str]:
        """The reductions over all images that were measured, the primary one first."""
        measured = [str(r) for r in self._scored["reduction"].dropna().unique() if r and not size_of(str(r))]
        return sorted(measured, key=lambda r: r != self.results.comparison.reduction)

    def metrics(self, reduction: str) -> list[SegmentationMetric]:
        """Return the metrics that have a value by a reduction, in the order of tables."""
        measured = set(self._scored[self._scored["reduction"] == reduction]["metric"])
        return [metric for name, metric in segmentation_metrics().items() if name in measured]

    def scores(self, metric: str, reduction: str) -> list[Score]:
        """Return the scores of every arm by a metric and a reduction; without a mean where runs are missing."""
        if (metric, reduction) not in self._scores:
            self._scores[metric, reduction] = scores(self.results, metric, reduction, sorted_rows=self._sorted_rows)
        return self._scores[metric, reduction]

    @property
    def primary(self) -> list[Score]:
        """The scores of every arm by the primary metric."""
        return self.scores(self.results.comparison.metric, self.results.comparison.reduction)

    @cached_property
    def effects(self) -> list[Effect]:
        """The difference of every arm from its baseline by the primary metric, with its verdict."""
        return effects(self.results, self.primary)

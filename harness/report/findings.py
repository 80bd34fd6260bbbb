"""What tables and figures are made from: the results of a study and the statistics of them, computed once."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import pandas as pd

from harness.metrics.segmentation.scores import size_of
from harness.metrics.spec import SegmentationMetric, segmentation_metric, segmentation_metrics
from harness.results.schema import Comparison, StudyResults
from harness.stats.learned import judged_by, marks
from harness.stats.score import Score
from harness.stats.study import (
    ArmRows,
    Measured,
    Sweep,
    Worth,
    arm_rows,
    effects,
    evaluated,
    indistinguishable,
    measure,
    scores,
    sweeps,
    unequal_runs,
    worths,
)
from harness.stats.verdicts import ArmKey, Effect, Mark


@dataclass(frozen=True)
class Findings:
    """The results of a study, with the score of every arm and the difference of every comparison.

    Attributes:
        results: what was collected.
    """

    results: StudyResults
    _measured: dict[tuple[str, str], Measured] = field(default_factory=dict, init=False, repr=False, compare=False)
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

    def measured(self, metric: str, reduction: str) -> Measured:
        """Return what the images say of every arm by a metric and a reduction."""
        if (metric, reduction) not in self._measured:
            self._measured[metric, reduction] = measure(self.results, metric, reduction)
        return self._measured[metric, reduction]

    def scores(self, metric: str, reduction: str) -> list[Score]:
        """Return the scores of every arm by a metric and a reduction; without a mean where runs are missing."""
        if (metric, reduction) not in self._scores:
            measured = self.measured(metric, reduction)
            self._scores[metric, reduction] = scores(self.results, metric, reduction, measured, self._sorted_rows)
        return self._scores[metric, reduction]

    def best(self, metric: str, reduction: str) -> tuple[set[ArmKey], set[ArmKey]]:
        """Return the best arms of each segmenter by a metric and a reduction, and those not told from the best."""
        return indistinguishable(self.scores(metric, reduction), self.measured(metric, reduction))

    def compared(self, comparison: Comparison) -> list[Effect]:
        """Return the differences that one family of comparisons asks for, with their verdicts."""
        at = comparison.metric, comparison.reduction
        return effects(self.results, comparison, self.scores(*at), self.measured(*at), self.marks)

    @cached_property
    def marks(self) -> dict[ArmKey, Mark]:
        """The arms whose segmenters did not learn, or had not finished to."""
        return marks(self.results, self.scores(*judged_by(self.results, evaluated(self.results))))

    @property
    def primary(self) -> list[Score]:
        """The scores of every arm by the primary metric."""
        return self.scores(self.results.comparison.metric, self.results.comparison.reduction)

    @cached_property
    def effects(self) -> list[Effect]:
        """The difference of every arm of the primary family from its baseline, with its verdict."""
        return self.compared(self.results.comparison)

    @cached_property
    def secondary(self) -> list[tuple[Comparison, list[Effect]]]:
        """The further families of comparisons, each with its differences and verdicts."""
        return [(family, self.compared(family)) for family in self.results.secondary]

    @cached_property
    def sweeps(self) -> list[Sweep]:
        """Each generator in growing numbers: whether more is better, and how much is enough, by the primary metric."""
        comparison = self.results.comparison
        if segmentation_metric(comparison.metric).better == "lower":
            return []
        return sweeps(self.results, comparison, self.measured(comparison.metric, comparison.reduction), self.marks)

    @cached_property
    def worths(self) -> list[Worth]:
        """How many annotated images the synthetic ones of each arm are worth, by the primary metric."""
        comparison = self.results.comparison
        if segmentation_metric(comparison.metric).better == "lower":
            return []
        return worths(self.results, self.measured(comparison.metric, comparison.reduction), self.marks)

    @property
    def notes(self) -> list[str]:
        """Sentences that must stand beside the verdicts."""
        comparison = self.results.comparison
        return unequal_runs(self.measured(comparison.metric, comparison.reduction))

"""What tables and figures are made from: the results of a study and the statistics of them, computed once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from harness.results.schema import StudyResults
from harness.stats.study import Effect, Score, effects, scores


@dataclass(frozen=True)
class Findings:
    """The results of a study, with the score of every arm and the difference of every comparison.

    Attributes:
        results: what was collected.
    """

    results: StudyResults

    @property
    def reductions(self) -> list[str]:
        """The reductions that were measured, the primary one first."""
        rows = self.results.rows
        rows = rows[(rows["kind"] == "segmentation") & rows["value"].notna()]
        measured = [str(r) for r in rows["reduction"].dropna().unique() if r]
        return sorted(measured, key=lambda r: r != self.results.comparison.reduction)

    def metrics(self, reduction: str) -> list[str]:
        """Return the metrics measured with a reduction, in the order of the table."""
        rows = self.results.rows
        rows = rows[(rows["kind"] == "segmentation") & (rows["reduction"] == reduction) & rows["value"].notna()]
        return [str(m) for m in rows["metric"].unique()]

    @cached_property
    def scores(self) -> dict[tuple[str, str], list[Score]]:
        """The scores of every arm, by metric and reduction, of all that were measured."""
        return {
            (metric, reduction): scores(self.results, metric, reduction)
            for reduction in self.reductions
            for metric in self.metrics(reduction)
        }

    @cached_property
    def primary(self) -> list[Score]:
        """The scores of every arm by the primary metric; without a mean where runs are missing."""
        comparison = self.results.comparison
        found = self.scores.get((comparison.metric, comparison.reduction))
        return found or scores(self.results, comparison.metric, comparison.reduction)

    @cached_property
    def effects(self) -> list[Effect]:
        """The difference of every arm from its baseline by the primary metric, with its verdict."""
        return effects(self.results, self.primary)

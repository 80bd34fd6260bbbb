"""The table of what predictions score that look at no image."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from harness.report.format import number
from harness.report.tables.scores import places
from harness.report.tables.table import Cell, Table
from harness.report.wording import setting
from harness.results.catalogue import TableSpec
from harness.stats.learned import trivial_scores

if TYPE_CHECKING:
    from harness.report.findings import Findings

_WHAT = {
    "all polyp": "every pixel is polyp",
    "none": "no pixel is",
    "mean mask": "the mean mask of the fit role, cut where it agrees best with the masks of that role",
}


def trivial_tables(findings: Findings) -> Iterator[Table]:
    """Return one table for each evaluated role: a row a prediction, by the primary reduction."""
    results = findings.results
    reduction = results.comparison.reduction
    metrics = [
        metric
        for metric in findings.metrics(reduction)
        if metric.table == "scores" or metric.name == results.comparison.metric
    ]
    for place, suffix, where in places(results):
        scores = {metric.name: trivial_scores(results, *place, metric.name, reduction) for metric in metrics}
        named = [name for name in _WHAT if any(name in own for own in scores.values())]
        if not named:
            continue
        nothing = float("nan")
        rows = [
            [Cell(name), *(Cell(number(scores[one.name].get(name, nothing), one.digits)) for one in metrics)]
            for name in named
        ]
        records: list[dict[str, object]] = [
            {"dataset": place[0], "role": place[1], "prediction": name, "metric": metric, "reduction": reduction}
            | {"value": own[name]}
            for name in named
            for metric, own in scores.items()
            if name in own
        ]
        yield Table(
            f"trivial{suffix}",
            f"What trivial predictions score, {reduction}{where}",
            f"Scores of predictions that look at no image; a segmenter that is not above them has not learned; "
            f"{setting(results)}.",
            ["Prediction", *(metric.column for metric in metrics)],
            rows,
            notes=[f"{name[0].upper()}{name[1:]}: {_WHAT[name]}." for name in named],
            records=records,
        )


TRIVIAL = TableSpec(
    "trivial",
    "What trivial predictions score",
    "All polyp, none, and the mean mask of the fit role: what a segmenter must be above to have learned.",
    trivial_tables,
    place=28,
)

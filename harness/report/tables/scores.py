"""The tables of scores and comparisons."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from harness.report.format import interval, metric_name, number, p_value, signed
from harness.report.tables.table import Cell, Table
from harness.report.wording import comparison_caption, detectable, score_caption, shows_any
from harness.results.catalogue import TableSpec
from harness.stats.arms import ArmKey
from harness.stats.study import Effect, Score, evaluated, indistinguishable

if TYPE_CHECKING:
    from harness.report.findings import Findings
    from harness.results.schema import StudyResults

LEAK_NOTE = "† leak: something that made this number had seen what it is scored on: {}."
TIE_NOTE = "≈ cannot be told from the best of its segmenter (the 95 % interval of the paired difference holds zero)."


def score_tables(findings: Findings) -> Iterator[Table]:
    """Return one table for each reduction and evaluated role."""
    places = evaluated(findings.results)
    for reduction in findings.reductions:
        for dataset, role in places:
            suffix = "" if len(places) == 1 else f"-{dataset}-{role}"
            yield _score_table(findings, reduction, (dataset, role), f"scores-{reduction}{suffix}")


def _score_cell(score: Score, best: set[ArmKey], tied: set[ArmKey]) -> Cell:
    """Return mean ± half the interval's width, or how much is missing."""
    if not score.complete:
        return Cell(f"incomplete {score.runs}/{score.planned}")
    text = number(score.mean)
    if score.low == score.low:
        text += f" ± {number((score.high - score.low) / 2)}"
    mark = ("≈" if score.key in tied else "") + ("†" if score.leak else "")
    return Cell(text, bold=score.key in best, mark=mark)


def _score_table(findings: Findings, reduction: str, place: tuple[str, str], name: str) -> Table:
    """Return the table of one reduction on one role: a row a segmenter and recipe, a column a metric."""
    results, metrics = findings.results, findings.metrics(reduction)
    columns: dict[str, dict[ArmKey, Score]] = {}
    marks: dict[str, tuple[set[ArmKey], set[ArmKey]]] = {}
    for metric in metrics:
        listed = findings.scores[metric, reduction]
        columns[metric] = {s.key: s for s in listed if s.key[:2] == place}
        marks[metric] = indistinguishable(listed)
    rows: list[list[Cell]] = []
    rules: set[int] = set()
    previous = ""
    for key, first in columns[metrics[0]].items() if metrics else ():
        if key.segmenter != previous:
            rules.add(len(rows))
        shown = key.segmenter if key.segmenter != previous else ""
        previous = key.segmenter
        cells = [_score_cell(columns[m][key], *marks[m]) for m in metrics]
        rows.append([Cell(shown), Cell(key.recipe), Cell(str(first.runs)), *cells])
    listed = [score for metric in metrics for score in columns[metric].values()]
    leaks = list(dict.fromkeys(s.leak for s in listed if s.leak))
    notes = [LEAK_NOTE.format(leak) for leak in leaks]
    if any(columns[m].keys() & marks[m][1] for m in metrics):
        notes.append(TIE_NOTE)
    caveats = dict.fromkeys(s.caveat for s in listed if s.caveat and s.complete)
    notes.extend(f"{caveat[0].upper()}{caveat[1:]}." for caveat in caveats)
    where = "" if len(evaluated(results)) == 1 else f" on {place[0]} ({place[1]})"
    return Table(
        name,
        f"Scores, {reduction}{where}",
        score_caption(results, reduction),
        ["Segmenter", "Training set", "Runs", *(metric_name(m) for m in metrics)],
        rows,
        frozenset(rules),
        notes,
        text_columns=2,
        records=[_score_record(s) for s in listed],
    )


def _score_record(score: Score) -> dict[str, object]:
    """Return a score as plain values."""
    return {
        **score.key._asdict(),
        "metric": score.metric,
        "reduction": score.reduction,
        "mean": score.mean,
        "low": score.low,
        "high": score.high,
        "spread_over_runs": score.spread,
        "runs": score.runs,
        "planned": score.planned,
        "images": score.images,
        "groups": score.groups,
        "leak": score.leak,
        "caveat": score.caveat,
    }


def comparison_table(results: StudyResults, effects: list[Effect]) -> Table:
    """Return the table of differences from the baseline with their verdicts."""
    places = evaluated(results)
    rows: list[list[Cell]] = []
    rules: set[int] = set()
    previous: tuple[str, ...] = ()
    reasons: dict[str, str] = {}
    for effect in effects:
        key = effect.key
        if key[:3] != previous:
            rules.add(len(rows))
        shown = key.segmenter if key[:3] != previous else ""
        previous = key[:3]
        mark = "†" if effect.reason.startswith("leak") else ""
        reason = ""
        if effect.reason:
            reasons.setdefault(effect.reason, f"({chr(97 + len(reasons) % 26)})")
            reason = reasons[effect.reason]
        rows.append(
            [
                *([Cell(f"{key.dataset} ({key.role})")] if len(places) > 1 else []),
                Cell(shown),
                Cell(key.recipe),
                Cell(effect.baseline),
                Cell(f"{signed(effect.difference)} {interval(effect.low, effect.high, sign=True)}".strip(), mark=mark),
                Cell(p_value(effect.p_holm)),
                Cell(detectable(effect)),
                Cell(effect.verdict, bold=effect.verdict in ("helps", "hurts"), mark=reason),
            ]
        )
    records = [
        {
            **e.key._asdict(),
            **{name: getattr(e, name) for name in ("baseline", "metric", "reduction", "difference", "low", "high")},
            **{name: getattr(e, name) for name in ("p", "p_holm", "detectable", "verdict", "reason")},
        }
        for e in effects
    ]
    tested = sum(e.p == e.p for e in effects)
    return Table(
        "comparison",
        f"Difference from the baseline, {metric_name(results.comparison.metric)}",
        comparison_caption(results, tested),
        [
            *(["Scored on"] if len(places) > 1 else []),
            *["Segmenter", "Training set", "Baseline", "Difference", "p (Holm)", "Detectable", "Verdict"],
        ],
        rows,
        frozenset(rules),
        [
            "Detectable: the smallest true difference that would be found in 80 % of repetitions of this study"
            + (
                "."
                if all(shows_any(e) for e in effects)
                else "; none: too few training runs to show any, however large."
            ),
            *(f"{mark} {reason}." for reason, mark in reasons.items()),
        ],
        text_columns=3 if len(places) == 1 else 4,
        records=records,
    )


COMPARISON = TableSpec(
    "comparison",
    "Difference from the baseline",
    "Paired by image and seed, with intervals, p values after Holm's correction and verdicts.",
    lambda findings: [comparison_table(findings.results, findings.effects)] if findings.effects else [],
    place=10,
)

SCORES = TableSpec(
    "scores",
    "Scores of every segmenter and training set",
    "With 95 % intervals over images and training runs; one table a reduction.",
    score_tables,
    place=20,
)

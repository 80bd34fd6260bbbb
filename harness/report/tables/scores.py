"""The tables of scores and comparisons."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.report.format import interval, metric_name, number, p_value, signed
from harness.report.tables.table import Cell, Table
from harness.report.wording import comparison_caption, detectable, score_caption, shows_any
from harness.stats.arms import ArmKey
from harness.stats.study import Effect, Score, evaluated, indistinguishable, scores

if TYPE_CHECKING:
    from harness.results.schema import StudyResults

LEAK_NOTE = "† leak: something that made this number had seen what it is scored on: {}."
TIE_NOTE = "≈ cannot be told from the best of its segmenter (the 95 % interval of the paired difference holds zero)."


def reductions(results: StudyResults) -> list[str]:
    """Return the reductions that were measured, the primary one first."""
    rows = results.rows[(results.rows["kind"] == "segmentation") & results.rows["value"].notna()]
    measured = [str(r) for r in rows["reduction"].dropna().unique() if r]
    return sorted(measured, key=lambda r: r != results.comparison.reduction)


def metrics_of(results: StudyResults, reduction: str) -> list[str]:
    """Return the metrics measured with a reduction, in the order of the table."""
    rows = results.rows
    rows = rows[(rows["kind"] == "segmentation") & (rows["reduction"] == reduction) & rows["value"].notna()]
    return [str(m) for m in rows["metric"].unique()]


def score_tables(results: StudyResults, measured: dict[tuple[str, str], list[Score]]) -> list[Table]:
    """Return one table for each reduction and evaluated role."""
    tables = []
    places = evaluated(results)
    for reduction in reductions(results):
        for dataset, role in places:
            suffix = "" if len(places) == 1 else f"-{dataset}-{role}"
            tables.append(_score_table(results, measured, reduction, (dataset, role), f"scores-{reduction}{suffix}"))
    return tables


def _score_cell(score: Score, best: set[ArmKey], tied: set[ArmKey]) -> Cell:
    """Return mean ± half the interval's width, or how much is missing."""
    if not score.complete:
        return Cell(f"incomplete {score.runs}/{score.planned}")
    text = number(score.mean)
    if score.low == score.low:
        text += f" ± {number((score.high - score.low) / 2)}"
    mark = ("≈" if score.key in tied else "") + ("†" if score.leak else "")
    return Cell(text, bold=score.key in best, mark=mark)


def _score_table(
    results: StudyResults,
    measured: dict[tuple[str, str], list[Score]],
    reduction: str,
    place: tuple[str, str],
    name: str,
) -> Table:
    """Return the table of one reduction on one role: a row a segmenter and recipe, a column a metric."""
    metrics = metrics_of(results, reduction)
    columns: dict[str, dict[ArmKey, Score]] = {}
    marks: dict[str, tuple[set[ArmKey], set[ArmKey]]] = {}
    for metric in metrics:
        listed = measured[metric, reduction]
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


def all_scores(results: StudyResults) -> dict[tuple[str, str], list[Score]]:
    """Return the scores of every metric and reduction that was measured."""
    found = {}
    for reduction in reductions(results):
        for metric in metrics_of(results, reduction):
            found[metric, reduction] = scores(results, metric, reduction)
    return found


def comparison_table(results: StudyResults, effects: list[Effect]) -> Table:
    """Return the table of differences from the control arm with their verdicts."""
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
        f"Difference from the control arm, {metric_name(results.comparison.metric)}",
        comparison_caption(results, tested),
        [
            *(["Scored on"] if len(places) > 1 else []),
            *["Segmenter", "Training set", "Control", "Difference", "p (Holm)", "Detectable", "Verdict"],
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

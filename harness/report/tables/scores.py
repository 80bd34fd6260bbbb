"""The tables of scores and comparisons."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from string import Formatter
from typing import TYPE_CHECKING

from harness.metrics.segmentation.scores import SIZES
from harness.metrics.spec import SegmentationMetric, segmentation_metrics
from harness.report.format import interval, metric_name, number, p_value, signed
from harness.report.tables.table import Cell, Table
from harness.report.wording import (
    comparison_caption,
    detectable,
    intervals_caption,
    score_caption,
    sentence_case,
    shows_any,
)
from harness.results.catalogue import TableSpec
from harness.stats.score import NO_VALUE, Score
from harness.stats.study import evaluated
from harness.stats.verdicts import ArmKey, Effect

if TYPE_CHECKING:
    from harness.report.findings import Findings
    from harness.results.schema import Comparison, StudyResults

LEAK_NOTE = "† leak: something that made this number had seen what it is scored on: {}."
#: What marks an arm by how its segmenters were trained.
MARKS = {"did not learn": "‡", "undertrained": "↑"}
TIE_NOTE = "≈ not shown to be worse than the best of its segmenter (Hsu's comparisons with the best, at 95 %)."


def score_tables(findings: Findings) -> Iterator[Table]:
    """Return one table for each reduction and evaluated role."""
    results = findings.results
    for reduction in findings.reductions:
        metrics = [
            metric
            for metric in findings.metrics(reduction)
            if metric.table == "scores" or metric.name == results.comparison.metric
        ]
        columns = [_Column(metric, reduction, findings.scores(metric.name, reduction)) for metric in metrics]
        for place, suffix, where in places(results):
            title = f"Scores, {reduction}{where}"
            caption = score_caption(results, reduction)
            yield _score_table(findings, columns, place, f"scores-{reduction}{suffix}", title, caption)


def clinical_tables(findings: Findings) -> Iterator[Table]:
    """Return one table for each evaluated role of the scores that a clinician asks for, each by one reduction."""
    results = findings.results
    wanted = [metric for metric in segmentation_metrics().values() if metric.table == "scores-clinical"]
    metrics = [metric for metric in wanted if metric in findings.metrics(metric.reduction)]
    if not metrics:
        return
    columns = [_Column(m, m.reduction, findings.scores(m.name, m.reduction)) for m in metrics]
    for place, suffix, where in places(results):
        title = f"Polyps found, false alarms and outlines{where}"
        caption = f"Polyps found, false alarms and outlines, {intervals_caption(results)}"
        yield _score_table(findings, columns, place, f"scores-clinical{suffix}", title, caption)


def size_tables(findings: Findings) -> Iterator[Table]:
    """Return one table for each evaluated role of scores by polyp size: a row a segmenter, recipe and size."""
    results = findings.results
    known = {size: f"micro-imagewise-{size}" for size in SIZES}
    metrics = list(dict.fromkeys(m for reduction in known.values() for m in findings.metrics(reduction)))
    metrics = [metric for metric in metrics if metric.by_size or metric.name == results.comparison.metric]
    if not metrics:
        return
    limits = results.facts.get("size_limits")
    parted = f" (up to {limits[0]:.1%} and {limits[1]:.1%} of the image)" if limits else ""
    caption = f"Scores by polyp size, thirds of the polyps of the fit role{parted}: {intervals_caption(results)}"
    for place, suffix, where in places(results):
        parts = [
            _score_table(
                findings,
                [_Column(m, reduction, findings.scores(m.name, reduction)) for m in metrics],
                place,
                "",
                "",
                "",
                size,
            )
            for size, reduction in known.items()
        ]
        order = [(i, part) for i in range(len(parts[0].rows)) for part in parts]
        rows = [part.rows[i] for i, part in order]
        rules = frozenset(i * len(parts) for i in parts[0].rules)
        shown = [row if n % len(parts) == 0 else [Cell(""), Cell(""), *row[2:]] for n, row in enumerate(rows)]
        notes = list(dict.fromkeys(note for part in parts for note in part.notes))
        records = [record for part in parts for record in part.records]
        title = f"Scores by polyp size{where}"
        whole = Table(f"scores-by-size{suffix}", title, caption, parts[0].columns, shown, rules, notes)
        yield replace(whole, text_columns=3, records=records)


def places(results: StudyResults) -> list[tuple[tuple[str, str], str, str]]:
    """Return each evaluated role of a dataset, with what a file name and a title add to tell it from the others."""
    places = evaluated(results)
    if len(places) == 1:
        return [(places[0], "", "")]
    return [((d, role), f"-{d}-{role}", f" on {d} ({role})") for d, role in places]


@dataclass(frozen=True)
class _Column:
    """The scores of every arm by one metric and reduction."""

    metric: SegmentationMetric
    reduction: str
    listed: list[Score]


def _score_cell(score: Score, digits: int, best: set[ArmKey], tied: set[ArmKey]) -> Cell:
    """Return mean ± half the interval's width, or how much is missing."""
    if not score.complete:
        return Cell("–" if score.caveat == NO_VALUE else f"incomplete {score.runs}/{score.planned}")
    text = number(score.mean, digits)
    if score.low == score.low:
        text += f" ± {number((score.high - score.low) / 2, digits)}"
    mark = ("≈" if score.key in tied else "") + ("†" if score.leak else "")
    return Cell(text, bold=score.key in best, mark=mark)


def _score_table(
    findings: Findings,
    columns: Sequence[_Column],
    place: tuple[str, str],
    name: str,
    title: str,
    caption: str,
    size: str = "",
) -> Table:
    """Return a table of scores on one role: a row a segmenter and recipe, a column a metric."""
    found = [{score.key: score for score in column.listed if score.key[:2] == place} for column in columns]
    marks = [findings.best(column.metric.name, column.reduction) for column in columns]
    rows: list[list[Cell]] = []
    rules: set[int] = set()
    previous = ""
    for key, first in found[0].items() if columns else ():
        if key.segmenter != previous:
            rules.add(len(rows))
        shown = key.segmenter if key.segmenter != previous else ""
        previous = key.segmenter
        cells = [
            _score_cell(own[key], column.metric.digits, *mark)
            for column, own, mark in zip(columns, found, marks, strict=True)
        ]
        mark = MARKS[findings.marks[key].kind] if key in findings.marks else ""
        rows.append([Cell(shown), Cell(key.recipe, mark=mark), Cell(size or str(first.runs)), *cells])
    listed = [score for own in found for score in own.values()]
    notes = [LEAK_NOTE.format(leak) for leak in dict.fromkeys(s.leak for s in listed if s.leak)]
    if any(own.keys() & tied for own, (_, tied) in zip(found, marks, strict=True)):
        notes.append(TIE_NOTE)
    notes.extend(_training_notes(findings, dict.fromkeys(score.key for score in listed)))
    caveats = dict.fromkeys(s.caveat for s in listed if s.caveat and s.complete)
    notes.extend(f"{caveat[0].upper()}{caveat[1:]}." for caveat in caveats)
    notes.extend(note for column in columns if (note := _note(findings.results, column.metric)))
    return Table(
        name,
        title,
        caption,
        ["Segmenter", "Training set", "Polyps" if size else "Runs", *(column.metric.column for column in columns)],
        rows,
        frozenset(rules),
        notes,
        text_columns=2,
        records=[_score_record(s) for s in listed],
    )


def _training_notes(findings: Findings, keys: Iterable[ArmKey]) -> Iterator[str]:
    """Yield what the marks of arms mean that did not learn, or had not finished to: a sentence a kind."""
    marked = [(key, findings.marks[key]) for key in keys if key in findings.marks]
    for kind, sign in MARKS.items():
        arms = [f"{key.segmenter}, {key.recipe}: {mark.why}" for key, mark in marked if mark.kind == kind]
        if arms:
            yield f"{sign} {kind}: {'; '.join(arms)}."


def _note(results: StudyResults, metric: SegmentationMetric) -> str:
    """Return what a metric says must be known of its column, when the study knows the words that it needs."""
    used = [name for _, name, _, _ in Formatter().parse(metric.note) if name]
    return metric.note.format_map(results.facts) if set(used) <= set(results.facts) else ""


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


def comparison_tables(findings: Findings) -> Iterator[Table]:
    """Return one table for each family of comparisons, the primary one first."""
    primary = findings.results.comparison
    if findings.effects:
        yield comparison_table(findings.results, primary, findings.effects, "comparison")
    for family, effects in findings.secondary:
        if effects:
            slug = "-".join(family.name.replace("*", "").split())
            yield comparison_table(findings.results, family, effects, f"comparison-{slug}")


def comparison_table(results: StudyResults, comparison: Comparison, effects: list[Effect], name: str) -> Table:
    """Return the table of one family of differences with their verdicts."""
    places = evaluated(results)
    rows: list[list[Cell]] = []
    rules: set[int] = set()
    previous: tuple[str, ...] = ()
    reasons: dict[str, str] = {}
    overs = list(dict.fromkeys(effect.over for effect in effects if effect.over and not effect.reason))

    def marked(text: str) -> str:
        return reasons.setdefault(text, f"({chr(97 + len(reasons) % 26)})")

    for effect in effects:
        key = effect.key
        if key[:3] != previous:
            rules.add(len(rows))
        shown = key.segmenter if key[:3] != previous else ""
        previous = key[:3]
        leaked = "†" if effect.reason.startswith("leak") else ""
        reason = marked(effect.reason) if effect.reason else ""
        if not reason and len(overs) > 1:
            reason = marked(f"Speaks {effect.over}")
        if effect.mark:
            reason += marked(sentence_case(effect.mark))
        rows.append(
            [
                *([Cell(f"{key.dataset} ({key.role})")] if len(places) > 1 else []),
                Cell(shown),
                Cell(key.recipe),
                Cell(effect.baseline),
                Cell(
                    f"{signed(effect.difference)} {interval(effect.low, effect.high, sign=True)}".strip(), mark=leaked
                ),
                Cell(p_value(effect.p_adjusted)),
                Cell(detectable(effect)),
                Cell(effect.verdict, bold=effect.verdict in ("helps", "hurts"), mark=reason),
            ]
        )
    records = [{**e.key._asdict(), **{name: getattr(e, name) for name in _RECORDED}} for e in effects]
    notes = ["Detectable: the smallest true difference that would be found in 80 % of repetitions of this study"]
    notes[0] += "." if all(shows_any(e) for e in effects) else "; none: too few runs to show any, however large."
    if len(overs) == 1:
        notes.append(f"Verdicts speak {overs[0]}.")
    return Table(
        name,
        f"Difference {comparison.name}, {metric_name(comparison.metric)}",
        comparison_caption(results, comparison, effects),
        [
            *(["Scored on"] if len(places) > 1 else []),
            *["Segmenter", "Training set", "Compared with", "Difference", "p (adjusted)", "Detectable", "Verdict"],
        ],
        rows,
        frozenset(rules),
        [*notes, *(f"{mark} {reason}." for reason, mark in reasons.items())],
        text_columns=3 if len(places) == 1 else 4,
        records=records,
    )


_RECORDED = (
    "baseline", "metric", "reduction", "family", "comparisons", "difference", "low", "high", "p", "p_adjusted",
    "detectable", "margin", "verdict", "over", "reason", "mark",
)  # fmt: skip

COMPARISON = TableSpec(
    "comparison",
    "Difference from the baseline",
    "Paired by image and run, with simultaneous intervals, adjusted p values and verdicts; one table a family.",
    comparison_tables,
    place=10,
)

SCORES = TableSpec(
    "scores",
    "Scores of every segmenter and training set",
    "With 95 % intervals over images and training runs; one table a reduction.",
    score_tables,
    place=20,
)

CLINICAL = TableSpec(
    "scores-clinical",
    "Polyps found, false alarms and outlines",
    "The scores that a clinician asks for, with 95 % intervals.",
    clinical_tables,
    place=21,
)

BY_SIZE = TableSpec(
    "scores-by-size",
    "Scores by polyp size",
    "Thirds of the polyps of the fit role; images without a polyp are left out.",
    size_tables,
    place=22,
)

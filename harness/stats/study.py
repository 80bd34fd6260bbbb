"""The statistics of a study: a score with an interval for every arm, an effect with a verdict for every comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from harness.metrics.segmentation.confusion import quotient
from harness.metrics.segmentation.scores import size_of
from harness.metrics.spec import SegmentationMetric, segmentation_metric, segmentation_metrics
from harness.results.schema import LEVEL, score_columns
from harness.stats.design import Array, blocks
from harness.stats.estimator import NAN, Components
from harness.stats.score import NO_VALUE, Score
from harness.stats.sweep import Curve, Equivalent, Trend, adjust, curve, equivalent, trend
from harness.stats.verdicts import ArmKey, Effect, Mark, Pair, in_words, judge, unequal_notes

if TYPE_CHECKING:
    import pandas as pd

    from harness.results.schema import Comparison, StudyResults


def zero_division(results: StudyResults) -> float:
    """Return the study's score of an image without a pixel to divide by (1 when nothing is said)."""
    return float(results.facts.get("zero_division", 1.0))


def evaluated(results: StudyResults) -> list[tuple[str, str]]:
    """Return the (dataset, role) pairs that segmenters were scored on, in the order of the table."""
    rows = results.rows[results.rows["kind"] == "segmentation"]
    pairs = dict.fromkeys(zip(rows["dataset"].fillna("").astype(str), rows["role"].fillna("").astype(str), strict=True))
    named = [pair for pair in pairs if pair[0]]
    return named or list(pairs)


@dataclass(frozen=True)
class ArmRows:
    """What the table of results says of one arm.

    Attributes:
        planned: its training runs, as (seed, fold).
        leak: what was seen that should not have been, or an empty string.
        measured: its rows by metric and reduction.
    """

    planned: set[tuple[int, int]]
    leak: str
    measured: dict[tuple[str, str], pd.DataFrame]


def arm_rows(results: StudyResults) -> dict[ArmKey, ArmRows]:
    """Sort segmentation rows by arm, in the declared order; one that names no dataset (failed) counts for every one."""
    rows = results.rows[results.rows["kind"] == "segmentation"]
    where, roles = (rows[name].fillna("").astype(str) for name in ("dataset", "role"))
    found = {}
    for dataset, role in evaluated(results):
        here = rows[((where == dataset) & (roles == role)) | (where == "")]
        parts = {(str(s), str(r)): part for (s, r), part in here.groupby(["segmenter", "recipe"], sort=False)}
        for segmenter in results.segmenters:
            for recipe in results.recipes:
                part = parts.get((segmenter, recipe))
                if part is not None:
                    measured = {(str(m), str(r)): own for (m, r), own in part.groupby(["metric", "reduction"])}
                    found[ArmKey(dataset, role, segmenter, recipe)] = ArmRows(_runs(part), _leak(part), measured)
    return found


def _runs(rows: pd.DataFrame) -> set[tuple[int, int]]:
    """Return the distinct (seed, fold) of some rows."""
    return {(int(s), int(f)) for s, f in zip(rows["seed"], rows["fold"].fillna(0), strict=True)}


def _leak(rows: pd.DataFrame) -> str:
    """Return the leaks of some rows, each once."""
    return "; ".join(dict.fromkeys(str(v) for v in rows["leak"].dropna() if str(v)))


def _parts(table: pd.DataFrame, metric: SegmentationMetric, reduction: str, empty: float) -> tuple[Array, Array]:
    """Return each row's contribution above and below the fraction line."""
    above, below = (table[name].to_numpy(dtype=np.float64) for name in score_columns(metric.name))
    if reduction == "micro":
        return above, below
    score = quotient(above, below, empty)
    defined = ~np.isnan(score)
    return np.where(defined, score, 0.0), defined.astype(np.float64)


@dataclass(frozen=True)
class Measured:
    """What the per-image table says of every arm by one metric and reduction.

    Attributes:
        components: of each arm's block; arms that share the object are paired.
        problems: why the images of an arm cannot be used.
    """

    components: Mapping[ArmKey, Components]
    problems: Mapping[ArmKey, str]


def measure(results: StudyResults, metric: str, reduction: str) -> Measured:
    """Arrange the per-image table of a study for one metric, and estimate what images and runs do to its scores.

    Leaked arms are estimated apart from the others.

    Args:
        results: the study's; its ``images`` have the columns ``IMAGE_COLUMNS``.
        metric: such as ``iou``.
        reduction: one of :data:`harness.metrics.segmentation.scores.REDUCTIONS`; one by size takes the images of it.
    """
    spec, size, table = segmentation_metrics().get(metric), size_of(reduction), results.images
    if spec is None or not {*score_columns(metric), *(["size"] if size else [])} <= set(table.columns):
        return Measured({}, {})
    if size:
        table = table[table["size"] == size]
    if table.empty:
        return Measured({}, {})
    empty = spec.empty(zero_division(results))
    above, below = _parts(table, spec, reduction, empty)
    table = table.assign(arm=table["recipe"], replicate=table["seed"], numerator=above, denominator=below)
    leaked = _leaked(results)
    components: dict[ArmKey, Components] = {}
    problems: dict[ArmKey, str] = {}
    for place, rows in table.groupby(["dataset", "role", "segmenter"], sort=False, dropna=False):
        dataset, role, segmenter = (str(part) for part in place)
        found, wrong = blocks(rows, empty)
        problems |= {ArmKey(dataset, role, segmenter, arm): reason for arm, reason in wrong.items()}
        for block in found:
            seen = {arm for arm in block.arms if ArmKey(dataset, role, segmenter, arm) in leaked}
            for arms in (set(block.arms) - seen, seen):
                if arms:
                    known = Components(block.keep(tuple(arms)))
                    components |= {ArmKey(dataset, role, segmenter, arm): known for arm in known.block.arms}
    return Measured(components, problems)


def _leaked(results: StudyResults) -> set[ArmKey]:
    """Return the arms of which a score is marked as leaked."""
    rows = results.rows[(results.rows["kind"] == "segmentation") & results.rows["leak"].notna()]
    rows = rows[rows["leak"] != ""][list(ArmKey._fields)].drop_duplicates()
    return {ArmKey(*(str(part) for part in row)) for row in rows.itertuples(index=False)}


def _score(key: ArmKey, rows: ArmRows, known: Components | None, problem: str, metric: str, reduction: str) -> Score:
    """Summarise one arm."""
    finished = rows.measured.get((metric, reduction))
    valued = None if finished is None else finished[finished["value"].notna()]
    done, planned = set() if valued is None else _runs(valued), rows.planned
    score = Score(
        key,
        metric,
        reduction,
        runs=len(done),
        planned=len(planned),
        seeds=len({seed for seed, _ in planned}),
        images=known.block.images if known else 0,
        groups=len(known.block.groups) if known else 0,
        leak=rows.leak,
    )
    if finished is not None and not done and bool((finished["status"] == "done").all()):
        return replace(score, caveat=NO_VALUE)
    if valued is None or done != planned:
        return replace(score, caveat=f"incomplete {len(done)}/{len(planned)}: not averaged")
    values = valued["value"].to_numpy(dtype=np.float64)
    score = replace(
        score,
        mean=float(valued.groupby("fold")["value"].mean().mean()),
        spread=float(values.std(ddof=1)) if len(values) > 1 else NAN,
    )
    if problem or known is None:
        return replace(score, caveat=f"no interval: {problem}" if problem else "no per-image scores, so no interval")
    measured = known.score(key.recipe)
    if not abs(measured.value - score.mean) <= 1e-4:
        return replace(score, caveat=f"no interval: the per-image scores give {measured.value:.4f}")
    if np.isnan(measured.error):
        return replace(score, caveat="no interval: all images are in one group")
    spec, (low, high) = segmentation_metric(metric), measured.interval(LEVEL)
    caveat = ""
    if measured.run_error != measured.run_error:
        caveat = "one training run: the interval covers the choice of images, not the luck of training"
    return replace(score, low=max(low, spec.lower), high=min(high, spec.upper), caveat=caveat)


def scores(
    results: StudyResults,
    metric: str,
    reduction: str,
    measured: Measured | None = None,
    sorted_rows: dict[ArmKey, ArmRows] | None = None,
) -> list[Score]:
    """Return the score of every arm in the declared order (dataset, then segmenter, then recipe).

    The mean is that of ``results.rows`` over seeds, then folds; the interval comes from the per-image table and is left
    out, with the reason in ``caveat``, when that does not give the same number. Failed cells are never averaged away:
    an arm with one has no mean. ``sorted_rows`` are those of :func:`arm_rows` when they are at hand.
    """
    table = measured or measure(results, metric, reduction)
    rows = arm_rows(results) if sorted_rows is None else sorted_rows
    return [
        _score(key, own, table.components.get(key), table.problems.get(key, ""), metric, reduction)
        for key, own in rows.items()
    ]


def _training_steps(results: StudyResults, recipe: str) -> float | None:
    """Return the optimiser steps of a recipe, or a stand-in that differs when a budget in epochs makes them differ."""
    steps = results.facts.get("steps")
    if isinstance(steps, dict):
        return float(steps[recipe]) if recipe in steps else None
    if "epoch" not in str(results.facts.get("budget", "")).lower():
        return None
    rows = results.rows[results.rows["recipe"] == recipe]
    if rows.empty:
        return None
    first = rows.iloc[0]
    return float(np.nan_to_num(first["real"]) + np.nan_to_num(first["synthetic"]))


def _obstacle(results: StudyResults, score: Score, baseline: Score, marks: Mapping[ArmKey, Mark]) -> str:
    """Return why two arms cannot be compared, as far as their images do not tell, or an empty string."""
    for one in (score, baseline):
        if not one.complete:
            return f"missing cells ({one.key.recipe}: {one.runs}/{one.planned})"
    for one in (score, baseline):
        if one.leak:
            return f"leak ({one.key.recipe}: {one.leak})"
    unlearned = [marks[one.key] for one in (baseline, score) if _unlearned(marks, one.key)]
    if _unlearned(marks, baseline.key):
        whose = "" if len(unlearned) > 1 else f" of {baseline.key.recipe}"
        return f"the segmenters{whose} did not learn ({unlearned[0].why})"
    if _training_steps(results, score.key.recipe) != _training_steps(results, baseline.key.recipe):
        return "different budgets (steps follow the size of the training set, so more data is also more training)"
    return ""


def _unlearned(marks: Mapping[ArmKey, Mark], key: ArmKey) -> bool:
    """Say whether the segmenters of an arm are marked as having learned nothing."""
    return key in marks and marks[key].kind == "did not learn"


def effects(
    results: StudyResults,
    comparison: Comparison,
    listed: Sequence[Score],
    measured: Measured,
    marks: Mapping[ArmKey, Mark],
) -> list[Effect]:
    """Compare arms as one comparison of a study declares, paired by image and run; its family is corrected as one.

    Args:
        results: the study's.
        comparison: what is compared with what.
        listed: scores by its metric and reduction.
        measured: what the images say of these.
        marks: of arms whose segmenters did not learn, or had not finished to. With a baseline that did not learn
            nothing is compared. With one that did, an arm that did not is: data that keep a segmenter from it hurt.
    """
    by_key = {score.key: score for score in listed}
    pairs = []
    for key, score in by_key.items():
        against = comparison.baselines.get(key.recipe)
        if against is None or against == key.recipe:
            continue
        there = key._replace(recipe=against)
        baseline = by_key.get(there, Score(there, comparison.metric, comparison.reduction))
        mark = in_words(marks.get(key), key.recipe, marks.get(there), against)
        pairs.append(Pair(key, against, score.mean - baseline.mean, _obstacle(results, score, baseline, marks), mark))
    spec = segmentation_metric(comparison.metric)
    return judge(
        pairs,
        measured.components,
        family=comparison.name,
        metric=comparison.metric,
        reduction=comparison.reduction,
        better=-1.0 if spec.better == "lower" else 1.0,
        span=spec.span,
        margin=comparison.margin,
        level=comparison.level,
    )


def unequal_runs(measured: Measured) -> list[str]:
    """Return a sentence for each segmenter one of whose arms varies more from run to run than pooling can show."""
    found: dict[str, None] = {}
    for key, components in measured.components.items():
        found |= dict.fromkeys(unequal_notes(components, key.segmenter))
    return list(found)


def indistinguishable(listed: Sequence[Score], measured: Measured) -> tuple[set[ArmKey], set[ArmKey]]:
    """Return, for one metric, the best arms of each segmenter and the arms that cannot be told from the best.

    Whichever arm is truly the best is among both together in 95 % of studies (Hsu 1996, comparisons with the best;
    :meth:`harness.stats.estimator.Components.not_the_best`). Incomplete and leaked arms take no part.
    """
    best: set[ArmKey] = set()
    tied: set[ArmKey] = set()
    if not listed:
        return best, tied
    sign = -1.0 if segmentation_metric(listed[0].metric).better == "lower" else 1.0
    for place in dict.fromkeys((s.key.dataset, s.key.role, s.key.segmenter) for s in listed):
        rivals = [s for s in listed if s.key[:3] == place and s.complete and not s.leak and not np.isnan(s.mean)]
        if len(rivals) < 2:
            continue
        first = max(rivals, key=lambda s: sign * s.mean)
        best |= {s.key for s in rivals if f"{s.mean:.3f}" == f"{first.mean:.3f}"}
        known = measured.components.get(first.key)
        if known is None:
            continue
        worse = known.not_the_best(sign)
        tied |= {
            s.key
            for s in rivals
            if s.key not in best and measured.components.get(s.key) is known and s.key.recipe not in worse
        }
    return best, tied


@dataclass(frozen=True)
class Sweep:
    """One generator in growing numbers beside equal real images, for one segmenter.

    Attributes:
        place: dataset, role and segmenter.
        generator: its name.
        base: real images of every arm.
        recipes: of the arms, fewest synthetic images first; the first has none.
        trend: whether more is better, adjusted for all sweeps of the study.
        curve: through all points.
    """

    place: tuple[str, str, str]
    generator: str
    base: int
    recipes: tuple[str, ...]
    trend: Trend
    curve: Curve


@dataclass(frozen=True)
class Worth:
    """How many annotated images an arm's synthetic ones are worth."""

    key: ArmKey
    generator: str
    synthetic: int
    equivalent: Equivalent


def _recipe_facts(results: StudyResults) -> list[tuple[str, str, int, int, str]]:
    """Return label, kind of arm, real images, synthetic images and generator of each recipe."""
    rows = results.rows[results.rows["kind"] == "segmentation"].drop_duplicates("recipe")
    numbers = rows[["real", "synthetic"]].apply(lambda column: column.astype(str).replace("", "0")).astype(float)
    return [
        (str(label), str(arm), round(real), round(synthetic), str(generator))
        for label, arm, generator, real, synthetic in zip(
            rows["recipe"], rows["arm"], rows["generator"], numbers["real"], numbers["synthetic"], strict=True
        )
    ]


def _comparable_places(results: StudyResults, measured: Measured) -> list[tuple[tuple[str, str, str], Components]]:
    """Return dataset, role and segmenter with the components of the most arms that share runs and images there."""
    found: dict[tuple[str, str, str], Components] = {}
    for key, components in measured.components.items():
        known = found.get(key[:3])
        if components.units > 1 and (known is None or components.arms > known.arms):
            found[key[:3]] = components
    order = [(d, r, s) for d, r in evaluated(results) for s in results.segmenters]
    return [(place, found[place]) for place in order if place in found]


def sweeps(
    results: StudyResults, comparison: Comparison, measured: Measured, marks: Mapping[ArmKey, Mark]
) -> list[Sweep]:
    """Return the sweeps over numbers of synthetic images that a study has: three or more numbers, none included.

    Arms that were trained for another number of steps than their baseline take no part, and none whose baseline did not
    learn.
    """
    facts = _recipe_facts(results)
    alone = {label: real for label, arm, real, _, _ in facts if arm == "real"}
    found: list[Sweep] = []
    for place, components in _comparable_places(results, measured):
        lines: dict[tuple[str, str], dict[str, int]] = {}
        for label, arm, _, synthetic, generator in facts:
            against = comparison.baselines.get(label, "")
            fair = _training_steps(results, label) == _training_steps(results, against)
            fair &= not _unlearned(marks, ArmKey(*place, against))
            if arm == "mixed" and against in alone and fair and {label, against} <= set(components.block.arms):
                lines.setdefault((generator, against), {against: 0})[label] = synthetic
        for (generator, against), counts in lines.items():
            if len(set(counts.values())) == len(counts) > 2:
                fitted = curve(components, counts, comparison.margin)
                ordered = tuple(sorted(counts, key=lambda arm: counts[arm]))
                found.append(Sweep(place, generator, alone[against], ordered, trend(components, counts), fitted))
    trends = adjust([sweep.trend for sweep in found], comparison.level)
    return [replace(sweep, trend=one) for sweep, one in zip(found, trends, strict=True)]


def worths(results: StudyResults, measured: Measured, marks: Mapping[ArmKey, Mark]) -> list[Worth]:
    """Return how many annotated images the synthetic ones of each arm are worth, by the study's own learning curve.

    Arms of real images whose segmenters did not learn are no points of it.
    """
    facts = _recipe_facts(results)
    found = []
    for place, components in _comparable_places(results, measured):
        own = {label for label in components.block.arms if not _unlearned(marks, ArmKey(*place, label))}
        real = {label: count for label, arm, count, _, _ in facts if arm == "real" and count and label in own}
        steps = {_training_steps(results, label) for label in real}
        if len(real) < 2 or len(set(real.values())) < len(real) or len(steps) > 1:
            continue
        for label, arm, base, synthetic, generator in facts:
            if arm == "mixed" and label in own and base in real.values() and _training_steps(results, label) in steps:
                worth = equivalent(components, label, base, real)
                if worth is not None:
                    found.append(Worth(ArmKey(*place, label), generator, synthetic, worth))
    return found

"""The statistics of a study: a score with an interval for every arm, an effect with a verdict for every comparison."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from harness.metrics.spec import segmentation_metric
from harness.stats.arms import Arm, ArmKey, arms
from harness.stats.resampling import DRAWS, Estimate, estimate, holm, smallest_detectable, swap_test

if TYPE_CHECKING:
    import pandas as pd

    from harness.results.schema import StudyResults

Verdict = Literal["helps", "hurts", "no evidence either way", "not comparable"]

NAN = float("nan")
#: Caveat of a score that all runs have done and that no image has, such as one of small polyps where there are none.
NO_VALUE = "no image has a value"
LEVEL = 0.05
POWER = 0.8

#: How each verdict comes about; printed in every report.
RULES: dict[Verdict, str] = {
    "helps": f"after Holm's correction the paired test's p is at most {LEVEL} and the difference is for the better",
    "hurts": f"after Holm's correction the paired test's p is at most {LEVEL} and the difference is for the worse",
    "no evidence either way": (
        f"after Holm's correction p is above {LEVEL}; this does not show that there is no effect: the smallest effect "
        f"that the study would have found in {POWER * 100:.0f} % of repetitions stands beside it"
    ),
    "not comparable": (
        "cells are missing, a score is marked as leaked, the arms were trained for different numbers of steps or "
        "scored on different images, or there is one training run an arm, which cannot tell a recipe from the luck "
        "of a run; no test is made"
    ),
}


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
        arm: the per-image scores behind it.
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
    arm: Arm | None = field(default=None, repr=False, compare=False)

    @property
    def complete(self) -> bool:
        """Whether every planned run has a result."""
        return self.runs == self.planned and self.planned > 0


@dataclass(frozen=True)
class Effect:
    """The paired difference of one arm from its baseline.

    Attributes:
        key: which arm.
        baseline: recipe of the arm that it is compared with.
        metric: primary metric.
        reduction: its reduction.
        difference: arm minus baseline; NaN when it cannot be computed.
        low: lower end of its 95 % interval (not corrected for the number of comparisons).
        high: upper end.
        p: paired test, see :func:`harness.stats.resampling.swap_test`; NaN when not comparable.
        p_holm: after Holm's correction over all comparisons of the study.
        detectable: smallest effect found with 80 % power after the correction's first step.
        verdict: in words.
        reason: why it is not comparable, or an empty string.
    """

    key: ArmKey
    baseline: str
    metric: str
    reduction: str
    difference: float = NAN
    low: float = NAN
    high: float = NAN
    p: float = NAN
    p_holm: float = NAN
    detectable: float = NAN
    verdict: Verdict = "not comparable"
    reason: str = ""


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


def _measure(arm: Arm | None, rows: pd.DataFrame, draws: int) -> tuple[Estimate | None, str]:
    """Return an arm's estimate from its images, and what the interval cannot cover or why there is none."""
    if arm is None:
        return None, "no per-image scores, so no interval"
    if arm.problem:
        return None, f"no interval: {arm.problem}"
    measured = estimate(arm.folds, draws=draws)
    stated = float(rows.groupby("fold")["value"].mean().mean())
    if not abs(measured.value - stated) <= 1e-4:
        return None, f"no interval: the per-image scores give {measured.value:.4f}"
    if np.isnan(measured.low):
        return measured, "no interval: all images are in one group"
    if np.isnan(measured.run_error):
        return measured, "one training run: the interval covers the choice of images, not the luck of training"
    return measured, ""


def _score(key: ArmKey, rows: ArmRows, arm: Arm | None, metric: str, reduction: str, draws: int) -> Score:
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
        images=len({image for fold in arm.images for image in fold}) if arm else 0,
        groups=len({group for fold in arm.folds for group in fold.groups}) if arm else 0,
        leak=rows.leak,
        arm=arm,
    )
    if finished is not None and not done and bool((finished["status"] == "done").all()):
        return replace(score, caveat=NO_VALUE)
    if valued is None or done != planned:
        return replace(score, caveat=f"incomplete {len(done)}/{len(planned)}: not averaged")
    measured, caveat = _measure(arm, valued, draws)
    values = valued["value"].to_numpy(dtype=np.float64)
    score = replace(
        score,
        mean=float(valued.groupby("fold")["value"].mean().mean()),
        spread=float(values.std(ddof=1)) if len(values) > 1 else NAN,
        caveat=caveat,
    )
    if measured is None or np.isnan(measured.low):
        return score
    spec = segmentation_metric(metric)
    return replace(score, low=max(measured.low, spec.lower), high=min(measured.high, spec.upper))


def scores(
    results: StudyResults,
    metric: str,
    reduction: str,
    *,
    draws: int = DRAWS,
    sorted_rows: dict[ArmKey, ArmRows] | None = None,
) -> list[Score]:
    """Return the score of every arm in the declared order (dataset, then segmenter, then recipe).

    The mean is that of ``results.rows`` over seeds, then folds; the interval comes from the per-image table and is left
    out, with the reason in ``caveat``, when that does not give the same number. Failed cells are never averaged away:
    an arm with one has no mean. ``sorted_rows`` are those of :func:`arm_rows` when they are at hand.
    """
    table = arms(results.images, metric, reduction, zero_division(results))
    rows = arm_rows(results) if sorted_rows is None else sorted_rows
    return [_score(key, own, table.get(key), metric, reduction, draws) for key, own in rows.items()]


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


def _obstacle(results: StudyResults, score: Score, baseline: Score, pair: tuple[Arm, Arm] | None) -> str:
    """Return why two arms cannot be compared, or an empty string."""
    for one in (score, baseline):
        if not one.complete:
            return f"missing cells ({one.key.recipe}: {one.runs}/{one.planned})"
    for one in (score, baseline):
        if one.leak:
            return f"leak ({one.key.recipe}: {one.leak})"
    if pair is None:
        return "no per-image scores of the same seeds on the same images"
    if _training_steps(results, score.key.recipe) != _training_steps(results, baseline.key.recipe):
        return "different budgets (steps follow the size of the training set, so more data is also more training)"
    if score.groups < 2:
        return "all images are in one group"
    return "one training run an arm" if score.runs < 2 else ""


def _paired(one: Arm | None, other: Arm | None) -> tuple[Arm, Arm] | None:
    """Return two arms when they were scored by the same seeds on the same images, else None."""
    if one is None or other is None or one.problem or other.problem or one.images != other.images:
        return None
    same = [(f.seeds, f.groups) for f in one.folds] == [(f.seeds, f.groups) for f in other.folds]
    return (one, other) if same else None


def _effect(
    results: StudyResults, score: Score, baseline: Score, pair: tuple[Arm, Arm] | None, draws: int
) -> tuple[Effect, Estimate | None]:
    """Return one comparison before Holm's correction, and its estimate."""
    effect = Effect(
        score.key,
        baseline.key.recipe,
        score.metric,
        score.reduction,
        difference=score.mean - baseline.mean,
        reason=_obstacle(results, score, baseline, pair),
    )
    if pair is None or not (score.complete and baseline.complete):
        return effect, None
    difference = estimate(pair[0].folds, pair[1].folds, draws=draws)
    span = segmentation_metric(score.metric).span
    effect = replace(effect, low=max(difference.low, -span), high=min(difference.high, span))
    if not effect.reason:
        effect = replace(effect, p=swap_test(pair[0].folds, pair[1].folds, draws=draws))
    return effect, difference


def verdict(difference: float, p_holm: float, metric: str) -> Verdict:
    """Return the verdict on a difference in a metric by ``RULES``; NaN p means that it was not comparable."""
    if np.isnan(p_holm):
        return "not comparable"
    if p_holm > LEVEL or difference == 0:
        return "no evidence either way"
    return "helps" if (difference < 0) == (segmentation_metric(metric).better == "lower") else "hurts"


def effects(results: StudyResults, listed: list[Score] | None = None, *, draws: int = DRAWS) -> list[Effect]:
    """Compare every arm with its baseline on the primary metric, paired by image and seed.

    ``listed`` are the scores of the primary metric when they are at hand. Holm's correction runs over all comparisons
    that could be tested (segmenters, recipes and datasets): the declared family.
    """
    comparison = results.comparison
    metric, reduction = comparison.metric, comparison.reduction
    by_key = {score.key: score for score in listed or scores(results, metric, reduction, draws=draws)}
    measured: list[tuple[Effect, Estimate | None]] = []
    for key, score in by_key.items():
        against = comparison.baselines.get(key.recipe)
        if against is None or against == key.recipe:
            continue
        baseline_key = key._replace(recipe=against)
        baseline = by_key.get(baseline_key, Score(baseline_key, metric, reduction))
        pair = _paired(score.arm, baseline.arm)
        measured.append(_effect(results, score, baseline, pair, draws))
    adjusted = holm([effect.p for effect, _ in measured])
    family = max(1, int((~np.isnan(adjusted)).sum()))
    found = []
    for (effect, difference), p_holm in zip(measured, adjusted, strict=True):
        words = verdict(effect.difference, float(p_holm), metric)
        seen = smallest_detectable(difference, family=family) if difference and not np.isnan(p_holm) else NAN
        found.append(replace(effect, p_holm=float(p_holm), detectable=seen, verdict=words))
    return found


def indistinguishable(listed: list[Score]) -> tuple[set[ArmKey], set[ArmKey]]:
    """Return, for one metric, the best arms of each segmenter and the arms that cannot be told from them.

    An arm cannot be told from the best when the 95 % interval of their paired difference (normal theory, not corrected)
    holds zero. Incomplete and leaked arms take no part.
    """
    from scipy.stats import t

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
        for rival in rivals:
            pair = _paired(rival.arm, first.arm)
            if rival.key in best or pair is None:
                continue
            gap = estimate(pair[0].folds, pair[1].folds, draws=2)
            if abs(gap.value) <= t.ppf(0.975, gap.degrees) * gap.standard_error:
                tied.add(rival.key)
    return best, tied

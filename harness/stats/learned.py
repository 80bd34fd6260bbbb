"""Whether segmenters learned at all: their scores beside those of predictions that look at no image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from harness.metrics.spec import segmentation_metric
from harness.stats.verdicts import ArmKey, Mark

if TYPE_CHECKING:
    import pandas as pd

    from harness.results.schema import StudyResults
    from harness.stats.score import Score

#: How much a selection score may still rise at the last validation, where the study declares no margin.
RISE = 0.01

#: What tells whether an arm learned where the primary metric cannot.
_OTHERWISE = "iou", "micro-imagewise"


def trivial_scores(results: StudyResults, dataset: str, role: str, metric: str, reduction: str) -> dict[str, float]:
    """Return what predictions score that look at no image, by their names: means over folds.

    One without a score in some fold is left out; all are, in results from before they were scored.
    """
    rows = results.rows
    found = rows[(rows["kind"] == "trivial") & (rows["metric"] == metric) & (rows["reduction"] == reduction)]
    found = found[(found["dataset"] == dataset) & (found["role"] == role)]
    means = {
        str(name): part["value"].astype(float).mean(skipna=False) for name, part in found.groupby("cell", sort=False)
    }
    return {name: float(mean) for name, mean in means.items() if mean == mean}


def judged_by(results: StudyResults, places: Sequence[tuple[str, str]]) -> tuple[str, str]:
    """Return the metric and reduction that tell whether arms learned: the primary ones.

    Where a prediction that looks at no image has the best score there is, as *all polyp* has of recall, it is IoU.

    Args:
        results: the study's.
        places: datasets and roles that segmenters were scored on.
    """
    primary = results.comparison.metric, results.comparison.reduction
    spec = segmentation_metric(primary[0])
    best_there_is = spec.lower if spec.better == "lower" else spec.upper
    trivial = [value for place in places for value in trivial_scores(results, *place, *primary).values()]
    return _OTHERWISE if best_there_is in trivial else primary


def marks(results: StudyResults, scores: Sequence[Score]) -> dict[ArmKey, Mark]:
    """Return the arms whose segmenters did not learn, or had not finished to.

    An arm *did not learn* when its score is not above that of every trivial prediction by the whole of its interval, or
    when a run predicts one and the same mask for every image. It is *undertrained* when the score on the selection
    images still rose by more than the margin at the last validation, in the mean over its runs. What results from
    before do not say marks nothing.

    Args:
        results: the study's.
        scores: of every arm by :func:`judged_by`.
    """
    training = results.rows[results.rows["kind"] == "training"]
    known = {
        (str(d), str(r), str(s), str(recipe)): part
        for (d, r, s, recipe), part in training.groupby(["dataset", "role", "segmenter", "recipe"], sort=False)
    }
    spec = segmentation_metric(results.comparison.metric)
    # Selection goes by IoU, so a margin in pixels says nothing of it.
    declared = results.comparison.margin if spec.span <= 1 else RISE
    margin = declared if declared == declared else RISE
    found: dict[ArmKey, Mark] = {}
    for score in scores:
        trivial = trivial_scores(results, *score.key[:2], score.metric, score.reduction)
        own = known.get(score.key, training.iloc[:0])
        for mark in (_not_above(score, trivial), _constant(own), _still_rising(own, margin)):
            if mark is not None:
                found.setdefault(score.key, mark)
    return found


def _not_above(score: Score, trivial: Mapping[str, float]) -> Mark | None:
    """Say so when a score is not better than the best of some others by the whole of its interval."""
    if not trivial or score.mean != score.mean:
        return None
    spec = segmentation_metric(score.metric)
    sign = -1.0 if spec.better == "lower" else 1.0
    name = max(trivial, key=lambda one: sign * trivial[one])
    best, worse_end = trivial[name], score.low if sign > 0 else score.high
    has_interval = worse_end == worse_end
    if sign * ((worse_end if has_interval else score.mean) - best) > 0:
        return None
    interval = f" [{score.low:.3f}, {score.high:.3f}]" if has_interval else ""
    return Mark("did not learn", f"{spec.label} {score.mean:.3f}{interval} where {name} gives {best:.3f}")


def _values(training: pd.DataFrame, metric: str) -> pd.Series[float]:
    return training[training["metric"] == metric]["value"].astype(float).dropna()


def _constant(training: pd.DataFrame) -> Mark | None:
    """Say so when some runs predict one mask for every image."""
    values = _values(training, "constant")
    count = int(values.sum())
    return Mark("did not learn", f"one mask for every image in {count} of {len(values)} runs") if count else None


def _still_rising(training: pd.DataFrame, margin: float) -> Mark | None:
    """Say so when the selection score of some runs still rose."""
    rise = float(_values(training, "last-rise").mean())
    if not rise > margin:
        return None
    return Mark("undertrained", f"the selection score still rose by {rise:.3f} at the last validation")

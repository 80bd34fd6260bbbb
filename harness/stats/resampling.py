"""Intervals and paired tests for scores of several training runs (seeds) on one set of images.

The model behind all of it is the crossed one of multi-reader studies, ``score[s, i] = mean + run[s] + image[i] +
rest[s, i]``, with images clustered in groups (patient, video, near-duplicates): every run is scored on the same images,
so neither the images of one run nor the runs on one image are independent. Two sources of chance are kept apart because
they differ in number:

* **images**: many groups, so they are resampled (Bayesian bootstrap, Rubin 1981; one weight a group for all runs, as in
  Owen and Eckles 2012, "Bootstrapping data arrays of arbitrary order");
* **training runs**: three or five, too few to resample (a bootstrap of three values is far too narrow), so their
  variance component is estimated and enters with Student's t and its few degrees of freedom.

Both reductions are ratios of sums, so one code serves them: ``micro`` divides summed pixel counts, ``micro-imagewise``
divides summed image scores by their number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

DRAWS = 10_000
NAN = float("nan")


@dataclass(frozen=True)
class Fold:
    """What one arm scored in one fold, summed within groups.

    A run's score is ``numerators.sum() / denominators.sum()`` over groups.

    Attributes:
        seeds: S training seeds, the rows.
        groups: G group names, the columns.
        numerators: float64 (S, G): summed image scores, or summed counts above the fraction line.
        denominators: float64 (S, G): number of images, or summed counts below the fraction line.
        empty: the score where the denominator is zero (``zero_division``).
    """

    seeds: tuple[int, ...]
    groups: tuple[str, ...]
    numerators: Array
    denominators: Array
    empty: float = 1.0

    def ratio(self, numerators: Array, denominators: Array) -> Array:
        """Divide, with ``empty`` where there is nothing to divide by."""
        whole = denominators > 0
        return np.where(whole, numerators / np.where(whole, denominators, 1.0), self.empty)

    def scores(self) -> Array:
        """Return each run's score, (S,)."""
        return self.ratio(self.numerators.sum(axis=1), self.denominators.sum(axis=1))

    def reweighted(self, weights: Array) -> Array:
        """Return each run's score under B sets of group weights (B, G), as (B, S)."""
        return self.ratio(weights @ self.numerators.T, weights @ self.denominators.T)

    def influence(self) -> Array:
        """Return how far each group moves each run's score, (S, G): the delta method for a ratio; rows sum to zero."""
        total = self.denominators.sum(axis=1, keepdims=True)
        centred = self.numerators - self.scores()[:, None] * self.denominators
        return np.divide(centred, total, out=np.zeros_like(centred), where=total > 0)


@dataclass(frozen=True)
class Estimate:
    """A mean over runs (or a difference of two) with its uncertainty.

    Attributes:
        value: mean over folds of the mean over seeds.
        low: lower end of the interval; NaN when there is one group only.
        high: upper end.
        standard_error: of ``value``, over images and runs.
        degrees: Welch-Satterthwaite degrees of freedom of ``standard_error``.
        image_error: the part of ``standard_error`` that the choice of images explains.
        groups: number of groups resampled.
        run_degrees: degrees of freedom of ``run_error``; 0 for a single run.
        run_error: the part that the luck of a training run explains; NaN when there is a single run, which cannot show
            it.
    """

    value: float
    low: float
    high: float
    standard_error: float
    degrees: float
    image_error: float
    run_error: float
    groups: int
    run_degrees: int


@lru_cache(maxsize=8)
def _weights(groups: int, draws: int, seed: int) -> Array:
    """Return exponential group weights (B, G): Dirichlet once normalised, and never all zero within a fold."""
    return np.random.default_rng((seed, 1)).standard_exponential((draws, groups))


@lru_cache(maxsize=8)
def _swaps(groups: int, draws: int, seed: int) -> Array:
    """Return random choices of groups whose arms are swapped, 0 or 1, (B, G)."""
    return np.random.default_rng((seed, 2)).integers(0, 2, (draws, groups)).astype(np.float64)


@lru_cache(maxsize=32)
def _student(degrees: int, draws: int, seed: int) -> Array:
    """Return draws (B,) from Student's t."""
    return np.random.default_rng((seed, 3)).standard_t(degrees, draws)


def _positions(folds: Sequence[Fold]) -> tuple[list[NDArray[np.intp]], int]:
    """Number the groups over all folds; a group that is in several folds has one number."""
    number: dict[str, int] = {}
    places = [np.array([number.setdefault(g, len(number)) for g in fold.groups], dtype=np.intp) for fold in folds]
    return places, len(number)


def _check_pairing(arm: Sequence[Fold], baseline: Sequence[Fold]) -> None:
    """Raise ValueError unless both arms have the same folds, seeds and groups in the same order."""
    if [(f.seeds, f.groups) for f in arm] != [(f.seeds, f.groups) for f in baseline]:
        raise ValueError("paired arms must have the same folds, seeds and groups")


def _run_values(arm: Sequence[Fold], baseline: Sequence[Fold] | None) -> tuple[list[Array], list[Array]]:
    """Return for each fold the runs' scores (S,) and influences (S, G), or their paired differences."""
    values, influences = [f.scores() for f in arm], [f.influence() for f in arm]
    if baseline is not None:
        values = [v - f.scores() for v, f in zip(values, baseline, strict=True)]
        influences = [i - f.influence() for i, f in zip(influences, baseline, strict=True)]
    return values, influences


def _run_error(values: list[Array], influences: list[Array]) -> tuple[float, int]:
    """Return the standard error that training runs add to the mean, and its degrees of freedom.

    Runs on the same images differ by their own effect and by the run-by-image interaction; the image part of the error
    already holds the latter, so it is taken off (the variance components of a crossed design; Cameron, Gelbach and
    Miller 2011 subtract the same term). With one seed in each of several folds, folds stand in for seeds.
    """
    folds = len(values)
    degrees = sum(len(v) - 1 for v in values)
    if degrees == 0 and folds > 1:
        means = np.array([v[0] for v in values])
        within = np.mean([_spread(i[0]) for i in influences])
        return float(np.sqrt(max(means.var(ddof=1) - within, 0.0) / folds)), folds - 1
    if degrees == 0:
        return NAN, 0
    variance = 0.0
    for value, influence in zip(values, influences, strict=True):
        if len(value) > 1:
            rest = influence - influence.mean(axis=0)
            interaction = sum(_spread(row) for row in rest) / (len(value) - 1)
            variance += (value.var(ddof=1) - interaction) / len(value)
    return float(np.sqrt(max(variance, 0.0)) / folds), degrees


def _spread(influence: Array) -> float:
    """Return the variance of a sum of centred group contributions (G,), unbiased for few groups."""
    groups = len(influence)
    return float((influence**2).sum() * groups / (groups - 1)) if groups > 1 else 0.0


def _image_variance(influences: list[Array], places: list[NDArray[np.intp]], groups: int) -> float:
    """Return the variance of the mean over folds and runs that the choice of groups explains."""
    contribution = np.zeros(groups)
    for place, influence in zip(places, influences, strict=True):
        contribution[place] += influence.mean(axis=0) / len(influences)
    return _spread(contribution)


def _reweighted_means(arm: Sequence[Fold], baseline: Sequence[Fold] | None, draws: int, seed: int) -> Array:
    """Return the mean (or mean difference) over folds and runs under random group weights, (B,)."""
    places, groups = _positions(arm)
    weights = _weights(groups, draws, seed)
    means = np.zeros(draws)
    for index, place in enumerate(places):
        means += arm[index].reweighted(weights[:, place]).mean(axis=1)
        if baseline is not None:
            means -= baseline[index].reweighted(weights[:, place]).mean(axis=1)
    return means / len(arm)


def estimate(
    arm: Sequence[Fold],
    baseline: Sequence[Fold] | None = None,
    *,
    level: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
) -> Estimate:
    """Estimate an arm's mean score, or its paired difference from a baseline, with an interval over images and runs.

    Each draw reweights the groups (the same weights for every run and both arms), scales the deviation for few groups
    (Hesterberg 2015, expanded percentile interval), and adds the runs' error times a draw from Student's t.

    Limits: with a single run the interval covers the choice of images only. With two runs Student's t has one degree of
    freedom and intervals are very wide wherever runs visibly differ; that is what two runs know. With folds, training
    sets overlap, which no interval from the same data can cover (Bengio and Grandvalet 2004).

    Args:
        arm: one entry a fold.
        baseline: what it is compared with, of the same folds, seeds and groups.
        level: of the interval.
        draws: number of bootstrap draws.
        seed: of the draws; equal input gives equal output.

    Raises:
        ValueError: the arms are not paired.
    """
    from scipy.stats import norm, t

    if baseline is not None:
        _check_pairing(arm, baseline)
    values, influences = _run_values(arm, baseline)
    value = float(np.mean([v.mean() for v in values]))
    run_error, run_degrees = _run_error(values, influences)
    places, groups = _positions(arm)
    if groups < 2:
        return Estimate(value, NAN, NAN, NAN, NAN, NAN, run_error, groups, run_degrees)
    image_variance = _image_variance(influences, places, groups)
    run_variance = 0.0 if np.isnan(run_error) else run_error**2
    variance = image_variance + run_variance
    parts = image_variance**2 / (groups - 1) + (run_variance**2 / run_degrees if run_degrees else 0.0)
    degrees = variance**2 / parts if parts > 0 else float(groups - 1)
    tail = (1 + level) / 2
    # Exponential weights shrink the variance by (G - 1) / (G + 1), and few groups need t's quantiles, not the normal's.
    expansion = np.sqrt((groups + 1) / (groups - 1)) * t.ppf(tail, groups - 1) / norm.ppf(tail)
    deviations = (_reweighted_means(arm, baseline, draws, seed) - value) * expansion
    if run_variance > 0:
        deviations = deviations + run_error * _student(run_degrees, draws, seed)
    low, high = value + np.quantile(deviations, [1 - tail, tail])
    return Estimate(
        value,
        float(low),
        float(high),
        variance**0.5,
        float(degrees),
        image_variance**0.5,
        run_error,
        groups,
        run_degrees,
    )


def _all_swaps(groups: int) -> Array:
    """Return every choice of groups, (2**G, G)."""
    return ((np.arange(2**groups)[:, None] >> np.arange(groups)) & 1).astype(np.float64)


def _swapped_differences(arm: Sequence[Fold], baseline: Sequence[Fold], swaps: Array) -> Array:
    """Return the mean paired difference after exchanging the arms in the chosen groups, (B,)."""
    places, _ = _positions(arm)
    differences = np.zeros(len(swaps))
    for one, other, place in zip(arm, baseline, places, strict=True):
        chosen = swaps[:, place]
        up = chosen @ (other.numerators - one.numerators).T
        down = chosen @ (other.denominators - one.denominators).T
        first = one.ratio(one.numerators.sum(axis=1) + up, one.denominators.sum(axis=1) + down)
        second = other.ratio(other.numerators.sum(axis=1) - up, other.denominators.sum(axis=1) - down)
        differences += (first - second).mean(axis=1) / len(arm)
    return differences


def swap_test(arm: Sequence[Fold], baseline: Sequence[Fold], *, draws: int = DRAWS, seed: int = 0) -> float:
    """Return the two-sided p value of a paired permutation test, clustered by group, that knows about training runs.

    Null hypothesis: over new images and new training runs, the arms score the same. Under it the two arms are
    exchangeable within a group of images, so the difference is recomputed with the arms swapped in random groups (for
    all seeds of a group at once: runs on one image are not independent; for ``micro-imagewise`` this is the sign-flip
    test on group sums). Swapping images cannot show that every image would have moved together had the training gone
    otherwise; the runs' own error, estimated from the paired differences between runs, is therefore added to each draw
    with Student's t. When runs do not differ beyond what their images explain, the test is the permutation test, and
    exact (all swaps are tried) for at most 13 groups.

    Limits: with one run the null is only about these two trained models, not about their recipes. With two runs (one
    degree of freedom) p seldom falls below 0.05 where runs visibly differ. Sign flips assume that differences are
    symmetric under the null, which matters for fewer than about 20 groups. p is never below ``1 / (draws + 1)`` or,
    when exact, ``2 / 2**groups``.

    Raises:
        ValueError: the arms are not paired.
    """
    _check_pairing(arm, baseline)
    values, influences = _run_values(arm, baseline)
    observed = abs(float(np.mean([v.mean() for v in values])))
    run_error, degrees = _run_error(values, influences)
    _, groups = _positions(arm)
    noisy = not np.isnan(run_error) and run_error > 0
    exact = not noisy and 2**groups <= draws
    null = _swapped_differences(arm, baseline, _all_swaps(groups) if exact else _swaps(groups, draws, seed))
    if noisy:
        null = null + run_error * _student(degrees, draws, seed)
    # Differences that are equal but summed in another order must count as equal.
    extreme = int((np.abs(null) >= observed - 1e-12).sum())
    return extreme / len(null) if exact else (extreme + 1) / (len(null) + 1)


def holm(p_values: Sequence[float]) -> Array:
    """Return Holm's (1979) step-down adjusted p values; NaN stays NaN and is not in the family."""
    p = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full(p.shape, np.nan)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    steps = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * steps), 1.0)
    return adjusted


def smallest_detectable(measured: Estimate, *, family: int = 1, level: float = 0.05, power: float = 0.8) -> float:
    """Return the smallest true difference that a repetition would find significant with probability ``power``.

    ``critical value + t[power] * standard error``, the critical value being that of :func:`swap_test` at ``level /
    family``: the first step of Holm's correction, so the effect would be seen whatever the other comparisons show. It
    is Cochran's (1964) for a sum of two errors with their own degrees of freedom, and the image error is the one that
    swapping arms gives, which holds the difference itself (its square over the number of groups). With many images and
    runs that agree this is the textbook ``(1.96 + 0.84) * standard error``.
    """
    from scipy.stats import t

    if np.isnan(measured.standard_error) or measured.groups < 2:
        return NAN
    run_variance = 0.0 if np.isnan(measured.run_error) else measured.run_error**2
    tail = 1 - level / (2 * family)
    image_quantile = t.ppf(tail, measured.groups - 1)
    run_quantile = t.ppf(tail, measured.run_degrees) if measured.run_degrees else 0.0
    effect = 0.0
    for _ in range(20):
        image_variance = measured.image_error**2 + effect**2 / measured.groups
        variance = image_variance + run_variance
        if variance == 0:
            return 0.0
        critical = (image_quantile * image_variance + run_quantile * run_variance) / np.sqrt(variance)
        effect = critical + t.ppf(power, measured.degrees) * measured.standard_error
    return float(effect)

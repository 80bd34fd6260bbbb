"""How much: what a sweep over numbers of synthetic images says as a whole, and how many real images they are worth.

The best of many points is a number that luck chose. Three questions are asked of all points together instead:

* is there a trend? One contrast over the arms of a sweep, weighted by the rank of their counts, without synthetic
  images first: one test a sweep, however many points it has;
* how much is enough? A curve that rises (or falls) towards a level, ``b + g (1 - exp(-n / tau))``, with a band from
  draws of the arms' scores by their estimated covariance;
* how many real images is it worth? The number of annotated images at which real-only arms of the same study reach the
  same score, on their learning curve (straight between its points, over the logarithm of the count). Its interval
  holds the numbers that a test of the arm against the curve does not reject (Fieller's way): no derivative is needed,
  and where the curve is too flat to tell, the interval is open.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from harness.results.schema import LEVEL
from harness.stats.design import Array
from harness.stats.estimator import NAN, Components, Estimate, adjusted

_DRAWS = 2000
_POINTS = 60
#: Share of the whole gain that is enough, where no margin says how little does not matter.
_ENOUGH = 0.95


@dataclass(frozen=True)
class Trend:
    """Whether more of something is better, over all points of a sweep.

    Attributes:
        arms: of the sweep, fewest first, the one without any included.
        counts: of each.
        estimate: of the contrast; positive where scores rise with counts.
        p: two-sided.
        p_adjusted: for all sweeps that are tested together.
        level: error rate of all of them.
    """

    arms: tuple[str, ...]
    counts: tuple[int, ...]
    estimate: Estimate
    p: float
    p_adjusted: float = NAN
    level: float = LEVEL

    @property
    def found(self) -> bool:
        """Whether there is a trend, by the adjusted p value."""
        return self.p_adjusted <= self.level


@dataclass(frozen=True)
class Curve:
    """A curve towards a level, through the points of a sweep, with its band.

    Attributes:
        counts: float64 (P,), from 0 to the largest count of the sweep.
        scores: float64 (P,).
        low: float64 (P,), lower edge of the pointwise 95 % band.
        high: float64 (P,), upper edge.
        gain: of the largest count over none, on the curve, with its interval.
        enough: count from which on the curve gains no more than matters, with its interval; the largest count where
            that lies beyond it.
    """

    counts: Array
    scores: Array
    low: Array
    high: Array
    gain: tuple[float, float, float]
    enough: tuple[float, float, float]


@dataclass(frozen=True)
class Equivalent:
    """How many annotated images more (or fewer) would give an arm's score.

    Attributes:
        base: real images that the arm has itself.
        extra: how many more, with the interval's ends.
        open: whether each of the three lies outside the numbers of real images of the study: then it is the bound.
    """

    base: int
    extra: tuple[float, float, float]
    open: tuple[bool, bool, bool]


def trend(components: Components, counts: Mapping[str, int]) -> Trend:
    """Test whether scores rise or fall with counts.

    Args:
        components: of the block that holds the arms.
        counts: of each arm of the sweep; at least three, distinct.

    Raises:
        ValueError: there are fewer than three, or two of one count.
    """
    arms = sorted(counts, key=lambda arm: counts[arm])
    numbers = tuple(counts[arm] for arm in arms)
    if len(arms) < 3 or len(set(numbers)) < len(arms):
        raise ValueError(f"a trend needs three or more different counts, got {numbers}")
    ranks = np.arange(len(arms)) - (len(arms) - 1) / 2
    weights = np.zeros(components.arms)
    for arm, rank in zip(arms, ranks / np.abs(ranks).sum() * 2, strict=True):
        weights[components.block.arms.index(arm)] = rank
    estimate = components.contrast(weights)
    return Trend(tuple(arms), numbers, estimate, estimate.p())


def adjust(trends: Sequence[Trend], level: float = LEVEL) -> list[Trend]:
    """Return trends with p values adjusted for all of them, to be found at an error rate of all together."""
    tested = sum(one.p == one.p for one in trends)
    return [replace(one, p_adjusted=adjusted(one.p, tested), level=level) for one in trends]


def curve(components: Components, counts: Mapping[str, int], margin: float = NAN, seed: int = 0) -> Curve:
    """Fit a curve towards a level to the points of a sweep.

    Args:
        components: of the block that holds the arms.
        counts: of each arm of the sweep; at least three, one of them 0.
        margin: gain that does not matter; NaN where 95 % of the whole gain are enough.
        seed: of the draws; equal input gives equal output.
    """
    arms = sorted(counts, key=lambda arm: counts[arm])
    at = [components.block.arms.index(arm) for arm in arms]
    x = np.array([counts[arm] for arm in arms], dtype=np.float64)
    means = components.scores.mean(axis=1)[at]
    rng = np.random.default_rng((seed, 4))
    root = np.linalg.cholesky(components.covariance()[np.ix_(at, at)] + 1e-18 * np.eye(len(at)))
    degrees = components.contrast(_ends(components, at)).degrees
    # One draw of the error's own luck for all arms: a multivariate t.
    luck = np.sqrt(degrees / rng.chisquare(degrees, (_DRAWS, 1)))
    drawn = np.vstack([means, means + luck * (rng.standard_normal((_DRAWS, len(at))) @ root.T)])
    taus = np.geomspace(x[1] / 4, 4 * x[-1], 40)
    best = np.full(len(drawn), np.inf)
    parameters = np.zeros((len(drawn), 3))
    for tau in taus:
        design = np.stack([np.ones_like(x), 1 - np.exp(-x / tau)], axis=1)
        fitted = drawn @ np.linalg.pinv(design).T
        rest = ((drawn - fitted @ design.T) ** 2).sum(axis=1)
        closer = rest < best
        best[closer] = rest[closer]
        parameters[closer] = np.column_stack([fitted[closer], np.full(closer.sum(), tau)])
    level, gain, tau = parameters.T[:, :, None]
    shown = np.linspace(0, x[-1], _POINTS)
    lines = level + gain * (1 - np.exp(-shown / tau))
    low, high = np.quantile(lines[1:], [LEVEL / 2, 1 - LEVEL / 2], axis=0)
    reached = gain[:, 0] * (1 - np.exp(-x[-1] / tau[:, 0]))
    missing = np.full(len(drawn), 1 - _ENOUGH)
    if margin == margin:
        missing = np.clip(margin / np.maximum(np.abs(gain[:, 0]), 1e-12), 1e-9, 1.0)
    enough = np.minimum(-tau[:, 0] * np.log(missing), x[-1])
    return Curve(shown, lines[0], low, high, _with_interval(reached), _with_interval(enough))


def _ends(components: Components, at: Sequence[int]) -> Array:
    weights = np.zeros(components.arms)
    weights[at[-1]], weights[at[0]] = 1.0, -1.0
    return weights


def _with_interval(drawn: Array) -> tuple[float, float, float]:
    """Return the value (drawn first) and the ends of its interval."""
    low, high = np.quantile(drawn[1:], [LEVEL / 2, 1 - LEVEL / 2])
    return float(drawn[0]), float(low), float(high)


def equivalent(components: Components, arm: str, base: int, real: Mapping[str, int]) -> Equivalent | None:
    """Return how many annotated images more than it has an arm's score is worth.

    Args:
        components: of the block that holds all arms.
        arm: with synthetic images.
        base: real images that it has.
        real: real-only arms and their counts, at least two; all above zero.

    Returns:
        None when there is one unit of runs, or the learning curve does not rise from its first to its last point.
    """
    arms = sorted(real, key=lambda name: real[name])
    counts = np.log([real[name] for name in arms])
    at = [components.block.arms.index(name) for name in arms]
    own = components.block.arms.index(arm)
    means = components.scores.mean(axis=1)
    if components.units < 2 or not means[at[-1]] > means[at[0]]:
        return None
    grid = np.unique(np.concatenate([np.linspace(counts[0], counts[-1], 200), counts]))
    place = np.clip(np.searchsorted(counts, grid, side="right") - 1, 0, len(counts) - 2)
    share = (grid - counts[place]) / (counts[place + 1] - counts[place])
    gaps, accepted = np.empty(len(grid)), np.empty(len(grid), bool)
    for i, (left, part) in enumerate(zip(place, share, strict=True)):
        weights = np.zeros(components.arms)
        weights[own] += 1
        weights[at[left]] -= 1 - part
        weights[at[left + 1]] -= part
        estimate = components.contrast(weights)
        gaps[i], accepted[i] = estimate.value, not estimate.p() < LEVEL
    number = np.exp(grid) - base
    # Where the curve falls somewhere, the first number that reaches the score counts.
    reaches = np.flatnonzero(gaps <= 0)
    if len(reaches):
        point, point_open = float(number[reaches[0]]), reaches[0] == 0 and gaps[0] < 0
    else:
        point, point_open = float(number[-1]), True
    inside = np.flatnonzero(accepted)
    if len(inside):
        first, last = int(inside[0]), int(inside[-1])
        low_open, high_open = first == 0, last == len(grid) - 1
    else:
        # Shown to be worth more than all there are, or fewer than the fewest.
        first = last = len(grid) - 1 if gaps[-1] > 0 else 0
        low_open, high_open = gaps[-1] <= 0, gaps[-1] > 0
    ends = (point, float(number[first]), float(number[last]))
    return Equivalent(base, ends, (bool(point_open), bool(low_open), bool(high_open)))

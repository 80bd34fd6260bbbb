"""Scores of several runs on one set of images: how far they, and differences between them, are from chance.

The estimator is that of multi-reader studies: Obuchowski and Rockette (1995, Communications in Statistics 24:285) with
the degrees of freedom of Hillis (2007, Statistics in Medicine 26:596); runs stand for readers, images (by group:
patient, video, near-duplicates) for cases. With A arms, U units of runs (:mod:`harness.stats.design`) and ``m[a, u]``
the score of an arm in a unit:

* what runs do to a difference is one mean square over all arms, ``sum (m[a,u] - m[a,.] - m[.,u] + m[.,.])^2 /
  ((A - 1)(U - 1))``. Two or three runs of two arms say next to nothing of it; two or three runs of eight arms do.
  Nothing is ever taken off it, so it is never zero because an estimate happened to fall below; and where the arms that
  are compared vary more than that by themselves, their own mean squares stand in its place;
* what images do to a difference comes from the influence of each group (the delta method for a ratio), which serves
  means over images and ratios of summed pixels alike. The share that runs and images make together is in both parts,
  so it is taken off this one.

One t distribution, with Satterthwaite's degrees of freedom for the sum of both parts, gives interval, p value,
detectable effect and equivalence, so that they cannot contradict each other.

Limits: two runs of an arm cannot show that it varies far more than the others; with a sixfold range of deviations, two
replicates give false alarms in 8 or 9 % of studies where 5 % are promised (``benchmarks/statistics.py``), and
:meth:`Components.unequal` says where it is visible. With folds, training sets overlap, which no estimate from the same
data covers (Bengio and Grandvalet 2004).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from harness.results.schema import LEVEL
from harness.stats.design import Array, Block

NAN = float("nan")
POWER = 0.8
#: Below this a difference or an error is the rounding of sums of float64.
_ROUNDING = 1e-12
_UNEQUAL_LEVEL = 0.01


@dataclass(frozen=True)
class Estimate:
    """A score, or a difference of scores, with its uncertainty.

    Attributes:
        value: mean over units of the mean over their runs.
        error: its standard error, over images and runs; NaN when there is one group of images.
        degrees: of freedom of ``error``.
        image_error: the part of ``error`` that the choice of images explains, the share of single runs taken off.
        run_error: the part that the luck of runs explains; NaN for one unit, which cannot show it.
        units: number of units.
        groups: number of groups of images.
    """

    value: float
    error: float
    degrees: float
    image_error: float
    run_error: float
    units: int
    groups: int

    def interval(self, level: float = LEVEL, family: int = 1) -> tuple[float, float]:
        """Return the ends of the interval of error rate ``level``, simultaneous for a family (Bonferroni)."""
        half = _quantile(1 - level / (2 * family), self.degrees) * self.error
        return self.value - half, self.value + half

    def p(self) -> float:
        """Return the two-sided p value of no difference; NaN when nothing varies and so nothing can be tested."""
        from scipy.special import stdtr

        if not self.error > _ROUNDING:
            return 1.0 if self.error == self.error and abs(self.value) <= _ROUNDING else NAN
        return float(2 * stdtr(self.degrees, -abs(self.value) / self.error))

    def detectable(self, level: float = LEVEL, family: int = 1, power: float = POWER) -> float:
        """Return the smallest true difference that a repetition would find with probability ``power``.

        The shift of the noncentral t at which its critical value is passed that often (Johnson and Welch 1940), times
        the error. The error is a draw too, and more often too small than too large: it is brought to where it is as
        often one as the other (Wilson and Hilferty's median of chi-square). With many degrees of freedom this is the
        textbook ``(1.96 + 0.84) * error``.
        """
        from scipy.special import ndtri

        critical, degrees = _quantile(1 - level / (2 * family), self.degrees), max(self.degrees, 1.0)
        shift = critical * (1 - 1 / (4 * degrees)) + ndtri(power) * np.sqrt(1 + critical**2 / (2 * degrees))
        return float(shift * (1 - 2 / (9 * degrees)) ** -1.5 * self.error)

    def within(self, margin: float, level: float = LEVEL, family: int = 1) -> bool:
        """Say whether the difference is shown to be smaller than a margin: two one-sided tests (Schuirmann 1987)."""
        low, high = self.interval(2 * level, family)
        return -margin < low and high < margin


def _quantile(probability: float, degrees: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(degrees, probability)) if degrees > 0 else NAN


class Components:
    """What images and what runs do to the scores of a block's arms, estimated once for all differences.

    Args:
        block: arms scored by the same runs on the same images; leave out those that are not to be compared.
    """

    def __init__(self, block: Block) -> None:
        self.block = block
        self.scores = block.unit_scores()
        self.influence = block.unit_influence()
        self.arms, self.units = self.scores.shape
        self._image_degrees = block.image_degrees()

    @property
    def varies(self) -> bool:
        """Whether any score differs from another over images or runs, beyond the rounding of sums."""
        return bool(np.ptp(self.scores) > _ROUNDING or np.abs(self.influence).max() > _ROUNDING)

    @cached_property
    def run_square(self) -> float:
        """The mean square of arms by units; NaN with one unit or one arm."""
        return _mean_square(self.scores, self.run_degrees)

    @cached_property
    def run_image_square(self) -> float:
        """The part of ``run_square`` that is expected from the choice of images alone."""
        return _mean_square(self.influence, self.run_degrees)

    @cached_property
    def own_squares(self) -> Array:
        """The mean square of each arm by units, (A,); their mean is ``run_square``."""
        squares = (_interaction(self.scores) ** 2).sum(axis=1)
        return squares * self.arms / self.run_degrees if self.run_degrees else np.full(self.arms, NAN)

    @property
    def run_degrees(self) -> int:
        """Degrees of freedom of ``run_square``."""
        return (self.arms - 1) * (self.units - 1)

    def contrast(self, weights: Sequence[float] | Array) -> Estimate:
        """Estimate a sum of the arms' scores with weights that sum to zero, such as one arm less another.

        Args:
            weights: (A,).

        Raises:
            ValueError: they do not sum to zero, so that what runs do to all arms alike would matter.
        """
        by = np.asarray(weights, dtype=np.float64)
        if abs(by.sum()) > 1e-9 * max(1.0, np.abs(by).sum()):
            raise ValueError("the weights of a contrast sum to zero")
        total = float((by**2).sum())
        square = max(total * self.run_square, float(by**2 @ self.own_squares)) / self.units
        shared = total * self.run_image_square / self.units if self.run_degrees else 0.0
        return self._estimate(by, shared, [(square, self.run_degrees)])

    def projected(self, arm: str, baseline: str, units: int) -> Estimate:
        """Estimate a difference as if it had another number of units, by what images and units do to it now.

        Args:
            arm: of which the score.
            baseline: less this one's.
            units: how many, at least two.
        """
        weights = np.zeros(self.arms)
        weights[self.block.arms.index(arm)] += 1
        weights[self.block.arms.index(baseline)] -= 1
        now = self.contrast(weights)
        by_runs = now.run_error**2 * self.units / units
        images = now.image_error**2 + 2 * self.run_image_square / units
        variance = now.image_error**2 + by_runs
        spread = images**2 / self._image_degrees + by_runs**2 / ((self.arms - 1) * (units - 1))
        degrees = variance**2 / spread if spread > 0 else now.degrees
        degrees = max(degrees, float(min(self._image_degrees, (self.arms - 1) * (units - 1))))
        return Estimate(now.value, variance**0.5, degrees, now.image_error, by_runs**0.5, units, now.groups)

    def covariance(self) -> Array:
        """Return the covariance (A, A) of the arms' scores, without what runs do to all arms alike.

        Its contrasts have about the variances of :meth:`contrast`; for curves through many arms.
        """
        images = self.influence.mean(axis=1)
        runs = max(self.run_square - self.run_image_square, 0.0) / self.units if self.run_degrees else 0.0
        return np.asarray(images @ images.T + runs * np.eye(self.arms), dtype=np.float64)

    def difference(self, arm: str, baseline: str) -> Estimate:
        """Estimate the score of one arm less that of another."""
        weights = np.zeros(self.arms)
        weights[self.block.arms.index(arm)] += 1
        weights[self.block.arms.index(baseline)] -= 1
        return self.contrast(weights)

    def score(self, arm: str) -> Estimate:
        """Estimate the score of one arm; its runs' error is pooled over arms too."""
        weights = np.zeros(self.arms)
        weights[self.block.arms.index(arm)] = 1
        if self.units < 2:
            return self._estimate(weights, 0.0, [(NAN, 0)])
        # What runs do to all arms alike counts for a score, and has few degrees of freedom; the rest is as above.
        together = float(self.scores.mean(axis=0).var(ddof=1)) / self.units
        parts = [(together, self.units - 1)]
        if self.run_degrees:
            square = max(self.run_square, float(weights @ self.own_squares))
            parts.append(((self.arms - 1) * square / (self.arms * self.units), self.run_degrees))
        own = self.influence - self.influence.mean(axis=1, keepdims=True)
        shared = float((own**2).sum()) / (self.arms * (self.units - 1) * self.units)
        return self._estimate(weights, shared, parts)

    def _estimate(self, weights: Array, shared: float, parts: list[tuple[float, int]]) -> Estimate:
        """Join what images and what runs explain; ``shared`` is in both, and ``parts`` are variances and degrees."""
        value = float(weights @ self.scores.mean(axis=1))
        moved = np.tensordot(weights, self.influence.mean(axis=1), axes=1)
        images = float((moved**2).sum())
        rest = max(images - shared, 0.0)
        known = [(variance, degrees) for variance, degrees in parts if degrees]
        variance = rest + sum(part for part, _ in known)
        spread = images**2 / self._image_degrees if self._image_degrees > 0 else NAN
        spread += sum(part**2 / degrees for part, degrees in known)
        degrees = variance**2 / spread if spread > 0 else float(max(self._image_degrees, 1))
        # A sum of mean squares has no fewer degrees than the part with fewest. The formula can say so, since what runs
        # and images share is taken off the variance and not off the spread.
        degrees = max(degrees, float(min([self._image_degrees, *(d for _, d in known)])))
        runs = sum(part for part, _ in known) ** 0.5 if known else NAN
        groups = len(self.block.groups)
        return Estimate(value, variance**0.5, degrees, rest**0.5, runs, self.units, groups)

    def unequal(self) -> dict[str, tuple[float, float]]:
        """Return the arm that varies more from run to run than the others do, if there is one.

        Cochran's (1941) test of the largest of several variances, at the 1 % level, on what is left of ``scores`` after
        the means of arms and of units.

        Returns:
            Arm to the standard deviation of its runs and that of the other arms together; empty when they agree.
        """
        from scipy.special import fdtrc

        if self.arms < 3 or self.units < 2:
            return {}
        largest, degrees = int(self.own_squares.argmax()), self.units - 1
        own = float(self.own_squares[largest])
        others = (float(self.own_squares.sum()) - own) / (self.arms - 1)
        if own <= _ROUNDING**2:
            return {}
        ratio = own / others if others > 0 else np.inf
        if self.arms * fdtrc(degrees, (self.arms - 1) * degrees, ratio) > _UNEQUAL_LEVEL:
            return {}
        return {self.block.arms[largest]: (own**0.5, others**0.5)}

    def not_the_best(self, better: float = 1.0, level: float = LEVEL) -> set[str]:
        """Return the arms that are shown to be worse than some other (Hsu's comparisons with the best).

        Whichever arm is truly the best, it is among these in at most ``level`` of studies: an arm is there when its
        one-sided test against some other rejects, at ``level`` shared among the A - 1 others.

        Args:
            better: 1 when higher is better, -1 when lower is.
            level: as said.
        """
        worse = set()
        for arm in self.block.arms:
            for rival in self.block.arms:
                if rival == arm:
                    continue
                gap = self.difference(rival, arm)
                low, high = gap.interval(2 * level, self.arms - 1)
                if (low if better > 0 else -high) > _ROUNDING:
                    worse.add(arm)
                    break
        return worse


def _interaction(values: Array) -> Array:
    """Return what is left of (A, U, ...) after the means of arms and of units."""
    left: Array = (
        values
        - values.mean(axis=0, keepdims=True)
        - values.mean(axis=1, keepdims=True)
        + values.mean(axis=(0, 1), keepdims=True)
    )
    return left


def _mean_square(values: Array, degrees: int) -> float:
    return float((_interaction(values) ** 2).sum()) / degrees if degrees else NAN


def adjusted(p: float, family: int) -> float:
    """Return Bonferroni's adjusted p value: at most ``LEVEL`` exactly when the family's interval leaves zero out."""
    return min(1.0, p * family) if p == p else NAN

"""Kernel Inception Distance (Bińkowski et al. 2018, arXiv 1801.01401)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.errors import DataError


@dataclass(frozen=True)
class Kid:
    """An estimate of the squared maximum mean discrepancy.

    Attributes:
        value: unbiased, so it may be a little below 0 for equal distributions; lower is better.
        deviation: standard deviation of the estimate over random subsets of ``subset_size`` (not of ``value``, which
            uses all).
        subset_size: images a side in each subset.
    """

    value: float
    deviation: float
    subset_size: int


def _kernel(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    return (a @ b.T / a.shape[1] + 1) ** 3


def _discrepancy(a: NDArray[np.float64], b: NDArray[np.float64], block: int = 2048) -> float:
    """Return the unbiased estimate from all pairs, block by block so that memory does not grow with the square."""

    def total(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
        return float(sum(_kernel(x[i : i + block], y).sum() for i in range(0, len(x), block)))

    def own(x: NDArray[np.float64]) -> float:
        diagonal = ((np.einsum("ij,ij->i", x, x) / x.shape[1] + 1) ** 3).sum()
        return (total(x, x) - float(diagonal)) / (len(x) * (len(x) - 1))

    return own(a) + own(b) - 2 * total(a, b) / (len(a) * len(b))


def kernel_distance(
    real: ArrayLike, synthetic: ArrayLike, *, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> Kid:
    """Return the KID with the polynomial kernel ``(x.y / D + 1)^3``.

    The value uses every image once, which is what the usual average over random subsets converges to; the deviation
    comes from subsets of at most half of the smaller set, because larger ones overlap too much to vary.

    Args:
        real: (N, D) features.
        synthetic: (M, D) features.
        subsets: how many random subsets the deviation is taken over.
        subset_size: at most this many images a side in each.
        seed: of the subsets.

    Raises:
        DataError: a set has fewer than two images.
    """
    a, b = np.asarray(real, dtype=np.float64), np.asarray(synthetic, dtype=np.float64)
    if min(len(a), len(b)) < 2:
        raise DataError(f"KID needs at least two images a side, got {len(a)} real and {len(b)} synthetic.")
    value = _discrepancy(a, b)
    size = max(2, min(subset_size, min(len(a), len(b)) // 2))
    draw = np.random.default_rng(seed)
    estimates = [
        _discrepancy(a[draw.choice(len(a), size, replace=False)], b[draw.choice(len(b), size, replace=False)])
        for _ in range(subsets)
    ]
    return Kid(value, float(np.std(estimates, ddof=1)), size)

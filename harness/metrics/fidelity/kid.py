"""Kernel Inception Distance (Bińkowski et al. 2018, arXiv 1801.01401)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.errors import DataError
from harness.metrics.features.extract import features_of_both
from harness.metrics.spec import FidelityMetric, Quantity, Sets, Values


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


def _sums(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    in_x: NDArray[np.bool_],
    in_y: NDArray[np.bool_],
    block: int = 1024,
) -> tuple[float, NDArray[np.float64]]:
    """Return the sum of the kernel over all pairs, and over the pairs of each subset (S,).

    Each value of the kernel is computed once, block by block, and is summed for every subset by products with the
    subsets' memberships (S, N) and (S, M); memory does not grow with the square.
    """
    whole, parts = 0.0, np.zeros(len(in_x))
    for start in range(0, len(x), block):
        kernel = (x[start : start + block] @ y.T / x.shape[1] + 1) ** 3
        whole += float(kernel.sum())
        parts += np.einsum("sm,sm->s", in_x[:, start : start + block].astype(np.float64) @ kernel, in_y)
    return whole, parts


def _own_sums(x: NDArray[np.float64], in_x: NDArray[np.bool_]) -> tuple[float, NDArray[np.float64]]:
    """Return the same of one set with itself, without the pairs of a vector with itself."""
    whole, parts = _sums(x, x, in_x, in_x)
    diagonal = (np.einsum("ij,ij->i", x, x) / x.shape[1] + 1) ** 3
    return whole - float(diagonal.sum()), parts - in_x @ diagonal


def _members(count: int, size: int, subsets: int, draw: np.random.Generator) -> NDArray[np.bool_]:
    """Return random subsets of ``size`` of ``count``, as (subsets, count)."""
    members = np.zeros((subsets, count), dtype=bool)
    for row in members:
        row[draw.choice(count, size, replace=False)] = True
    return members


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
    n, m = len(a), len(b)
    if min(n, m) < 2:
        raise DataError(f"KID needs at least two images a side, got {n} real and {m} synthetic.")
    size = max(2, min(subset_size, min(n, m) // 2))
    draw = np.random.default_rng(seed)
    in_a, in_b = _members(n, size, subsets, draw), _members(m, size, subsets, draw)
    real_sum, real_parts = _own_sums(a, in_a)
    synthetic_sum, synthetic_parts = _own_sums(b, in_b)
    between_sum, between_parts = _sums(a, b, in_a, in_b)
    value = real_sum / (n * (n - 1)) + synthetic_sum / (m * (m - 1)) - 2 * between_sum / (n * m)
    estimates = (real_parts + synthetic_parts) / (size * (size - 1)) - 2 * between_parts / size**2
    return Kid(value, float(np.std(estimates, ddof=1)), size)


def _compute(sets: Sets) -> Values:
    real, synthetic, facts = features_of_both(sets)
    kid = kernel_distance(real, synthetic, seed=sets.seed)
    return {"kid": kid.value, "kid-deviation": kid.deviation, "subset-size": kid.subset_size, **facts}


KID = FidelityMetric(
    name="kid",
    label="KID",
    on="images",
    better="lower",
    deviation="kid-deviation",
    order=20,
    definition="Kernel Inception Distance, unbiased.",
    source="Bińkowski et al. 2018, arXiv 1801.01401",
    compute=_compute,
    network="fid-inception",
    needs_weights=("fid-inception",),
    draws=True,
    beside=(
        Quantity(name="kid-deviation", label="Deviation of KID over subsets", lower=0.0, varies=False),
        Quantity(name="subset-size", label="Images in a subset of KID", lower=2, digits=0),
    ),
)

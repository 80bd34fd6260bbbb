"""Precision and recall, density and coverage of synthetic features among real ones.

Kynkäänniemi et al. 2019 (arXiv 1904.06991) and Naeem et al. 2020 (arXiv 2002.09797).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.errors import DataError
from harness.metrics.features.extract import features_of_both
from harness.metrics.fidelity.memorisation import squared_distances
from harness.metrics.spec import FidelityMetric, Quantity, Sets, Values


@dataclass(frozen=True)
class Prdc:
    """How synthetic features lie among real ones; higher is better in all four.

    Attributes:
        precision: share of synthetic vectors inside the ball of some real vector (0 to 1).
        recall: share of real vectors inside the ball of some synthetic vector (0 to 1).
        density: mean number of real balls a synthetic vector lies in, over k (at least 0, may exceed 1).
        coverage: share of real vectors whose ball holds a synthetic vector (0 to 1).
        neighbours: k; a vector's ball reaches to its k-th nearest neighbour in its own set.
    """

    precision: float
    recall: float
    density: float
    coverage: float
    neighbours: int


def _radii(own: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    np.fill_diagonal(own, np.inf)
    return np.partition(own, k - 1, axis=1)[:, k - 1]


def prdc(real: ArrayLike, synthetic: ArrayLike, *, neighbours: int = 5) -> Prdc:
    """Return precision, recall, density and coverage of (M, D) synthetic against (N, D) real features.

    They depend on both sample sizes: compare only numbers with equal N and M. Balls are open, as in the authors' code.

    Raises:
        DataError: a set has no more than ``neighbours`` vectors.
    """
    a, b = np.asarray(real, dtype=np.float64), np.asarray(synthetic, dtype=np.float64)
    if min(len(a), len(b)) <= neighbours:
        raise DataError(
            f"Precision and recall with {neighbours} neighbours need more than {neighbours} images a side, got "
            f"{len(a)} real and {len(b)} synthetic; give more images or fewer neighbours."
        )
    real_radii, synthetic_radii = (
        _radii(squared_distances(a, a), neighbours),
        _radii(squared_distances(b, b), neighbours),
    )
    between = squared_distances(a, b)
    in_real = between < real_radii[:, None]
    return Prdc(
        precision=float(in_real.any(axis=0).mean()),
        recall=float((between < synthetic_radii[None, :]).any(axis=1).mean()),
        density=float(in_real.sum(axis=0).mean() / neighbours),
        coverage=float(in_real.any(axis=1).mean()),
        neighbours=neighbours,
    )


def _compute(sets: Sets, *, neighbours: int = 5) -> Values:
    real, synthetic, facts = features_of_both(sets)
    found = prdc(real, synthetic, neighbours=neighbours)
    four = {name: getattr(found, name) for name in ("precision", "recall", "density", "coverage")}
    return {"prdc": found.coverage, **four, "neighbours": found.neighbours, **facts, "notes": "prdc is the coverage."}


PRDC = FidelityMetric(
    name="prdc",
    label="Coverage",
    on="images",
    better="higher",
    lower=0.0,
    upper=1.0,
    table="",
    order=30,
    definition="Precision, recall, density, coverage of 5 neighbours.",
    source="Kynkäänniemi et al. 2019, arXiv 1904.06991; Naeem et al. 2020, arXiv 2002.09797",
    compute=_compute,
    shown_as="coverage",
    network="fid-inception",
    needs_weights=("fid-inception",),
    fewest=6,
    beside=(
        Quantity(
            name="precision", label="Precision", better="higher", lower=0.0, upper=1.0, digits=3, table="fidelity"
        ),
        Quantity(name="recall", label="Recall", better="higher", lower=0.0, upper=1.0, digits=3, table="fidelity"),
        Quantity(name="density", label="Density", better="higher", lower=0.0, digits=3, table="fidelity"),
        Quantity(
            name="coverage",
            label="Coverage",
            better="higher",
            lower=0.0,
            upper=1.0,
            digits=3,
            table="fidelity",
            note="Precision, recall, density and coverage: of {neighbours} nearest neighbours.",
        ),
        Quantity(name="neighbours", label="Neighbours", lower=1, digits=0),
    ),
)

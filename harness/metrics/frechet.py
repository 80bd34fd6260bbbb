"""The Fréchet distance between Gaussians fitted to two sets of vectors.

``|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))`` (Dowson and Landau 1982; Heusel et al. 2017, arXiv 1706.08500). With
the centred and scaled vectors in the rows of A and B, ``C1 = A'A`` and ``C2 = B'B``, and the trace of the root is the
nuclear norm of ``A B'``: no matrix square root, no imaginary parts, no added diagonal.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.errors import DataError


def _centred(vectors: ArrayLike, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean, and a matrix R with at most D rows whose R'R is the unbiased covariance."""
    matrix = np.asarray(vectors, dtype=np.float64)
    if matrix.ndim != 2 or len(matrix) < 2:
        count = len(matrix) if matrix.ndim else 0
        raise DataError(f"A Fréchet distance needs at least two {name} images, got {count}: one image has no spread.")
    mean = matrix.mean(axis=0)
    scaled = (matrix - mean) / np.sqrt(len(matrix) - 1)
    if len(scaled) > scaled.shape[1]:
        scaled = np.linalg.qr(scaled, mode="r")
    return mean, scaled


def frechet_distance(real: ArrayLike, synthetic: ArrayLike) -> float:
    """Return the squared Fréchet distance between Gaussians fitted to two sets of vectors (unbiased covariances).

    It is not a distance between the sets: with fewer vectors than dimensions it is dominated by a bias that grows as
    1/N.

    Args:
        real: (N, D) with N at least 2.
        synthetic: (M, D) with M at least 2.

    Returns:
        At least 0 up to rounding; NaN when a vector holds NaN or infinity.

    Raises:
        DataError: a set has fewer than two vectors.
    """
    mean_real, root_real = _centred(real, "real")
    mean_synthetic, root_synthetic = _centred(synthetic, "synthetic")
    if mean_real.shape != mean_synthetic.shape:
        raise ValueError(
            f"features have {len(mean_real)} and {len(mean_synthetic)} dimensions; they must be of one network"
        )
    if not (np.isfinite(root_real).all() and np.isfinite(root_synthetic).all()):
        return float("nan")
    nuclear = np.linalg.svd(root_real @ root_synthetic.T, compute_uv=False).sum()
    difference = mean_real - mean_synthetic
    return float(difference @ difference + np.sum(root_real**2) + np.sum(root_synthetic**2) - 2 * nuclear)

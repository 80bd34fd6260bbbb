"""Euclidean distances between all vectors of two sets, and nearest neighbours."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def squared_distances(a: ArrayLike, b: ArrayLike) -> NDArray[np.float64]:
    """Return squared Euclidean distances (N, M) between rows of (N, D) and (M, D), in float64 and never below 0.

    The vectors are centred on the mean of ``b`` first: the expansion ``|x|^2 + |y|^2 - 2 x.y`` loses digits far from
    the origin.
    """
    y = np.asarray(b, dtype=np.float64)
    centre = y.mean(axis=0)
    y = y - centre
    x = np.asarray(a, dtype=np.float64) - centre
    squares = np.einsum("ij,ij->i", x, x)[:, None] + np.einsum("ij,ij->i", y, y)[None, :]
    return np.maximum(squares - 2 * (x @ y.T), 0.0)

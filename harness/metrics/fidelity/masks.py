"""Statistics of binary masks: areas and their distribution, components, mean and deviation masks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

#: Pixels that touch at a corner are connected.
CONNECTED = np.ones((3, 3), dtype=np.uint8)


def areas(masks: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the share of each mask (N, H, W) that is polyp, (N,), 0 to 1."""
    return masks.reshape(len(masks), -1).mean(axis=1, dtype=np.float64)


def area_histogram(masks: NDArray[np.uint8], bins: int = 20) -> NDArray[np.intp]:
    """Count masks by the share of the image that is polyp, in equal bins from 0 to 1 (the papers' figures use 20 of 5
    %)."""
    return np.histogram(areas(masks), bins=bins, range=(0.0, 1.0))[0]


def area_distance(real: NDArray[np.uint8], synthetic: NDArray[np.uint8]) -> float:
    """Return the Wasserstein-1 distance between the areas of two sets of masks: a share of the image, 0 (equal) to
    1."""
    return wasserstein(areas(real), areas(synthetic))


def wasserstein(a: ArrayLike, b: ArrayLike) -> float:
    """Return the Wasserstein-1 distance between two samples of a number."""
    from scipy.stats import wasserstein_distance

    return float(wasserstein_distance(np.asarray(a), np.asarray(b)))


def components(masks: NDArray[np.uint8]) -> NDArray[np.intp]:
    """Count the connected parts of each mask (N, H, W), corners touching, (N,)."""
    from scipy.ndimage import label

    return np.array([label(mask, structure=CONNECTED)[1] for mask in masks], dtype=np.intp)


def mean_and_deviation(masks: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the pixel-wise mean and standard deviation of masks (N, H, W), each (H, W), 0 to 1."""
    return masks.mean(axis=0, dtype=np.float64), masks.std(axis=0, dtype=np.float64)


def positions_by_source(lineage: Sequence[frozenset[str]]) -> dict[str, list[int]]:
    """Return, for each real id, the positions of the synthetic masks that were made from it alone."""
    found: dict[str, list[int]] = {}
    for position, seen in enumerate(lineage):
        if len(seen) == 1:
            found.setdefault(next(iter(seen)), []).append(position)
    return found

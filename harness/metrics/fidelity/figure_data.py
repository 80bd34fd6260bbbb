"""What the figures of a measurement are drawn from: closest pairs and masks, polyp areas, and how masks of one source
differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.data.pairs import PairSet
from harness.metrics.fidelity import masks
from harness.metrics.fidelity.sim import most_similar

Arrays = dict[str, NDArray[Any]]


def closest(
    distances: NDArray[np.float64],
    nearest: NDArray[np.intp],
    synthetic: tuple[Sequence[str], Callable[[NDArray[np.intp]], NDArray[np.uint8]]],
    training: tuple[Sequence[str], Callable[[NDArray[np.intp]], NDArray[np.uint8]]],
    count: int = 12,
) -> Arrays:
    """Return the synthetic images that lie closest to training images, each with its nearest one.

    Args:
        distances: of each synthetic image to its nearest training image, (M,).
        nearest: which that is, (M,).
        synthetic: M ids, and what returns the images at positions as uint8 (K, H, W, 3).
        training: likewise.
        count: how many pairs.

    Returns:
        ``synthetic`` and ``real`` uint8 (K, H, W, 3), ``distance`` (K,), ``synthetic_ids`` and ``real_ids`` (K,),
        closest first.
    """
    first = np.argsort(distances, kind="stable")[:count]
    which = nearest[first]
    return {
        "synthetic": synthetic[1](first),
        "real": training[1](which),
        "distance": distances[first],
        "synthetic_ids": np.array([synthetic[0][i] for i in first]),
        "real_ids": np.array([training[0][i] for i in which]),
    }


def closest_masks(real: PairSet, synthetic: PairSet, count: int = 12) -> Arrays:
    """Return the first synthetic masks, each with its most similar real one by SIM (mask-conditioned diffusion for
    polyps, Figure 3).

    Args:
        real: the reference of SIM.
        synthetic: of the same size in pixels; the first are taken, not the most similar.
        count: how many at most.

    Returns:
        ``synthetic`` and ``real`` uint8 (K, H, W) in {0, 1}, ``similarity`` float64 (K,), shares of equal pixels,
        ``synthetic_ids`` and ``real_ids`` (K,).
    """
    few = synthetic.first(min(count, len(synthetic)))
    similarity, which = most_similar(few.masks, real.masks)
    return {
        "synthetic": np.asarray(few.masks),
        "real": real.masks[which],
        "similarity": similarity,
        "synthetic_ids": np.array(few.ids),
        "real_ids": np.array([real.ids[i] for i in which]),
    }


def save(path: Path, arrays: Arrays) -> None:
    """Write arrays into one file that ``numpy.load`` reads without unpickling."""
    np.savez(path, allow_pickle=False, **arrays)


def areas(real: NDArray[np.uint8], synthetic: NDArray[np.uint8]) -> Arrays:
    """Return the share of each mask (N, H, W) that is polyp, ``real`` and ``synthetic``."""
    return {"real": masks.areas(real), "synthetic": masks.areas(synthetic)}


def diversity(
    real: Mapping[str, NDArray[np.uint8]],
    synthetic: NDArray[np.uint8],
    lineage: Sequence[frozenset[str]],
    count: int = 4,
) -> Arrays | None:
    """Return how the synthetic masks differ that were made from one real mask each.

    Args:
        real: real masks (H, W) by id.
        synthetic: masks (N, H, W).
        lineage: for each the real ids it was made from.
        count: at most so many real masks, those with the most synthetic ones.

    Returns:
        ``real`` (K, H, W), pixel-wise ``mean`` and ``deviation`` (K, H, W), ``ids`` and ``count`` (K,); None when no
        real mask has several synthetic ones.
    """
    made = masks.positions_by_source(lineage)
    several = [name for name, found in made.items() if len(found) > 1 and name in real]
    shown = sorted(several, key=lambda name: (-len(made[name]), name))[:count]
    if not shown:
        return None
    statistics = [masks.mean_and_deviation(synthetic[made[name]]) for name in shown]
    return {
        "real": np.stack([real[name] for name in shown]),
        "mean": np.stack([mean for mean, _ in statistics]),
        "deviation": np.stack([deviation for _, deviation in statistics]),
        "ids": np.array(shown),
        "count": np.array([len(made[name]) for name in shown]),
    }

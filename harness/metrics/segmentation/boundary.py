"""How far apart predicted and true outlines lie: Hausdorff distance (95th percentile) and surface Dice.

The outline of a mask is its pixels that have a neighbour outside it, sharing a side; the frame's edge counts as
outside. Distances are Euclidean, from pixel to pixel. Programs differ in both choices and in the percentile (Podobnik
and Vrtovec 2024, arXiv 2410.02630): here it is the larger of the two directed ones, as in Metrics reloaded (arXiv
2206.01653), not that of both pooled.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.metrics.segmentation.mask_batch import MaskBatch
from harness.metrics.spec import Fraction, SegmentationMetric


class Boundaries(NamedTuple):
    """How the outlines of N images compare, float64 (N,) each.

    Attributes:
        hausdorff: the larger of the 95th percentiles of the distances from one outline to the other, in pixels; the
            diagonal of the frame where one mask is empty, NaN where both are.
        within: pixels of both outlines that lie no farther from the other one than the tolerance.
        length: pixels of both outlines.
    """

    hausdorff: NDArray[np.float64]
    within: NDArray[np.float64]
    length: NDArray[np.float64]


def in_pixels(tolerance: float, shape: tuple[int, ...]) -> float:
    """Return a declared tolerance in pixels: from 1 on it is that, below it a share of the frame's longer side.

    Args:
        tolerance: as declared.
        shape: of the frame, (H, W).
    """
    return tolerance if tolerance >= 1 else tolerance * max(shape)


def compare_boundaries(predicted: NDArray[np.uint8], truth: NDArray[np.uint8], tolerance: float) -> Boundaries:
    """Compare the outlines of masks uint8 (N, H, W) in {0, 1}.

    Args:
        predicted: N masks.
        truth: N masks.
        tolerance: in pixels.
    """
    compared = [_compare(p, t, tolerance) for p, t in zip(predicted, truth, strict=True)]
    return Boundaries(*np.array(compared, dtype=np.float64).reshape(-1, 3).T)


def _compare(predicted: NDArray[np.uint8], truth: NDArray[np.uint8], tolerance: float) -> tuple[float, int, int]:
    distances = outline_distances(predicted, truth)
    length = sum(map(len, distances))
    if not len(distances[0]) or not len(distances[1]):
        return float(np.hypot(*truth.shape)) if length else float("nan"), 0, length
    within = sum(int((one <= tolerance).sum()) for one in distances)
    return max(float(np.percentile(one, 95)) for one in distances), within, length


def outline_distances(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> tuple[NDArray[np.float64], ...]:
    """Return the distance of each pixel of one outline to the other outline, and the reverse, in pixels.

    Infinite where the other mask is empty. Masks are cut to the rectangle that holds both: what lies around them has
    no part in the distances.

    Args:
        one: uint8 (H, W) in {0, 1}.
        other: the same.
    """
    from scipy.ndimage import distance_transform_edt

    either = (one | other).astype(bool)
    rows, columns = (np.flatnonzero(either.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return np.zeros(0), np.zeros(0)
    cut = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    outlines = [_outline(mask[cut].astype(bool)) for mask in (one, other)]
    return tuple(
        distance_transform_edt(~to)[of] if to.any() else np.full(int(of.sum()), np.inf)
        for of, to in (outlines, outlines[::-1])
    )


def _outline(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the pixels of a mask (H, W) that have a neighbour outside it."""
    padded = np.pad(mask, 1)
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    outline: NDArray[np.bool_] = mask & ~inside
    return outline


def boundaries(masks: MaskBatch) -> Boundaries:
    """Return how far apart the outlines of a batch lie."""
    return compare_boundaries(masks.predicted, masks.truth, masks.tolerance)


def _hausdorff(masks: MaskBatch) -> Fraction:
    distances = masks.once(boundaries).hausdorff
    defined = ~np.isnan(distances)
    return Fraction(np.where(defined, distances, 0.0), defined.astype(np.float64))


def _surface_dice(masks: MaskBatch) -> Fraction:
    compared = masks.once(boundaries)
    return Fraction(compared.within, compared.length)


HAUSDORFF = SegmentationMetric(
    name="hausdorff-95",
    label="Hausdorff 95 %",
    heading="Hausdorff\n95 % (px)",
    better="lower",
    lower=0.0,
    digits=1,
    table="scores-clinical",
    order=100,
    by_size=True,
    definition="95th percentile of the distances between the outlines, the larger of both directions, in pixels.",
    source="Huttenlocher, Klanderman and Rucklidge 1993; Maier-Hein, Reinke et al. 2024, arXiv 2206.01653",
    note="Hausdorff 95 %: of the distances between the outlines, in pixels; the frame's diagonal where one mask is "
    "empty; images where both are have none.",
    fraction=_hausdorff,
    undefined="left-out",
    micro=False,
)

SURFACE_DICE = SegmentationMetric(
    name="surface-dice",
    label="Surface Dice",
    heading="Surface\nDice",
    better="higher",
    lower=0.0,
    upper=1.0,
    table="scores-clinical",
    order=110,
    by_size=True,
    definition="Share of both outlines that lies within the tolerance of the other one.",
    source="Nikolov et al. 2018, arXiv 1809.04430",
    note="Surface Dice: share of both outlines that lies within the tolerance ({tolerance}) of the other one.",
    fraction=_surface_dice,
)

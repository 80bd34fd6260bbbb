"""Pixels of predicted and true masks that agree, counted; the one score that training and agreement go by."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Columns of a table of counts: pixels that are true positive, false positive, false negative, true negative.
COLUMNS = ("tp", "fp", "fn", "tn")


def confusion(predicted: NDArray[Any], true: NDArray[Any]) -> NDArray[np.int64]:
    """Count the pixels of each kind in each image.

    Args:
        predicted: bool or uint8 (N, H, W) in {0, 1}.
        true: the same for the truth.

    Returns:
        Counts, int64 (N, 4), in the order of :data:`COLUMNS`.

    Raises:
        ValueError: the shapes differ, are not (N, H, W), or a value is neither 0 nor 1.
    """
    if predicted.shape != true.shape or predicted.ndim != 3:
        raise ValueError(f"predicted and true must both be (N, H, W), got {predicted.shape} and {true.shape}")
    for name, masks in (("predicted", predicted), ("true", true)):
        if masks.dtype != np.bool_ and masks.size and not ((masks == 0) | (masks == 1)).all():
            raise ValueError(f"{name} must hold 0 and 1 only, got values from {masks.min()} to {masks.max()}")
    p, t = predicted.astype(bool, copy=False), true.astype(bool, copy=False)
    pixels = (1, 2)
    both = (p & t).sum(axis=pixels, dtype=np.int64)
    predicted_area, true_area = p.sum(axis=pixels, dtype=np.int64), t.sum(axis=pixels, dtype=np.int64)
    neither = np.int64(p.shape[1] * p.shape[2]) - (predicted_area + true_area - both)
    return np.stack([both, predicted_area - both, true_area - both, neither], axis=1)


def quotient(numerators: NDArray[Any], denominators: NDArray[Any], empty: float) -> NDArray[np.float64]:
    """Divide, float64, with ``empty`` where the denominator is 0."""
    found = np.full(np.shape(numerators), empty, np.float64)
    return np.divide(numerators, denominators, out=found, where=np.asarray(denominators) != 0)


def intersection_over_union(counts: NDArray[np.int64], empty: float) -> NDArray[np.float64]:
    """Return the IoU of each image, float64 (N,), with ``empty`` where neither mask has a pixel.

    Args:
        counts: int64 (N, 4) from :func:`confusion`.
        empty: such as 1; NaN where such an image says nothing.
    """
    tp, fp, fn, _ = counts.T
    return quotient(tp, tp + fp + fn, empty)

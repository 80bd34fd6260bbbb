"""Outlines of masks on images, for people to look at.

Truth is green, a prediction magenta, and white where they coincide. To normal, protan, deutan and tritan vision
(Machado, Oliveira and Fernandes 2009, full severity) the three are 30 units of CIELAB or more from each other and from
mucosa, be it pale, red, dark or yellowish. The bluish green and orange of charts are not: to protan vision that green
is 6 units from mucosa.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: Outline colours (RGB).
TRUTH_COLOUR, PREDICTION_COLOUR, BOTH_COLOUR = (0, 255, 0), (255, 0, 255), (255, 255, 255)


def overlay(
    images: NDArray[np.uint8],
    truth: NDArray[np.uint8],
    prediction: NDArray[np.uint8] | None = None,
    width: int | None = None,
) -> NDArray[np.uint8]:
    """Draw the outlines of truth (green) and prediction (magenta) on images; white where they coincide.

    An outline lies inside its mask, and also runs along the border of the frame.

    Args:
        images: uint8 (N, H, W, 3), or one (H, W, 3).
        truth: uint8 (N, H, W) in {0, 1}, or (H, W).
        prediction: the same; without it truth is drawn alone.
        width: of the outlines in pixels; 1 for 96 pixels of height, by default, so that they survive print in a grid.

    Returns:
        New images of the same shape.
    """
    pixels = width or max(1, round(images.shape[-3] / 96))
    drawn = images.copy()
    true_outline = _outline(truth, pixels)
    drawn[true_outline] = TRUTH_COLOUR
    if prediction is not None:
        predicted_outline = _outline(prediction, pixels)
        drawn[predicted_outline] = PREDICTION_COLOUR
        drawn[true_outline & predicted_outline] = BOTH_COLOUR
    return drawn


def _outline(masks: NDArray[np.uint8], width: int) -> NDArray[np.bool_]:
    """Return the pixels of (..., H, W) masks that erosion by ``width`` (4-neighbourhood) takes away."""
    inside = masks.astype(bool)
    core = inside
    for _ in range(width):
        framed = np.pad(core, [(0, 0)] * (core.ndim - 2) + [(1, 1), (1, 1)])
        core = core & framed[..., :-2, 1:-1] & framed[..., 2:, 1:-1] & framed[..., 1:-1, :-2] & framed[..., 1:-1, 2:]
    return inside & ~core

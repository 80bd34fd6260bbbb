"""From what a diffusion model makes to binary masks: soundly, or as paper A's code does."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from generators.specks import Mask, without_specks


def threshold(pictures: NDArray[np.float32], smallest: float) -> Mask:
    """Turn grey pictures into masks: above the middle grey is polyp, and specks and holes are removed.

    A picture without anything above the middle grey stays an empty mask.

    Args:
        pictures: (N, C, H, W) around [-1, 1]; channels are averaged.
        smallest: share of the frame below which a piece is removed (:func:`generators.specks.without_specks`).

    Returns:
        uint8 (N, H, W) in {0, 1}.
    """
    return without_specks((pictures.mean(axis=1) > 0).astype(np.uint8), smallest)


def threshold_as_published(pictures: NDArray[np.float32], channel: str) -> Mask:
    """Turn pictures into masks as paper A's code does, with its flaws.

    Bytes below the mean of a picture's bytes, all channels together, become 0; what is not below the mean of the result
    becomes 255. So channels are decided apart, a picture without any polyp turns all white, and faint specks of an
    almost black picture become a mask. Its segmentation code then reads red, its condition follows green.

    Args:
        pictures: (N, 3, H, W) around [-1, 1].
        channel: ``red`` or ``green``, of which the mask is made.

    Returns:
        uint8 (N, H, W) in {0, 1}.
    """
    # Bytes are cut off, not rounded, as in that code.
    levels = np.clip((pictures + 1) * 127.5, 0, 255).astype(np.uint8)
    means = levels.mean(axis=(1, 2, 3), keepdims=True)
    levels = np.where(levels < means, 0, levels)
    means = levels.mean(axis=(1, 2, 3), keepdims=True)
    return (levels[:, ("red", "green").index(channel)] >= means[:, 0]).astype(np.uint8)

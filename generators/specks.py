"""Small pieces of masks, and small holes in them, that no polyp has."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.uint8]


def without_specks(masks: Mask, smallest: float) -> Mask:
    """Remove specks and fill holes.

    A speck is a connected piece of polyp (neighbours at corners count), and a hole a piece of background (they do not)
    that does not reach the edge of the frame, of less than ``smallest`` of the frame. Specks go first.

    Args:
        masks: uint8 (N, H, W) in {0, 1}.
        smallest: share of the frame below which a piece is removed; 0 removes nothing.

    Returns:
        uint8 (N, H, W) in {0, 1}.
    """
    if not smallest or not len(masks):
        return masks
    return np.stack([_cleaned(mask, smallest * mask.size) for mask in masks])


def _cleaned(mask: Mask, fewest: float) -> Mask:
    from scipy import ndimage

    pieces, _ = ndimage.label(mask, ndimage.generate_binary_structure(2, 2))
    sizes = np.bincount(pieces.ravel())
    mask = np.where((sizes < fewest)[pieces], 0, mask)
    gaps, _ = ndimage.label(mask == 0)
    sizes = np.bincount(gaps.ravel())
    edge = np.concatenate([gaps[0], gaps[-1], gaps[:, 0], gaps[:, -1]])
    small = sizes < fewest
    small[np.unique(edge)] = False
    small[0] = False
    return np.where(small[gaps], 1, mask).astype(np.uint8)

"""Near-duplicate frames: the same moment stored twice, re-encoded, annotated again, or with its black border cut off.

Each frame becomes two grey thumbnails of 32 x 32 pixels, the whole visible part (dark borders trimmed) and its
centre. Two frames are near-duplicates when the Pearson correlation of both is at least :data:`THRESHOLD`. The centre
keeps frames apart that share only the endoscope's window and its overlays. On Kvasir-SEG this finds 7 pairs, all of
them the same frame to the eye; the lowest scores 0.964 and the best of all other pairs 0.914. Frames of one video
some seconds apart are *not* found: only patient or video groups can tell those.

Groups are the connected components of near-duplicate pairs and of the groups that a dataset brings.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

THUMBNAIL = 32
THRESHOLD = 0.94
_DARK = 32
_CENTRE_MARGIN = 0.2
_BLOCK = 2048

Box = tuple[float, float, float, float]


def thumbnails(picture: Image.Image) -> NDArray[np.uint8]:
    """Return the two grey thumbnails of a frame, uint8 (2, 32, 32): its visible part, and the centre of that."""
    grey = picture if picture.mode == "L" else picture.convert("L")
    left, top, right, bottom = _visible(grey)
    across, down = (right - left) * _CENTRE_MARGIN, (bottom - top) * _CENTRE_MARGIN
    boxes: tuple[Box, Box] = (
        (left, top, right, bottom),
        (left + across, top + down, right - across, bottom - down),
    )
    sides = (THUMBNAIL, THUMBNAIL)
    return np.stack([np.asarray(grey.resize(sides, Image.Resampling.BILINEAR, box=box)) for box in boxes])


def _visible(grey: Image.Image) -> Box:
    """Return the box of the rows and columns that are lit in a tenth or more, or the whole frame if too few are."""
    side = 128
    lit = np.asarray(grey.resize((side, side), Image.Resampling.BOX)) > _DARK
    rows, columns = np.flatnonzero(lit.mean(axis=1) > 0.1), np.flatnonzero(lit.mean(axis=0) > 0.1)
    if len(rows) < side // 4 or len(columns) < side // 4:
        return (0, 0, grey.width, grey.height)
    x, y = grey.width / side, grey.height / side
    return (columns[0] * x, rows[0] * y, (columns[-1] + 1) * x, (rows[-1] + 1) * y)


def perceptual_hash(pair: NDArray[np.uint8]) -> str:
    """Return a 64-bit perceptual hash, 16 hexadecimal digits: the signs about their median of low DCT-II coefficients.

    Equal or nearly equal hashes (:func:`hash_distance` of 0 to 2) are a hint to look closer; 64 bits alone give false
    alarms among frames that share a window shape, so that :func:`pairs_between` decides by the thumbnails.

    Args:
        pair: what :func:`thumbnails` returns.
    """
    points = np.arange(THUMBNAIL)
    basis = np.cos(np.pi * (points[None, :] + 0.5) * np.arange(9)[:, None] / THUMBNAIL)
    spectrum = basis @ pair[0].astype(np.float64) @ basis.T
    low = spectrum[:8, 1:9].ravel()  # without the first column, thus without the mean brightness
    bits = low > np.median(low)
    return np.packbits(bits).tobytes().hex()


def hash_distance(first: str, second: str) -> int:
    """Return in how many of 64 bits two perceptual hashes differ."""
    return (int(first, 16) ^ int(second, 16)).bit_count()


def _normalised(stack: NDArray[np.uint8], which: int) -> NDArray[np.float32]:
    flat = stack[:, which].reshape(len(stack), -1).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    # A frame of one grey has no structure to compare: its norm counts as 1 and its correlation with anything 0.
    norm = np.linalg.norm(flat, axis=1, keepdims=True).astype(np.float32)
    return flat / np.maximum(norm, np.float32(1))


def pairs_between(
    first: NDArray[np.uint8], second: NDArray[np.uint8], threshold: float = THRESHOLD
) -> list[tuple[int, int, float]]:
    """Find near-duplicates between two stacks of thumbnails, in blocks (20 000 frames against themselves take seconds).

    Args:
        first: uint8 (N, 2, 32, 32), from :func:`thumbnails`.
        second: uint8 (M, 2, 32, 32).
        threshold: of the smaller of the two correlations.

    Returns:
        (index in first, index in second, smaller correlation), sorted.
    """
    found: list[tuple[int, int, float]] = []
    if not len(first) or not len(second):
        return found
    whole, centre = _normalised(second, 0), _normalised(second, 1)
    for start in range(0, len(first), _BLOCK):
        block = first[start : start + _BLOCK]
        score = np.minimum(_normalised(block, 0) @ whole.T, _normalised(block, 1) @ centre.T)
        found += [(start + int(i), int(j), float(score[i, j])) for i, j in np.argwhere(score >= threshold)]
    return sorted(found)


def pairs_within(stack: NDArray[np.uint8], threshold: float = THRESHOLD) -> list[tuple[int, int, float]]:
    """Find near-duplicates within one stack of thumbnails: (index, larger index, smaller correlation), sorted."""
    return [(i, j, score) for i, j, score in pairs_between(stack, stack, threshold) if i < j]


def join_groups(groups: Sequence[str], linked: Iterable[tuple[int, int]]) -> tuple[str, ...]:
    """Merge groups that near-duplicate pairs link (connected components by union-find).

    Args:
        groups: one name an entry; entries of one name belong together already.
        linked: pairs of indices.

    Returns:
        One name an entry: the smallest of the names that its component joins.
    """
    parent = {name: name for name in groups}

    def root(name: str) -> str:
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for i, j in linked:
        first, second = root(groups[i]), root(groups[j])
        parent[max(first, second)] = min(first, second)
    return tuple(root(name) for name in groups)

"""Near-duplicate frames: the same moment stored twice, whether re-encoded, flipped, turned, cropped or shifted.

Each frame is a grey thumbnail of 64 x 64 pixels of its visible part (dark borders trimmed). There are two steps:

1. **Screening** of all pairs, by matrix products. A frame is 63 low coefficients of a cosine transform, of which a flip
   changes signs alone, and a quarter turn swaps rows and columns as well. In all eight positions they are compared
   with those of 25 windows of the other frame, cut by up to a fifth of a side (:data:`_WINDOWS`). Of Kvasir-SEG's pairs
   one in five hundred comes through.
2. **Registration** of those. The window is moved, stretched and turned (all six numbers of an affine map, by
   Gauss-Newton) until it fits. The pair is one frame when three Pearson correlations are at least :data:`THRESHOLD`: of
   what both show, of the centre of that, and of its detail. The centre keeps frames apart that share only the
   endoscope's window and its overlays; detail, those that are alike only in having one round thing on a plain ground.
   Two frames that lie on each other as they are may differ in detail, as two encodings or moments of one view do.

On Kvasir-SEG this finds 7 pairs, all of them the same moment to the eye; the lowest scores 0.980 and the best of all
other pairs 0.890 (``python -m benchmarks.duplicates``). Frames of one video some seconds apart are *not* found as a
rule: only patient or video groups can tell those. Time grows with the square of the number of frames: 3 seconds of one
core for 1000, 20 minutes for 20 000.

Groups are the connected components of near-duplicate pairs and of the groups that a dataset brings.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

#: Of the rule: raised when other frames are found.
VERSION = 2
SIDE = 64
THRESHOLD = 0.95
_SCREEN = 0.86
_DARK = 32
_CENTRE_MARGIN = 0.2
#: Rows that are screened, and candidates that are registered, at once.
_BLOCK, _BATCH = 512, 256
#: Cosines along each axis that screening looks at.
_COSINES = 8
#: Sides of the thumbnails that a window is fitted on, how often it is moved there, and what it must score to go on.
_LEVELS = ((32, 6, 0.85), (64, 5, -1.0))
#: Detail is what a blur of the first deviation leaves and one of the second takes away, in pixels of a thumbnail.
_DETAIL = (1.0, 3.0)
#: Two frames lie on each other as they are when no number of the map is further from the identity.
_IN_PLACE = 0.06
#: What two frames must have in common, as a share of one of them.
_LEAST_OVERLAP = 0.6

Box = tuple[float, float, float, float]
Span = tuple[float, float]
Floats = NDArray[np.float32]
Found = list[tuple[int, int, float]]


def _spans(length: float) -> list[Span]:
    """Return where a window of a length may lie along one axis: at the start, in the middle and at the end."""
    return [(start, start + length) for start in sorted({0.0, (1 - length) / 2, 1 - length})]


#: Windows of a frame as spans down and across: whole or cut by a tenth along each axis, or by a fifth along both.
_WINDOWS: list[tuple[Span, Span]] = [
    *((down, across) for down, across in itertools.product([*_spans(1.0), *_spans(0.9)], repeat=2)),
    *((down, across) for down, across in itertools.product(_spans(0.8), repeat=2)),
]


def thumbnail(picture: Image.Image) -> NDArray[np.uint8]:
    """Return the grey thumbnail of a frame's visible part, uint8 (64, 64)."""
    grey = picture if picture.mode == "L" else picture.convert("L")
    return np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=_visible(grey)))


def _visible(grey: Image.Image) -> Box:
    """Return the box of the rows and columns that are lit in a tenth or more, or the whole frame if too few are."""
    side = 128
    lit = np.asarray(grey.resize((side, side), Image.Resampling.BOX)) > _DARK
    rows, columns = np.flatnonzero(lit.mean(axis=1) > 0.1), np.flatnonzero(lit.mean(axis=0) > 0.1)
    if len(rows) < side // 4 or len(columns) < side // 4:
        return (0, 0, grey.width, grey.height)
    x, y = grey.width / side, grey.height / side
    return (columns[0] * x, rows[0] * y, (columns[-1] + 1) * x, (rows[-1] + 1) * y)


def perceptual_hash(frame: NDArray[np.uint8]) -> str:
    """Return a 64-bit perceptual hash, 16 hexadecimal digits: the signs about their median of low DCT-II coefficients.

    Equal or nearly equal hashes (:func:`hash_distance` of 0 to 2) are a hint to look closer; 64 bits alone give false
    alarms among frames that share a window shape, so that :func:`pairs_between` decides by the thumbnails.

    Args:
        frame: what :func:`thumbnail` returns.
    """
    basis = _cosines((0.0, 1.0), 9)
    low = (basis @ frame.astype(np.float32) @ basis.T)[:8, 1:9].ravel()  # without the first column, thus without mean
    bits = low > np.median(low)
    return np.packbits(bits).tobytes().hex()


def hash_distance(first: str, second: str) -> int:
    """Return in how many of 64 bits two perceptual hashes differ."""
    return (int(first, 16) ^ int(second, 16)).bit_count()


def _cosines(span: Span, count: int) -> Floats:
    """Return cosines of 0, 1/2, 1, ... periods over a span of an axis of a thumbnail, and 0 beside it, (count, 64)."""
    start, stop = span
    edges = np.arange(SIDE + 1) / SIDE
    covered = np.clip(np.minimum(edges[1:], stop) - np.maximum(edges[:-1], start), 0, None) / (stop - start)
    place = ((edges[1:] + edges[:-1]) / 2 - start) / (stop - start)
    return (np.cos(np.pi * place * np.arange(count)[:, None]) * covered).astype(np.float32)


def _spectra(frames: NDArray[np.uint8], window: tuple[Span, Span]) -> Floats:
    """Return what screening compares of a window of each frame, (N, 8, 8), each of norm 1: high ones weigh more."""
    down, across = (_cosines(span, _COSINES) for span in window)
    frequencies = np.arange(_COSINES)
    weights = np.hypot(frequencies[:, None], frequencies).astype(np.float32)
    found = down @ frames.astype(np.float32) @ across.T * weights
    # A frame of one grey has no structure to compare: its norm counts as 1 grey level, and it resembles nothing.
    norm = np.linalg.norm(found, axis=(1, 2), keepdims=True).astype(np.float32)
    return np.asarray(found / np.maximum(norm, np.float32(1)))


def _position(frames: NDArray[np.uint8], number: int) -> NDArray[np.uint8]:
    """Return frames (..., H, H) in one of their eight positions: turned over the diagonal or not, then flipped or not.

    The positions are those of :func:`_screened`: 4 for the diagonal, 2 for left and right, 1 for top and bottom.
    """
    turned = frames.swapaxes(-1, -2) if number & 4 else frames
    return turned[..., :: -1 if number & 1 else 1, :: -1 if number & 2 else 1]


def _screened(whole: NDArray[np.uint8], cut: NDArray[np.uint8]) -> tuple[Floats, NDArray[np.int16]]:
    """Compare frames in all their positions with the windows of others.

    Returns:
        The highest resemblance of each pair, (N, M) in -1 to 1, and at which: eight times the window and the position.
    """
    spectra = _spectra(whole, ((0.0, 1.0), (0.0, 1.0)))
    odd = np.arange(_COSINES) % 2 == 1
    rows, columns = np.broadcast_arrays(odd[:, None], odd)
    # A flip changes the sign of what is odd along its axis: one product for each parity serves four positions.
    parities = [(~rows & ~columns), (~rows & columns), (rows & ~columns), (rows & columns)]
    best = np.full((len(whole), len(cut)), -1, np.float32)
    where = np.zeros(best.shape, np.int16)
    for number, window in enumerate(_WINDOWS):
        others = _spectra(cut, window)
        for diagonal, own in enumerate((spectra, spectra.swapaxes(1, 2))):
            even, across, down, both = (own[:, part] @ others[:, part].T for part in parities)
            unflipped, flipped = even + across, even - across
            straight, turned = down + both, down - both
            for flip, score in enumerate(
                (unflipped + straight, unflipped - straight, flipped + turned, flipped - turned)
            ):
                better = score > best
                np.copyto(best, score, where=better)
                where[better] = 8 * number + 4 * diagonal + flip
    return best, where


def _candidates(whole: NDArray[np.uint8], cut: NDArray[np.uint8], one_stack: bool) -> Iterator[NDArray[np.intp]]:
    """Yield batches of pairs to look at closely, (K, 4): index in whole and in cut, window, and position of the first.

    Where both are one stack, no frame is paired with itself.
    """
    for start in range(0, len(whole), _BLOCK):
        best, where = _screened(whole[start : start + _BLOCK], cut)
        if one_stack:
            np.fill_diagonal(best[:, start:], -1)
        rows, columns = np.nonzero(best >= _SCREEN)
        windows, positions = np.divmod(where[rows, columns].astype(np.intp), 8)
        pairs = np.stack([rows + start, columns, windows, positions], axis=1)
        yield from (pairs[at : at + _BATCH] for at in range(0, len(pairs), _BATCH))


def _smaller(frames: NDArray[np.uint8], side: int) -> Floats:
    """Return thumbnails as means of blocks, float32 (N, side, side)."""
    step = SIDE // side
    return frames.reshape(len(frames), side, step, side, step).mean(axis=(2, 4), dtype=np.float32)


def _standardised(pixels: Floats, shown: Floats) -> Floats:
    """Return pixels with mean 0 and deviation 1 (at most: a frame of one grey stays 0) where they are shown, else 0."""
    count = np.maximum(shown.sum(axis=(1, 2), keepdims=True), 1)
    centred = (pixels - (pixels * shown).sum(axis=(1, 2), keepdims=True) / count) * shown
    deviation = np.sqrt((centred**2).sum(axis=(1, 2), keepdims=True) / count)
    return np.asarray(centred / np.maximum(deviation, np.float32(1e-2)))


def _pearson(first: Floats, second: Floats, shown: Floats) -> Floats:
    """Return the Pearson correlation of what is shown of each pair, (N,)."""
    product = _standardised(first, shown) * _standardised(second, shown)
    return np.asarray(product.sum(axis=(1, 2)) / np.maximum(shown.sum(axis=(1, 2)), 1))


def _correlation(first: Floats, second: Floats, shown: Floats) -> Floats:
    """Return the smaller of two Pearson correlations, of what is shown and of its centre, (N,); -1 with too little."""
    side = shown.shape[-1]
    centre = slice(round(side * _CENTRE_MARGIN), side - round(side * _CENTRE_MARGIN))
    scores = [_pearson(*(one[:, part, part] for one in (first, second, shown))) for part in (slice(None), centre)]
    return np.where(shown.mean(axis=(1, 2)) < _LEAST_OVERLAP, np.float32(-1), np.minimum(*scores)).astype(np.float32)


def _detail(pixels: Floats, shown: Floats) -> Floats:
    """Return the detail of what is shown, (N, H, W)."""
    from scipy import ndimage

    def blurred(deviation: float) -> Floats:
        sigma = (0, deviation, deviation)
        weight = np.maximum(ndimage.gaussian_filter(shown, sigma), np.float32(1e-3))
        return np.asarray(ndimage.gaussian_filter(pixels * shown, sigma) / weight)

    fine, coarse = map(blurred, _DETAIL)
    return fine - coarse


def _seen_through(frames: Floats, maps: Floats) -> tuple[Floats, Floats]:
    """Sample frames (N, H, H) through affine maps (N, 3, 3) of -1 to 1; return pixels, and 1 where inside."""
    from scipy import ndimage

    side = frames.shape[-1]
    axis = (2 * np.arange(side, dtype=np.float32) + 1) / side - 1
    across, down = np.meshgrid(axis, axis)
    places = maps[:, :2] @ np.stack([across.ravel(), down.ravel(), np.ones(side * side, np.float32)])
    numbers = np.broadcast_to(np.arange(len(frames), dtype=np.float32)[:, None], places[:, 0].shape)
    pixels = (places + 1) * side / 2 - 0.5
    seen = ndimage.map_coordinates(frames, [numbers, pixels[:, 1], pixels[:, 0]], order=1, mode="nearest")
    inside = (np.abs(places) <= 1).all(axis=1)
    return seen.reshape(frames.shape), inside.reshape(frames.shape).astype(np.float32)


def _step(target: Floats, seen: Floats, shown: Floats) -> Floats:
    """Return the affine maps (N, 3, 3) that move what is seen nearest to the target, by one step of Gauss-Newton."""
    side = seen.shape[-1]
    axis = ((2 * np.arange(side, dtype=np.float32) + 1) / side - 1)[None]
    across, down = axis[:, None, :], axis[:, :, None]
    by_row, by_column = np.gradient(seen, axis=(1, 2))
    x, y = by_column * shown * (side / 2), by_row * shown * (side / 2)
    slopes = np.stack([x * across, x * down, x, y * across, y * down, y], axis=-1).reshape(len(seen), -1, 6)
    rest = ((target - seen) * shown).reshape(len(seen), -1, 1)
    turned = slopes.swapaxes(1, 2)
    moved = np.linalg.solve(turned @ slopes + np.float32(1e-2) * np.eye(6, dtype=np.float32), turned @ rest)
    maps = np.tile(np.eye(3, dtype=np.float32), (len(seen), 1, 1))
    maps[:, :2] += np.clip(moved, -0.2, 0.2).reshape(-1, 2, 3)
    return maps


def _registered(
    whole: NDArray[np.uint8], cut: NDArray[np.uint8], windows: NDArray[np.intp], unmoved: NDArray[np.bool_]
) -> Floats:
    """Return how well each frame fits into its window of another, once that is moved to fit best, (N,) in -1 to 1.

    Args:
        whole: uint8 (N, 64, 64), in the position that fits.
        cut: uint8 (N, 64, 64), the other of each pair.
        windows: indices into the windows, (N,).
        unmoved: whether each frame is in its own position, (N,).
    """
    top, bottom, left, right = np.array(_WINDOWS, np.float32).reshape(-1, 4)[windows].T
    maps = np.tile(np.eye(3, dtype=np.float32), (len(whole), 1, 1))
    maps[:, 0, 0], maps[:, 0, 2] = right - left, left + right - 1
    maps[:, 1, 1], maps[:, 1, 2] = bottom - top, top + bottom - 1
    scores = np.full(len(whole), -1, np.float32)
    left_over = np.arange(len(whole))
    for side, steps, least in _LEVELS:
        target, other = _smaller(whole[left_over], side), _smaller(cut[left_over], side)
        best, fits = np.full(len(left_over), -1, np.float32), maps[left_over]
        trial = fits
        for _ in range(steps + 1):
            seen, shown = _seen_through(other, trial)
            score = _correlation(target, seen, shown)
            better = score > best
            best, fits = np.where(better, score, best), np.where(better[:, None, None], trial, fits)
            trial = trial @ _step(_standardised(target, shown), _standardised(seen, shown), shown)
        scores[left_over], maps[left_over] = best, fits
        scores[left_over[best < least]] = -1
        left_over = left_over[best >= least]
    in_place = unmoved & (np.abs(maps - np.eye(3, dtype=np.float32)).max(axis=(1, 2)) <= _IN_PLACE)
    asked = left_over[~in_place[left_over]]
    target = _smaller(whole[asked], SIDE)
    seen, shown = _seen_through(_smaller(cut[asked], SIDE), maps[asked])
    detail = _pearson(_detail(target, shown), _detail(seen, shown), shown)
    scores[asked] = np.minimum(scores[asked], detail)
    return scores


def _found(
    whole: NDArray[np.uint8], cut: NDArray[np.uint8], threshold: float, one_stack: bool = False
) -> Iterator[tuple[int, int, float]]:
    """Yield the frames of one stack that another shows, whole or cut: index in each, and their correlation."""
    for pairs in _candidates(whole, cut, one_stack):
        rows, columns, windows, positions = pairs.T
        turned = np.stack([_position(whole[row], int(number)) for row, number in zip(rows, positions, strict=True)])
        scores = _registered(turned, cut[columns], windows, positions == 0)
        yield from (
            (int(row), int(column), float(score))
            for row, column, score in zip(rows, columns, scores, strict=True)
            if score >= threshold
        )


def _best(found: Iterable[tuple[int, int, float]]) -> Found:
    """Return each pair once, with the highest of its correlations, sorted."""
    best: dict[tuple[int, int], float] = {}
    for i, j, score in found:
        best[i, j] = max(score, best.get((i, j), -1.0))
    return [(i, j, score) for (i, j), score in sorted(best.items())]


def pairs_between(first: NDArray[np.uint8], second: NDArray[np.uint8], threshold: float = THRESHOLD) -> Found:
    """Find near-duplicates between two stacks of thumbnails; either frame of a pair may be cut from the other.

    Args:
        first: uint8 (N, 64, 64), from :func:`thumbnail`.
        second: uint8 (M, 64, 64).
        threshold: of the smallest of the correlations.

    Returns:
        (index in first, index in second, smallest correlation), sorted.
    """
    if not len(first) or not len(second):
        return []
    swapped = ((j, i, score) for i, j, score in _found(second, first, threshold))
    return _best(itertools.chain(_found(first, second, threshold), swapped))


def pairs_within(stack: NDArray[np.uint8], threshold: float = THRESHOLD) -> Found:
    """Find near-duplicates within one stack of thumbnails: (index, larger index, smallest correlation), sorted."""
    return _best((min(i, j), max(i, j), score) for i, j, score in _found(stack, stack, threshold, one_stack=True))


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

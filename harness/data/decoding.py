"""From picture files to arrays: reading, binarising masks, and the memory-mapped cache of decoded sets.

The geometry is part of every result, so it is stated here once:

* Images are converted to 8-bit RGB and resized with PIL's antialiased bilinear filter (a triangle as wide as the
  reduction), which does not alias and, unlike bicubic and Lanczos, makes no halos around specular highlights.
* Masks are binarised at their native size, then resized by area: a pixel is polyp when at least half of what it covers
  is, fractions of native pixels included.
* ``squash`` maps the whole frame to a square; ``crop`` takes the largest centred square first.
* JPEG files are decoded at a reduced scale (``Image.draft``) when both sides stay at least twice as large as asked
  for. That changes pixels a little (on Kvasir-SEG at 128 px by 0.5 grey levels on average, 1.5 in the worst
  image) and makes small sizes faster; it is part of the rule.
* EXIF orientation is ignored: images and masks are taken as they are stored.
"""

from __future__ import annotations

import os
import shutil
import struct
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageFile, UnidentifiedImageError

from harness.errors import DataError

Result = TypeVar("Result")
Levels = NDArray[Any]
Geometry = Literal["squash", "crop"]
Progress = Callable[[int, int], None]
Decoder = Callable[[int], tuple[NDArray[np.uint8], NDArray[np.uint8]]]

# PIL warns of large pictures before it refuses them; here a warning is a refusal.
warnings.simplefilter("error", Image.DecompressionBombWarning)

#: Raise it when decoding changes a pixel: caches of another version are not used.
VERSION = 1
#: Larger pictures are refused before they are decoded (a decompression bomb can be a few hundred bytes).
MAXIMUM_PIXELS = 64_000_000
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "PPM", "JPEG2000")
EXTENSIONS = frozenset(
    (
        ".png",
        ".jpg",
        ".jpeg",
        ".jpe",
        ".tif",
        ".tiff",
        ".bmp",
        ".dib",
        ".gif",
        ".webp",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
        ".jp2",
    )
)
# What PIL's readers raise on damaged files.
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, MemoryError, IndexError, KeyError, OverflowError, struct.error)
_DRAFT_GAP = 2
_GREY = 24
_LUMA = (0.299, 0.587, 0.114)


@contextmanager
def open_picture(file: Path | BinaryIO) -> Iterator[Image.Image]:
    """Open a picture without decoding its pixels yet.

    Raises:
        DataError: it is not a picture of a known format, is too large, has several frames, or cannot be decoded. The
            sentence does not name the file; the caller does.
    """
    ImageFile.LOAD_TRUNCATED_IMAGES = False  # some libraries set it, and half a picture would be grey
    try:
        with Image.open(file, formats=FORMATS) as picture:
            if picture.width * picture.height > MAXIMUM_PIXELS:
                raise Image.DecompressionBombError
            if (frames := getattr(picture, "n_frames", 1)) > 1 and picture.format != "MPO":
                raise DataError(f"holds {frames} frames; save one frame a file")
            yield picture
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DataError(
            f"has more than {MAXIMUM_PIXELS:,} pixels and is refused as a decompression bomb; make it smaller"
        ) from None
    except UnidentifiedImageError:
        raise DataError("is not a picture that can be read; save it as PNG, JPEG, TIFF or BMP") from None
    except _DAMAGED as error:
        raise DataError(f"cannot be decoded ({error}); it is truncated or damaged, copy it again") from None


def to_rgb(picture: Image.Image) -> Image.Image:
    """Convert to 8-bit RGB; 16-bit grey keeps its high byte, transparency is dropped.

    Raises:
        DataError: pixels are of a type that has no fixed range (32-bit integers or floats).
    """
    if picture.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8)).convert("RGB")
    if picture.mode in ("I", "F"):
        raise DataError(
            f"has 32-bit pixels (mode {picture.mode}), whose range is unknown; save it with 8 bits a channel"
        )
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _smallest(channel: Image.Image) -> float:
    return cast("tuple[float, float]", channel.getextrema())[0]


def _largest(channel: Image.Image) -> float:
    return cast("tuple[float, float]", channel.getextrema())[1]


def _channels(picture: Image.Image) -> list[Levels]:
    """Return a mask's channels, each (H, W): its colours, or palette numbers or opacity when colours say nothing."""
    mode = picture.mode
    if mode in ("1", "L"):
        return [np.asarray(picture.convert("L"))]
    if mode.startswith(("I", "F")):
        return [np.asarray(picture)]
    coloured = picture.convert("RGB")
    red, green, blue = coloured.split()
    if all(_smallest(channel) == _largest(channel) for channel in (red, green, blue)):
        hidden = picture.getchannel("A" if mode in ("RGBA", "LA") else 0)
        tells = mode in ("P", "PA", "RGBA", "LA") and _smallest(hidden) < _largest(hidden)
        return [np.asarray(hidden if tells else coloured.convert("L"))]
    # A grey mask in three channels (JPEG rounds them apart by a little) needs looking at once, not three times.
    if all(_largest(ImageChops.difference(red, other)) <= _GREY for other in (green, blue)):
        return [np.asarray(coloured.convert("L"))]
    return [np.asarray(channel) for channel in (red, green, blue)]


def binarise(picture: Image.Image, verify: bool = True) -> NDArray[np.bool_]:
    """Turn a mask of any two values into booleans; the brighter of the two is polyp.

    The channel with the widest range is cut halfway between its extremes. A mask of one value is empty when that
    value is 0 and all polyp otherwise. With ``verify``, a mask must really have two values: pixels farther from their
    side's median than a quarter of the distance between the two medians (in any channel) are *in between*. Lossy
    compression and smoothed edges leave thin lines of those; a third value leaves areas. So a mask is refused when
    in-between pixels fill a block of 5 x 5 anywhere, or make up more than a quarter of it.

    Args:
        picture: any mode, 8 or 16 bits, palette, colour or 1-bit.
        verify: check that there are two values; off for files that were checked at import.

    Returns:
        bool (H, W).

    Raises:
        DataError: the mask is not binary.
    """
    channels = _channels(picture)
    ranges = [(float(channel.min()), float(channel.max())) for channel in channels]
    if not np.isfinite(ranges).all():
        raise DataError("is not a binary mask: it has values that are not numbers")
    widest = max(range(len(channels)), key=lambda index: ranges[index][1] - ranges[index][0])
    low, high = ranges[widest]
    if low == high:
        return np.full(channels[0].shape, high > 0)
    above: NDArray[np.bool_] = channels[widest] > (low + high) / 2
    if len(channels) == 1 and not verify:
        return above
    sides = [(float(np.median(channel[~above])), float(np.median(channel[above]))) for channel in channels]
    if verify:
        _verify_two_values(channels, above, sides)
    if len(channels) == 1:
        return above
    brighter = sum(weight * (upper - lower) for weight, (lower, upper) in zip(_LUMA, sides, strict=True)) >= 0
    return above if brighter else ~above


def _verify_two_values(channels: list[Levels], above: NDArray[np.bool_], sides: list[tuple[float, float]]) -> None:
    allowed = max(abs(upper - lower) for lower, upper in sides) / 4
    between = np.zeros(above.shape, dtype=bool)
    for channel, (lower, upper) in zip(channels, sides, strict=True):
        near_lower = (channel >= lower - allowed) & (channel <= lower + allowed)
        near_upper = (channel >= upper - allowed) & (channel <= upper + allowed)
        between |= ~np.where(above, near_upper, near_lower)
    share = float(between.mean())
    if share > 0.25 or _has_block(between):
        dark, bright = (tuple(int(side[which]) for side in sides) for which in (0, 1))
        raise DataError(
            f"is not a binary mask: besides {dark if len(dark) > 1 else dark[0]} and "
            f"{bright if len(bright) > 1 else bright[0]}, "
            f"{share:.1%} of its pixels have other values; save it with two values"
        )


def _has_block(marked: NDArray[np.bool_], side: int = 5) -> bool:
    """Say whether a square of ``side`` marked pixels lies anywhere."""
    if not marked.any() or min(marked.shape) < side:
        return False
    height, width = marked.shape[0] - side + 1, marked.shape[1] - side + 1
    rows = np.logical_and.reduce([marked[shift : shift + height] for shift in range(side)])
    return bool(np.logical_and.reduce([rows[:, shift : shift + width] for shift in range(side)]).any())


def resize_image(picture: Image.Image, size: int, geometry: Geometry) -> NDArray[np.uint8]:
    """Decode and resize an open image to uint8 (size, size, 3) by the rule at the top of this module."""
    picture.draft(None, (_DRAFT_GAP * size, _DRAFT_GAP * size))
    rgb = to_rgb(picture)
    return np.asarray(rgb.resize((size, size), Image.Resampling.BILINEAR, box=_box(rgb.size, geometry)))


def resize_mask(mask: NDArray[np.bool_], size: int, geometry: Geometry) -> NDArray[np.uint8]:
    """Resize a native mask, bool (H, W), to uint8 (size, size): 1 where at least half of a pixel's area is polyp.

    The area is exact, also where a pixel covers fractions of native ones (PIL's box filter counts whole pixels only).
    """
    left, top, right, bottom = _box((mask.shape[1], mask.shape[0]), geometry)
    covered = _integrate(_integrate(mask, top, bottom, size).T, left, right, size).T
    half = (right - left) * (bottom - top) / (2 * size * size)
    return (covered >= half * (1 - 1e-9)).astype(np.uint8)


def _integrate(values: NDArray[Any], start: float, stop: float, parts: int) -> NDArray[np.float64]:
    """Integrate a function that is constant on each row over ``parts`` equal stretches: (N, M) to (parts, M)."""
    total = np.zeros((len(values) + 1, values.shape[1]))
    np.cumsum(values, axis=0, out=total[1:])
    edges = np.linspace(start, stop, parts + 1)
    row = np.minimum(edges.astype(np.intp), len(values) - 1)
    fraction = (edges - row)[:, None]
    return np.diff(total[row] * (1 - fraction) + total[row + 1] * fraction, axis=0)


def _box(native: tuple[int, int], geometry: Geometry) -> tuple[float, float, float, float]:
    """Return the part of a frame that is kept, as (left, top, right, bottom) in its pixels."""
    width, height = native
    if geometry == "squash":
        return (0, 0, width, height)
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return (left, top, left + side, top + side)


def cached_arrays(
    folder: Path, count: int, size: int, decoder: Decoder, progress: Progress | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Open the decoded pairs of ``folder``, decoding them first when it does not exist.

    The folder appears by one atomic rename, so any number of processes may ask at once: the first to finish puts its
    result in place and the others discard theirs.

    Args:
        folder: of this set at this size; named after everything that decides the pixels.
        count: how many pairs.
        size: side in pixels.
        decoder: maps an index to an image uint8 (size, size, 3) and a mask uint8 (size, size); called from several
            threads.
        progress: called with pairs done and their total.

    Returns:
        Images uint8 (count, size, size, 3) and masks uint8 (count, size, size), memory-mapped and read-only.

    Raises:
        DataError: a file can no longer be decoded, or there is no room on the disk.
    """
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        needed, free = count * size * size * 4, shutil.disk_usage(folder.parent).free
        if needed > free:
            raise DataError(
                f"Decoding {count} pairs at {size} px needs {needed / 1e9:.1f} GB but {folder.parent} has "
                f"{free / 1e9:.1f} GB "
                "free; make room, or move HARNESS_HOME to a larger disk."
            )
        with staging_folder(folder.parent) as staging:
            _fill(staging, count, size, decoder, progress)
            put_in_place(staging, folder)
    return np.load(folder / "images.npy", mmap_mode="r"), np.load(folder / "masks.npy", mmap_mode="r")


def _fill(folder: Path, count: int, size: int, decoder: Decoder, progress: Progress | None) -> None:
    images = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, (count, size, size, 3))
    masks = np.lib.format.open_memmap(folder / "masks.npy", "w+", np.uint8, (count, size, size))

    def store(index: int) -> None:
        images[index], masks[index] = decoder(index)

    for done, _ in enumerate(in_threads(store, range(count)), start=1):
        if progress:
            progress(done, count)
    images.flush()
    masks.flush()


def in_threads(work: Callable[[int], Result], items: Iterable[int]) -> Iterator[Result]:
    """Apply ``work`` to each item in a few threads (PIL and NumPy release the interpreter lock); yield results in
    order.

    The first exception stops it: what has not begun is not begun.
    """
    pool = ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1))
    try:
        yield from pool.map(work, items)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def staging_folder(parent: Path) -> Iterator[Path]:
    """Make a temporary folder beside its final place, so that a rename is atomic, and leave nothing of it."""
    parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".incomplete-", dir=parent))
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def put_in_place(staging: Path, folder: Path) -> bool:
    """Rename ``staging`` to ``folder``; return False when another process was first."""
    staging.chmod(0o755)  # mkdtemp keeps others out, but a dataset may be shared
    try:
        staging.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
        return False
    return True

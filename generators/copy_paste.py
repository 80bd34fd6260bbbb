"""Copy-paste: real polyps blended into other real frames."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from harness.learning import Card, Checkpoint, FitContext, Generator, HarnessError, Parameters, Sample, SampleContext

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from harness.learning import PairSet

#: Grey levels below which a pixel counts as outside the endoscope's field of view, or as too dark to hold a polyp.
_DARK = 40
#: The membrane of colour differences is smooth: it is computed on every fourth pixel.
_COARSE = 4
#: Grey levels that a polyp's colour may be moved by; further, and it looks like no tissue.
_FURTHEST_COLOUR = 70


class CopyPasteParameters(Parameters):
    """What copy-paste can be told. Lengths are fractions of the shorter side of the frame."""

    smallest_scale: float = Field(0.6, gt=0, description="smallest zoom of a pasted polyp")
    largest_scale: float = Field(1.3, gt=0, description="largest zoom of a pasted polyp; not below smallest_scale")
    largest: float = Field(0.4, gt=0, le=1, description="longest side of a pasted polyp's box; larger ones are shrunk")
    rotation: float = Field(180.0, ge=0, le=180, description="furthest rotation either way, in degrees")
    feather: float = Field(
        0.04, gt=0, le=0.2, description="width of the rim over which a pasted polyp fades into the frame"
    )
    colour_match: float = Field(
        0.9, ge=0, le=1, description="how far a pasted polyp takes on the colour and light of its new surroundings"
    )
    places: int = Field(24, ge=1, description="random places that are tried for a polyp; the most plausible is taken")


@dataclass(frozen=True)
class _Polyps:
    """Where the polyps of a set of masks are, one row a pair that has one.

    Attributes:
        pairs: positions in the set.
        centres: row and column of each box's centre, in pixels.
        sides: height and width of each box, in pixels.
    """

    pairs: NDArray[np.intp]
    centres: NDArray[np.float64]
    sides: NDArray[np.int64]


class CopyPaste(Generator):
    """Polyps cut out of real frames, moved, and blended into other real frames at a plausible place.

    After Ghiasi et al. 2021, "Simple Copy-Paste is a Strong Data Augmentation Method for Instance Segmentation", with
    what endoscopic frames
    need: the rim fades out, and the differences to the new surroundings, taken around the polyp, are spread smoothly
        over it - the membrane of
    Poisson image editing (Perez et al. 2003), here by normalised convolution. The polyp that the frame already has
    stays; the mask is the union.
    """

    name: ClassVar[str] = "copy-paste"
    Parameters: ClassVar[type[Parameters]] = CopyPasteParameters
    card: ClassVar[Card] = Card(learns=False, control=True, cost="milliseconds a pair on a CPU")
    parameters: CopyPasteParameters

    @classmethod
    def example(cls) -> dict[str, Any]:
        """Return parameters for a run of a second."""
        return {"places": 4}

    def fit(self, pairs: PairSet, context: FitContext) -> Iterator[Checkpoint]:
        """Learn nothing; yield one empty checkpoint at step 0.

        Raises:
            HarnessError: no pair has a polyp.
        """
        _find_polyps(pairs)
        context.progress(1, 1)
        yield Checkpoint(0, context.checkpoint_folder(0))

    def sample(
        self,
        checkpoint: Checkpoint,
        seeds: NDArray[np.int64],
        context: SampleContext,
        masks: NDArray[np.uint8] | None = None,
    ) -> Sample:
        """Make one pair a seed: the seed picks polyp, frame, transform and place.

        The sources of a pair are the id of the polyp's pair and the id of the frame's.

        Raises:
            HarnessError: no pair has a polyp.
        """
        import numpy as np

        pairs = context.pairs
        polyps = _find_polyps(pairs)
        images = np.empty((len(seeds), *pairs.images.shape[1:]), np.uint8)
        unions = np.empty(images.shape[:3], np.uint8)
        sources = []
        for i, seed in enumerate(seeds):
            randomness = np.random.default_rng(int(seed) % 2**64)
            chosen = int(randomness.integers(len(polyps.pairs)))
            source = int(polyps.pairs[chosen])
            target = source
            if len(pairs) > 1:
                target = int(randomness.integers(len(pairs) - 1))
                target += target >= source
            images[i], unions[i] = self._paste(pairs, polyps, chosen, target, randomness)
            sources.append((pairs.ids[source], pairs.ids[target]))
        return Sample(unions, images, tuple(sources))

    def _paste(
        self, pairs: PairSet, polyps: _Polyps, chosen: int, target: int, randomness: np.random.Generator
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Blend one polyp into one frame; return image and mask."""
        import numpy as np

        source = int(polyps.pairs[chosen])
        frame, frame_mask = np.asarray(pairs.images[target]), np.asarray(pairs.masks[target])
        image, mask = np.asarray(pairs.images[source]), np.asarray(pairs.masks[source])
        inverse, sides = self._draw_transform(polyps.sides[chosen], frame.shape[:2], randomness)
        colour = _surrounding_colour(image, mask, max(2, round(self.parameters.feather * min(mask.shape))))
        place = self._choose_place(frame, frame_mask, colour, sides, randomness)
        moved, polyp, inside = _move(image, mask, inverse, polyps.centres[chosen], place)
        return self._blend(frame, frame_mask, moved, polyp, inside)

    def _draw_transform(
        self, sides: NDArray[np.int64], shape: tuple[int, ...], randomness: np.random.Generator
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Draw zoom, rotation, flip; return the matrix from new (row, column) offsets to old, and the new sides."""
        import numpy as np

        settings = self.parameters
        widest = max(settings.smallest_scale, settings.largest_scale)
        zoom = math.exp(randomness.uniform(math.log(settings.smallest_scale), math.log(widest)))
        zoom = min(zoom, settings.largest * min(shape) / float(max(sides)))
        angle = math.radians(randomness.uniform(-settings.rotation, settings.rotation))
        mirror = -1.0 if randomness.random() < 0.5 else 1.0
        cosine, sine = math.cos(angle), math.sin(angle)
        forward = zoom * np.array([[cosine, -sine], [sine, cosine]]) @ np.diag([1.0, mirror])
        inverse = np.asarray(np.linalg.inv(forward), np.float64)
        return inverse, np.abs(forward) @ sides

    def _choose_place(
        self,
        frame: NDArray[np.uint8],
        frame_mask: NDArray[np.uint8],
        colour: NDArray[np.float64],
        sides: NDArray[np.float64],
        randomness: np.random.Generator,
    ) -> NDArray[np.float64]:
        """Return the most plausible (row, column) of random centres: no polyp, no darkness, the nearest colour.

        A box's sum comes from four corners of a summed-area table, for all candidates at once.
        """
        import numpy as np

        limits = np.array(frame_mask.shape, np.float64)
        half = np.minimum(sides, limits - 1) / 2
        centres = half + randomness.random((self.parameters.places, 2)) * np.maximum(limits - 2 * half, 0)
        top, left = np.clip(np.floor(centres - half), 0, limits - 1).astype(int).T
        bottom, right = np.clip(np.ceil(centres + half), 1, limits).astype(int).T
        dark = _brightness(frame) < _DARK
        layers = np.dstack([frame, frame_mask, dark]).astype(np.float32)
        table = np.zeros((frame.shape[0] + 1, frame.shape[1] + 1, layers.shape[2]))
        np.cumsum(np.cumsum(layers, axis=0), axis=1, dtype=np.float64, out=table[1:, 1:])
        total = table[bottom, right] - table[top, right] - table[bottom, left] + table[top, left]
        mean = total / ((bottom - top) * (right - left))[:, None]
        distance = np.abs(mean[:, :3] - colour).mean(axis=1) / 255
        place: NDArray[np.float64] = centres[np.argmin(distance + 4 * mean[:, 3] + 2 * mean[:, 4])]
        return place

    def _blend(
        self,
        frame: NDArray[np.uint8],
        frame_mask: NDArray[np.uint8],
        moved: NDArray[np.uint8],
        polyp: NDArray[np.uint8],
        inside: NDArray[np.uint8],
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Blend a moved polyp and its rim over a frame.

        Args:
            frame: uint8 (H, W, 3).
            frame_mask: uint8 (H, W) in {0, 1}.
            moved: uint8 (H, W, 3), the polyp's own image at its new place.
            polyp: uint8 (H, W), 0 to 255, its mask there.
            inside: uint8 (H, W), 255 where ``moved`` has content.
        """
        import numpy as np

        width = max(1, round(self.parameters.feather * min(polyp.shape)))
        rim = _grown(polyp, width)
        content = np.minimum(_blurred(rim, width / 1.5), _blurred(_shrunk(inside, width), width / 2))
        opacity = content.astype(np.float32) / 255
        pasted = (polyp > 127) & (inside > 127)
        # The rim is mucosa, which must not cover the polyp that the frame has: the mask of that one stays.
        narrow = opacity * (_blurred(polyp, 1.0).astype(np.float32) / 255)
        opacity = np.where((frame_mask > 0) & ~pasted, narrow, opacity)
        opacity = np.where(pasted, np.maximum(opacity, 0.9), opacity)[..., None]
        lit = np.minimum(_brightness(frame), _brightness(moved)) >= _DARK
        around = (_grown(rim, width) > 127) & (polyp < 64) & (frame_mask == 0) & lit
        membrane = _spread(frame.astype(np.float32) - moved, around, max(polyp.shape) / 12)
        membrane = np.clip(membrane, -_FURTHEST_COLOUR, _FURTHEST_COLOUR)
        blended = frame * (1 - opacity) + (moved + self.parameters.colour_match * membrane) * opacity
        return np.rint(np.clip(blended, 0, 255)).astype(np.uint8), np.maximum(frame_mask, pasted.astype(np.uint8))


def _find_polyps(pairs: PairSet) -> _Polyps:
    """Return the boxes of all polyps; where there are any that neither the frame nor darkness cuts, only of those.

    Raises:
        HarnessError: no mask has a polyp.
    """
    import numpy as np

    whole: list[tuple[int, NDArray[np.intp], NDArray[np.intp]]] = []
    cut: list[tuple[int, NDArray[np.intp], NDArray[np.intp]]] = []
    for i in range(len(pairs)):
        mask = np.asarray(pairs.masks[i])
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if len(rows):
            first, last = np.array([rows[0], columns[0]]), np.array([rows[-1], columns[-1]])
            (cut if _is_cut(np.asarray(pairs.images[i]), mask) else whole).append((i, first, last))
    found = whole or cut
    if not found:
        raise HarnessError(
            f"copy-paste found no polyp in any of the {len(pairs)} masks it was given; "
            "it needs at least one pair whose mask is not empty."
        )
    first, last = np.stack([f for _, f, _ in found]), np.stack([f for _, _, f in found])
    return _Polyps(np.array([i for i, _, _ in found]), (first + last) / 2, last - first + 1)


def _is_cut(image: NDArray[np.uint8], mask: NDArray[np.uint8]) -> bool:
    """Say whether more than a twentieth of the pixels around a polyp are dark or beyond the frame's edge."""
    import numpy as np

    polyp = np.pad(mask > 0, 2)
    dark = np.pad(_brightness(image) < _DARK, 2, constant_values=True)
    grown = polyp.copy()
    grown[1:-1] |= polyp[2:] | polyp[:-2]
    grown[:, 1:-1] |= polyp[:, 2:] | polyp[:, :-2]
    rim = grown & ~polyp
    return bool(dark[rim].mean() > 0.05)


def _move(
    image: NDArray[np.uint8],
    mask: NDArray[np.uint8],
    inverse: NDArray[np.float64],
    centre: NDArray[np.float64],
    place: NDArray[np.float64],
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
    """Move image and mask so that ``centre`` comes to ``place``; return both and where there is content (0 to 255)."""
    import numpy as np
    from PIL import Image

    # Pillow maps output pixel centres (x + 1/2, y + 1/2) to input ones: columns first, so the matrix is turned round.
    matrix = inverse[::-1, ::-1]
    offset = (centre + 0.5)[::-1] - matrix @ (place + 0.5)[::-1]
    coefficients = (*matrix[0], offset[0], *matrix[1], offset[1])
    full = np.full(mask.shape, 255, np.uint8)

    def moved(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
        picture = Image.fromarray(values)
        return np.asarray(
            picture.transform(picture.size, Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)
        )

    return moved(image), moved(mask * np.uint8(255)), moved(full)


def _brightness(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the brightest channel (H, W) of (H, W, 3); three slices are many times faster than a reduction over 3."""
    import numpy as np

    return np.maximum(np.maximum(image[..., 0], image[..., 1]), image[..., 2])


def _grown(mask: NDArray[np.uint8], pixels: int) -> NDArray[np.uint8]:
    from scipy import ndimage

    return ndimage.maximum_filter(mask, 2 * pixels + 1)


def _shrunk(mask: NDArray[np.uint8], pixels: int) -> NDArray[np.uint8]:
    from scipy import ndimage

    return ndimage.minimum_filter(mask, 2 * pixels + 1, mode="constant", cval=255)


def _blurred(mask: NDArray[np.uint8], deviation: float) -> NDArray[np.uint8]:
    import numpy as np
    from PIL import Image, ImageFilter

    return np.asarray(Image.fromarray(mask).filter(ImageFilter.GaussianBlur(deviation)))


def _surrounding_colour(image: NDArray[np.uint8], mask: NDArray[np.uint8], width: int) -> NDArray[np.float64]:
    """Return the mean colour (3,) of the rim around a polyp, or of the image when the polyp fills it."""
    import numpy as np

    rim = (_grown(mask, width) > 0) & (mask == 0)
    return np.asarray(image[rim].mean(axis=0) if rim.any() else image.mean(axis=(0, 1)))


def _spread(values: NDArray[np.float32], known: NDArray[np.bool_], deviation: float) -> NDArray[np.float32]:
    """Extend values smoothly from where they are known to the whole frame, by normalised convolution.

    Args:
        values: float32 (H, W, 3).
        known: (H, W).
        deviation: of the Gaussian, in pixels.

    Returns:
        float32 (H, W, 3); zeros when nothing is known.
    """
    import numpy as np
    from PIL import Image
    from scipy import ndimage

    if not known.any():
        return np.zeros_like(values)
    height, width = known.shape
    rows, columns = -(-height // _COARSE), -(-width // _COARSE)
    weighted = np.zeros((rows * _COARSE, columns * _COARSE, 4), np.float32)
    weighted[:height, :width, :3] = values * known[..., None]
    weighted[:height, :width, 3] = known
    coarse = weighted.reshape(rows, _COARSE, columns, _COARSE, 4).sum(axis=(1, 3))
    sigma = deviation / _COARSE
    smooth = ndimage.gaussian_filter(coarse, (sigma, sigma, 0), mode="constant")
    # Far from everything known the weights vanish: there the mean of all known values stands.
    mean = coarse[..., :3].sum(axis=(0, 1)) / coarse[..., 3].sum()
    floor = 1e-3 * smooth[..., 3].max()
    extended = (smooth[..., :3] + floor * mean) / (smooth[..., 3:] + floor)
    full_size = (columns * _COARSE, rows * _COARSE)
    channels = [
        np.asarray(Image.fromarray(extended[..., k]).resize(full_size, Image.Resampling.BILINEAR)) for k in range(3)
    ]
    return np.stack(channels, axis=-1)[:height, :width]

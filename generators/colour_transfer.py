"""Colour transfer: gives each synthetic image the colours of the real image that it was made from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from harness.learning import Parameters, Refiner, Sample, SampleContext

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from harness.learning import PairSet

#: Linear sRGB to CIE XYZ (IEC 61966-2-1, D65), and the XYZ of its white.
_TO_XYZ = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041))
_WHITE = (0.95047, 1.0, 1.08883)
#: CIE 15:2004: below this the cube root of CIELAB becomes a straight line.
_LINEAR_BELOW = (6 / 29) ** 3
_FLATTEST = 1e-3


class ColourTransferParameters(Parameters):
    """What a colour transfer can be told."""

    strength: float = Field(
        1.0, ge=0, le=1, description="0 leaves the image as it is, 1 gives it the source's colour statistics"
    )


class ColourTransfer(Refiner):
    """Mean and spread of each colour channel taken over from the real source image (Reinhard et al. 2001).

    Implements Reinhard, Ashikhmin, Gooch and Shirley, "Color Transfer between Images", IEEE CG&A 21(5), 2001, equations
    10 and 11: subtract the mean, scale by the ratio of standard deviations, add the source's mean. In CIELAB instead of
    the paper's l-alpha-beta: both separate lightness from two nearly independent opponent channels, but l-alpha-beta
    takes the logarithm of the cone responses, and the black border of an endoscopic frame then dominates every mean and
    spread; CIELAB's root is linear near black. The mask stays as it is.
    """

    name: ClassVar[str] = "colour-transfer"
    Parameters: ClassVar[type[Parameters]] = ColourTransferParameters
    parameters: ColourTransferParameters

    @classmethod
    def example(cls) -> dict[str, Any]:
        """Return parameters for a run of a second."""
        return {"strength": 0.8}

    def refine(self, synthetic: PairSet, sources: PairSet, seeds: NDArray[np.int64], context: SampleContext) -> Sample:
        """Give image i the colour statistics of ``sources.images[i]``; seeds do not matter, sizes may differ."""
        import numpy as np

        images = np.empty(synthetic.images.shape, np.uint8)
        for start in range(0, len(synthetic), context.batch_size):
            chunk = slice(start, start + context.batch_size)
            images[chunk] = transfer_colour(synthetic.images[chunk], sources.images[chunk], self.parameters.strength)
        return Sample(np.array(synthetic.masks), images, tuple((name,) for name in sources.ids))


def transfer_colour(images: NDArray[np.uint8], sources: NDArray[np.uint8], strength: float = 1.0) -> NDArray[np.uint8]:
    """Move each image's CIELAB mean and standard deviation to those of its source.

    Args:
        images: uint8 (N, H, W, 3), sRGB.
        sources: uint8 (N, H', W', 3), sRGB.
        strength: 0 to 1, a straight mix of the image's own statistics and the source's, in CIELAB.

    Returns:
        uint8 (N, H, W, 3); colours outside sRGB are clipped.
    """
    import numpy as np

    own, wanted = rgb_to_lab(images), rgb_to_lab(sources)
    mean, spread = own.mean((1, 2), keepdims=True), own.std((1, 2), keepdims=True)
    ratio = wanted.std((1, 2), keepdims=True) / np.maximum(spread, _FLATTEST)
    moved = (own - mean) * ratio + wanted.mean((1, 2), keepdims=True)
    return lab_to_rgb(own + strength * (moved - own))


def rgb_to_lab(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Convert sRGB uint8 (..., 3) to CIELAB float32 (..., 3): L in [0, 100], a and b about [-110, 110] (D65)."""
    import numpy as np

    value = np.arange(256) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4).astype(np.float32)
    relative = linear[images] @ (np.array(_TO_XYZ) / np.array(_WHITE)[:, None]).T.astype(np.float32)
    root = np.where(relative > _LINEAR_BELOW, np.cbrt(relative), relative * (841 / 108) + 4 / 29)
    x, y, z = np.moveaxis(root, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1).astype(np.float32)


def lab_to_rgb(lab: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Convert CIELAB float (..., 3) to sRGB uint8 (..., 3), clipped; the inverse of :func:`rgb_to_lab`."""
    import numpy as np

    y = (lab[..., 0] + 16) / 116
    root = np.stack([y + lab[..., 1] / 500, y, y - lab[..., 2] / 200], axis=-1)
    relative = np.where(root > 6 / 29, root**3, (root - 4 / 29) * (108 / 841))
    to_rgb = np.linalg.inv(np.array(_TO_XYZ) / np.array(_WHITE)[:, None])
    linear = np.clip(relative @ to_rgb.T, 0, 1)
    encoded = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.rint(encoded * 255).astype(np.uint8)

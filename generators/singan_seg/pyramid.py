"""The sizes of a SinGAN's scales, and the resizing between them as products with small matrices."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Size = tuple[int, int]

#: Keys' bicubic kernel reaches two pixels either way.
_REACH = 2
_A = -0.5


@dataclass(frozen=True)
class Pyramid:
    """The scales of one image, coarse to fine.

    Attributes:
        full: height and width in pixels of the image as it is given.
        sizes: height and width of each scale; the last one is what is made.
        ratio: side of a scale over that of the next finer one.
        shrink: what the given image is resized by before everything else; 1 when it is small enough.
    """

    full: Size
    sizes: tuple[Size, ...]
    ratio: float
    shrink: float

    @classmethod
    def of(cls, height: int, width: int, smallest: int, largest: int, factor: float) -> Pyramid:
        """Return the pyramid that SinGAN's published code gives an image.

        Args:
            height: of the image, in pixels.
            width: of the image.
            smallest: shorter side of the coarsest scale.
            largest: longer side of the finest scale; larger images are reduced to it.
            factor: the ratio of neighbouring scales that is aimed at; the one that fits is near it.
        """
        short, long = min(height, width), max(height, width)
        wanted = math.ceil(math.log(smallest / short, factor)) + 1
        beyond = math.ceil(math.log(min(largest, long) / long, factor))
        last = max(wanted - beyond, 1)
        shrink = min(largest / long, 1.0)
        whole = _resized((height, width), shrink)
        ratio = min((smallest / min(whole)) ** (1 / last), 1.0)
        return cls((height, width), tuple(_resized(whole, ratio ** (last - i)) for i in range(last + 1)), ratio, shrink)

    def of_images(self, pictures: Tensor) -> list[Tensor]:
        """Return pictures (..., H, W) in [-1, 1] at every scale, coarse to fine, each resized from the full picture."""
        last = len(self.sizes) - 1
        whole = resized(pictures, self.sizes[-1], self.shrink) if self.shrink < 1 else pictures
        return [
            whole if i == last else resized(whole, size, self.ratio ** (last - i)) for i, size in enumerate(self.sizes)
        ]

    def finer(self, pictures: Tensor, scale: int) -> Tensor:
        """Return pictures (..., h, w) of the scale before as pictures of ``scale``; what is too much is cut off."""
        return resized(pictures, self.sizes[scale], 1 / self.ratio)


def _resized(size: Size, scale: float) -> Size:
    # A whole number that lost its last bit must not become the next one.
    height, width = (math.ceil(side * scale - 1e-6) for side in size)
    return height, width


def resized(pictures: Tensor, size: Size, scale: float) -> Tensor:
    """Resize pictures as MATLAB's ``imresize`` does: bicubic (a = -0.5), antialiased when smaller, mirrored borders.

    Args:
        pictures: float (..., H, W).
        size: of the result in pixels; less than the scale gives cuts rows and columns off at the end.
        scale: of both sides.

    Returns:
        float (..., h, w) in [-1, 1]: what the kernel overshoots is cut.
    """
    rows = _matrix(pictures.shape[-2], size[0], scale, pictures.dtype, pictures.device)
    columns = _matrix(pictures.shape[-1], size[1], scale, pictures.dtype, pictures.device)
    return (rows @ pictures @ columns.T).clamp(-1, 1)


@cache
def _matrix(before: int, after: int, scale: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.from_numpy(resizing_matrix(before, after, scale)).to(device, dtype)


def resizing_matrix(before: int, after: int, scale: float) -> NDArray[np.float64]:
    """Return float64 (after, before): what each pixel of a resized line takes of each pixel of the line."""
    widened = min(scale, 1.0)
    centres = (np.arange(after) + 0.5) / scale - 0.5
    reach = _REACH / widened
    taken = np.floor(centres - reach)[:, None] + np.arange(math.ceil(2 * reach) + 2)
    weights = _cubic(np.abs(centres[:, None] - taken) * widened)
    weights /= weights.sum(axis=1, keepdims=True)
    # Beyond a border stands the mirror image, the border pixel first.
    mirrored = taken.astype(int) % (2 * before)
    mirrored = np.where(mirrored < before, mirrored, 2 * before - 1 - mirrored)
    matrix = np.zeros((after, before))
    np.add.at(matrix, (np.arange(after)[:, None], mirrored), weights)
    return matrix


def _cubic(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the cubic convolution kernel of Keys 1981 at distances in pixels."""
    near = (_A + 2) * distance**3 - (_A + 3) * distance**2 + 1
    far = _A * (distance**3 - 5 * distance**2 + 8 * distance - 4)
    return np.where(distance <= 1, near, np.where(distance < _REACH, far, 0.0))


def truncated(pictures: Tensor) -> Tensor:
    """Round pictures in [-1, 1] down to what a byte can hold, as the published code does whenever it resizes."""
    return ((pictures + 1) * 127.5).clamp(0, 255).floor() / 127.5 - 1

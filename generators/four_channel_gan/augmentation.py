"""Differentiable augmentation of what a discriminator sees (DiffAugment, Zhao et al. 2020, arXiv 2006.10738).

With few real pictures a discriminator learns them by heart. When it sees real and made pictures through the same random
changes, and the generator's gradient passes through them, it has to judge what the changes leave alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from generators.four_channel_gan.pictures import random_windows


def _colour(pictures: Tensor, drawn: Tensor, mask_too: bool) -> Tensor:
    """Jitter brightness by +-0.5, saturation by 0 to 2 and contrast by 0.5 to 1.5."""
    draws = drawn[:, :, None, None, None]
    colours, mask = (pictures, pictures[:, :0]) if mask_too else (pictures[:, :3], pictures[:, 3:])
    # All three are affine in the channels, so that two small maps do what would take six passes over the pixels.
    grey = colours.mean(dim=1, keepdim=True)
    mean = grey.mean(dim=(2, 3), keepdim=True)
    saturation, contrast = 2 * draws[1], 0.5 + draws[2]
    shift = (contrast * (1 - saturation)) * grey + (1 - contrast) * mean + (draws[0] - 0.5)
    return torch.cat([torch.addcmul(shift, colours, contrast * saturation), mask], dim=1)


def _translation(pictures: Tensor, drawn: Tensor, mask_too: bool, furthest: float = 0.125) -> Tensor:
    """Shift image and mask together by up to an eighth of the side; what comes in is zero."""
    _, _, height, width = pictures.shape
    # Drawn as a share of the side, so that pictures of two sizes shift alike.
    shares = (drawn * 2 - 1) * furthest
    reach = max(1, round(height * furthest))
    rows, columns = (shares[0] * height).round().long(), (shares[1] * width).round().long()
    padded = nn.functional.pad(pictures, (reach, reach, reach, reach))
    return random_windows(padded, rows + reach, columns + reach, height, width)


def _cutout(pictures: Tensor, drawn: Tensor, mask_too: bool) -> Tensor:
    """Set one square of half the side, anywhere and partly outside, to zero in image and mask."""
    _, _, height, width = pictures.shape
    row, column = (drawn[0] * height).floor()[:, None], (drawn[1] * width).floor()[:, None]
    down = (torch.arange(height, device=pictures.device) - row).abs() < height // 4
    across = (torch.arange(width, device=pictures.device) - column).abs() < width // 4
    return pictures.masked_fill(down[:, None, :, None] & across[:, None, None, :], 0)


#: What each augmentation does, and how many numbers a picture it draws.
_AUGMENTATIONS = {"colour": (_colour, 3), "translation": (_translation, 2), "cutout": (_cutout, 2)}


def draw_augmentation(count: int, names: Sequence[str], randomness: torch.Generator) -> Tensor:
    """Draw what :func:`augment` takes for ``count`` pictures: numbers in [0, 1), (those that ``names`` need, count)."""
    return torch.rand(sum(_AUGMENTATIONS[name][1] for name in names), count, generator=randomness)


def augment(pictures: Tensor, names: Sequence[str], drawn: Tensor, *, mask_colour: bool = False) -> Tensor:
    """Augment pictures before the discriminator sees them.

    Args:
        pictures: float (N, 4, H, W) in [-1, 1], the mask last.
        names: of ``colour``, ``translation`` and ``cutout``, applied in this order.
        drawn: by :func:`draw_augmentation` for these names, on the pictures' device. The same numbers make the same
            changes to pictures of another size.
        mask_colour: let colour change the mask channel, about a grey of four channels, as published for paper B.

    Returns:
        float (N, 4, H, W), channels last.
    """
    for name, numbers in zip(names, drawn.split([_AUGMENTATIONS[name][1] for name in names]), strict=True):
        pictures = _AUGMENTATIONS[name][0](pictures, numbers, mask_colour)
    return pictures.contiguous(memory_format=torch.channels_last)

"""Differentiable augmentation of what a discriminator sees (DiffAugment, Zhao et al. 2020, arXiv 2006.10738).

With few real pictures a discriminator learns them by heart. When it sees real and made pictures through the same random
changes, and the generator's gradient passes through them, it has to judge what the changes leave alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from generators.four_channel_gan.pictures import random_windows


def _colour(pictures: Tensor, randomness: torch.Generator, mask_too: bool) -> Tensor:
    """Jitter brightness by +-0.5, saturation by 0 to 2 and contrast by 0.5 to 1.5."""
    draws = torch.rand(3, len(pictures), 1, 1, 1, generator=randomness).to(pictures.device)
    colours, mask = (pictures, pictures[:, :0]) if mask_too else (pictures[:, :3], pictures[:, 3:])
    # All three are affine in the channels, so that two small maps do what would take six passes over the pixels.
    grey = colours.mean(dim=1, keepdim=True)
    mean = grey.mean(dim=(2, 3), keepdim=True)
    saturation, contrast = 2 * draws[1], 0.5 + draws[2]
    shift = (contrast * (1 - saturation)) * grey + (1 - contrast) * mean + (draws[0] - 0.5)
    return torch.cat([torch.addcmul(shift, colours, contrast * saturation), mask], dim=1)


def _translation(pictures: Tensor, randomness: torch.Generator, mask_too: bool, furthest: float = 0.125) -> Tensor:
    """Shift image and mask together by up to an eighth of the side; what comes in is zero."""
    count, _, height, width = pictures.shape
    # Drawn as a share of the side, so that pictures of two sizes shift alike under equal randomness.
    shares = (torch.rand(2, count, generator=randomness) * 2 - 1) * furthest
    reach = max(1, round(height * furthest))
    rows, columns = (shares[0] * height).round().long(), (shares[1] * width).round().long()
    padded = nn.functional.pad(pictures, (reach, reach, reach, reach))
    return random_windows(padded, rows + reach, columns + reach, height, width)


def _cutout(pictures: Tensor, randomness: torch.Generator, mask_too: bool) -> Tensor:
    """Set one square of half the side, anywhere and partly outside, to zero in image and mask."""
    count, _, height, width = pictures.shape
    centres = torch.rand(2, count, 1, generator=randomness)
    down = (torch.arange(height) - (centres[0] * height).floor()).abs() < height // 4
    across = (torch.arange(width) - (centres[1] * width).floor()).abs() < width // 4
    hole = down[:, None, :, None] & across[:, None, None, :]
    return pictures.masked_fill(hole.to(pictures.device), 0)


_AUGMENTATIONS = {"colour": _colour, "translation": _translation, "cutout": _cutout}


def augment(
    pictures: Tensor, names: Sequence[str], randomness: torch.Generator, *, mask_colour: bool = False
) -> Tensor:
    """Augment pictures before the discriminator sees them.

    Args:
        pictures: float (N, 4, H, W) in [-1, 1], the mask last.
        names: of ``colour``, ``translation`` and ``cutout``, applied in this order.
        randomness: CPU generator; an equal one gives the same changes, to pictures of another size too.
        mask_colour: let colour change the mask channel, about a grey of four channels, as published for paper B.

    Returns:
        float (N, 4, H, W), channels last.
    """
    for name in names:
        pictures = _AUGMENTATIONS[name](pictures, randomness, mask_colour)
    return pictures.contiguous(memory_format=torch.channels_last)

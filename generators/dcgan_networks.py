"""The networks of DCGAN for four-channel pictures (RGB and mask), any power-of-two size, and what is applied to them.

Imported only when a DCGAN is fitted or sampled, since it needs torch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from harness.data.pairs import PairSet

CHANNELS = 4
WIDEST = 8


def seeded(*key: int) -> torch.Generator:
    """Return a CPU generator that depends on all integers of ``key``: the one source of randomness at a step."""
    words = np.random.SeedSequence([k % 2**64 for k in key]).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(words[0]) << 31 | int(words[1]) >> 1)


def _widths(size: int, features: int) -> list[int]:
    """Return the channels at size/2, size/4, ... 4 pixels: ``features``, doubling, at most eightfold."""
    levels = size.bit_length() - 3
    return [features * min(2**level, WIDEST) for level in range(levels)]


def generator_network(size: int, latent: int, features: int) -> nn.Sequential:
    """Build the generator: latents (N, latent, 1, 1) to pictures (N, 4, size, size) in [-1, 1].

    Transposed convolutions of kernel 4 with batch norm and ReLU, then tanh (Radford et al. 2016; the PyTorch DCGAN
    example with four channels out). 3,577,728 parameters at 64 px, latent 100, features 64.

    Args:
        size: side in pixels, a power of two from 8.
        latent: length of a latent.
        features: channels of the layer before the last.
    """
    layers: list[nn.Module] = []
    before = latent
    for level, width in enumerate(reversed(_widths(size, features))):
        stride, padding = (1, 0) if level == 0 else (2, 1)
        layers += [
            nn.ConvTranspose2d(before, width, 4, stride, padding, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        ]
        before = width
    layers += [nn.ConvTranspose2d(before, CHANNELS, 4, 2, 1, bias=False), nn.Tanh()]
    return nn.Sequential(*layers)


def discriminator_network(size: int, features: int, normalisation: str) -> nn.Sequential:
    """Build the discriminator: pictures (N, 4, size, size) in [-1, 1] to logits (N,).

    Strided convolutions of kernel 4 with leaky ReLU 0.2. 2,766,592 parameters at 64 px and features 64 with batch norm.

    Args:
        size: side in pixels, a power of two from 8.
        features: channels of the first layer.
        normalisation: ``batch`` (batch norm, not in the first layer, as published) or ``spectral`` (Miyato et al.
            2018).
    """
    layers: list[nn.Module] = []
    before = CHANNELS
    for level, width in enumerate(_widths(size, features)):
        layers.append(nn.Conv2d(before, width, 4, 2, 1, bias=False))
        if normalisation == "batch" and level > 0:
            layers.append(nn.BatchNorm2d(width))
        layers.append(nn.LeakyReLU(0.2, inplace=True))
        before = width
    layers += [nn.Conv2d(before, 1, 4, 1, 0, bias=False), nn.Flatten(0)]
    if normalisation == "spectral":
        layers = [spectral_norm(layer) if isinstance(layer, nn.Conv2d) else layer for layer in layers]
    return nn.Sequential(*layers)


def initialise(network: nn.Module, randomness: torch.Generator) -> None:
    """Draw convolution weights from N(0, 0.02) and batch-norm scales from N(1, 0.02), as in the DCGAN paper."""
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            weights = dict(module.named_parameters())
            weight = weights.get("parametrizations.weight.original", module.weight)
            nn.init.normal_(weight, 0.0, 0.02, generator=randomness)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.02, generator=randomness)
            nn.init.zeros_(module.bias)


def _colour(pictures: Tensor, randomness: torch.Generator) -> Tensor:
    """Jitter brightness by +-0.5, saturation by 0 to 2 and contrast by 0.5 to 1.5 in RGB; leave the mask alone."""
    draws = torch.rand(3, len(pictures), 1, 1, 1, generator=randomness).to(pictures.device)
    colours, mask = pictures[:, :3], pictures[:, 3:]
    colours = colours + (draws[0] - 0.5)
    grey = colours.mean(dim=1, keepdim=True)
    colours = grey + (colours - grey) * (2 * draws[1])
    mean = colours.mean(dim=(1, 2, 3), keepdim=True)
    colours = mean + (colours - mean) * (0.5 + draws[2])
    return torch.cat([colours, mask], dim=1)


def _translation(pictures: Tensor, randomness: torch.Generator, furthest: float = 0.125) -> Tensor:
    """Shift image and mask together by up to an eighth of the side; what comes in is zero."""
    count, _, height, width = pictures.shape
    reach = max(1, round(height * furthest))
    shifts = torch.randint(-reach, reach + 1, (2, count, 1), generator=randomness)
    rows = (torch.arange(height) + shifts[0] + reach).to(pictures.device)
    columns = (torch.arange(width) + shifts[1] + reach).to(pictures.device)
    padded = nn.functional.pad(pictures, (reach, reach, reach, reach)).permute(0, 2, 3, 1)
    item = torch.arange(count, device=pictures.device)[:, None, None]
    return padded[item, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _cutout(pictures: Tensor, randomness: torch.Generator) -> Tensor:
    """Set one square of half the side, anywhere and partly outside, to zero in image and mask."""
    count, _, height, width = pictures.shape
    centres = torch.randint(0, height, (2, count, 1), generator=randomness)
    rows = ((torch.arange(height) - centres[0]).abs() < height // 4).to(pictures.device)
    columns = ((torch.arange(width) - centres[1]).abs() < width // 4).to(pictures.device)
    return pictures * ~(rows[:, None, :, None] & columns[:, None, None, :])


_AUGMENTATIONS = {"colour": _colour, "translation": _translation, "cutout": _cutout}


def augment(pictures: Tensor, names: Sequence[str], randomness: torch.Generator) -> Tensor:
    """Augment pictures differentiably before the discriminator sees them (DiffAugment, Zhao et al. 2020).

    Unlike the published code for four channels, colour never touches the mask channel.

    Args:
        pictures: float (N, 4, H, W) in [-1, 1].
        names: of ``colour``, ``translation`` and ``cutout``, applied in this order.
        randomness: CPU generator.
    """
    for name in names:
        pictures = _AUGMENTATIONS[name](pictures, randomness)
    return pictures


def flip(pictures: Tensor, axes: Sequence[int], randomness: torch.Generator) -> Tensor:
    """Flip each picture (N, C, H, W) with probability one half along each of ``axes`` (2 is vertical, 3 horizontal)."""
    for axis in axes:
        chosen = torch.rand(len(pictures), 1, 1, 1, generator=randomness) < 0.5
        pictures = torch.where(chosen, pictures.flip(axis), pictures)
    return pictures


@torch.no_grad()
def recalibrate(network: nn.Sequential, latent: int, randomness: torch.Generator, batches: int = 16) -> None:
    """Set the batch-norm statistics of averaged weights, for which none were tracked: means over fresh latents."""
    norms = [module for module in network if isinstance(module, nn.BatchNorm2d)]
    device = next(network.parameters()).device
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    network.train()
    for _ in range(batches):
        network(torch.randn(64, latent, 1, 1, generator=randomness).to(device))
    network.eval()


def four_channels(pairs: PairSet, positions: Sequence[int]) -> Tensor:
    """Return the pairs at ``positions`` as float32 (N, 4, H, W) in [-1, 1], the mask last."""
    images = pairs.images[positions].astype(np.float32) / 127.5 - 1
    masks = pairs.masks[positions].astype(np.float32) * 2 - 1
    return torch.from_numpy(np.concatenate([images, masks[..., None]], axis=3)).permute(0, 3, 1, 2).contiguous()


def to_bytes(pictures: Tensor, mask_threshold: float) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Turn float (N, 4, H, W) in [-1, 1] into images uint8 (N, H, W, 3) and masks uint8 (N, H, W) in {0, 1}."""
    images = ((pictures[:, :3] + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    masks = ((pictures[:, 3] + 1) / 2 > mask_threshold).to(torch.uint8)
    return images.permute(0, 2, 3, 1).contiguous().numpy(), masks.contiguous().numpy()

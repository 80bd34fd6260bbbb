"""The discriminator of patches, and how much its judgement weighs against the reconstruction."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_LEAK = 0.2
_EPSILON = 1e-4
_HEAVIEST = 1e4


class PatchDiscriminator(nn.Module):
    """Scores overlapping patches of a picture (PatchGAN, Isola et al. 2017, arXiv 1611.07004).

    With three layers a score sees 70 x 70 px. 2,765,633 parameters with 64 features and three layers.
    """

    def __init__(self, features: int, layers: int = 3) -> None:
        """Build it, initialised from the global torch seed.

        Args:
            features: channels of the first layer, doubled at each other one up to eight times.
            layers: convolutions of stride 2.
        """
        from generators.four_channel_gan.layers import initialise

        super().__init__()
        width = features
        parts: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(_LEAK)]
        for layer in range(1, layers + 1):
            before, width = width, features * min(2**layer, 8)
            stride = 2 if layer < layers else 1
            parts += [nn.Conv2d(before, width, 4, stride, 1, bias=False), nn.BatchNorm2d(width), nn.LeakyReLU(_LEAK)]
        self.layers = nn.Sequential(*parts, nn.Conv2d(width, 1, 4, 1, 1))
        initialise(self)

    def forward(self, pictures: Tensor) -> Tensor:
        """Return scores (N, 1, h, w) of pictures (N, 3, H, W); at 256 px and three layers, 30 x 30 of them."""
        scores: Tensor = self.layers(pictures)
        return scores


def layers_for(side: int) -> int:
    """Return how many layers of stride 2 a discriminator has for pictures of ``side`` pixels: three from 32 px on."""
    return max(1, min(3, side.bit_length() - 3))


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor) -> Tensor:
    """Return the weight under which the adversarial term pulls as hard as the reconstruction (Esser 2021, equation 7).

    Args:
        reconstruction: gradient of the reconstruction terms with respect to the decoder's last weights.
        adversarial: likewise, of the adversarial term.

    Returns:
        The ratio of their norms, at most 10,000.
    """
    ratio = reconstruction.float().norm() / (adversarial.float().norm() + _EPSILON)
    return torch.clamp(ratio, 0, _HEAVIEST)

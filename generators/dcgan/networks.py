"""The networks of DCGAN for four-channel pictures (RGB and mask), any power-of-two size.

Imported only when a DCGAN is fitted or sampled, since it needs torch.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from generators import adversarial_losses as losses
from generators.dcgan.parameters import DCGANParameters
from generators.four_channel_gan.layers import doubled_convolution, initialise
from generators.four_channel_gan.pictures import CHANNELS
from generators.four_channel_gan.training import GeneratorNetwork, Losses, Training

WIDEST = 8


def _widths(size: int, features: int) -> list[int]:
    """Return the channels at size/2, size/4, ... 4 pixels: ``features``, doubling, at most eightfold."""
    levels = size.bit_length() - 3
    return [features * min(2**level, WIDEST) for level in range(levels)]


class NearestConvolution(nn.Conv2d):
    """Doubles the side by the nearest pixel, then convolves with kernel 3."""

    def forward(self, features: Tensor) -> Tensor:
        """Return (N, D, 2H, 2W) of (N, C, H, W)."""
        return doubled_convolution(features, self.weight)


def _doubling(before: int, after: int, how: str) -> nn.Module:
    if how == "nearest":
        return NearestConvolution(before, after, 3, padding=1, bias=False)
    return nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False)


class DCGANGenerator(GeneratorNetwork):
    """Latents (N, latent, 1, 1) to pictures (N, 4, size, size) in [-1, 1].

    Transposed convolutions of kernel 4 with batch norm and ReLU, then tanh (Radford et al. 2016; the PyTorch DCGAN
    example with four channels out). 3,577,728 parameters at 64 px, latent 100, features 64.
    """

    def __init__(self, size: int, latent: int, features: int, doubling: str) -> None:
        """Build it.

        Args:
            size: side in pixels, a power of two from 8.
            latent: length of a latent.
            features: channels of the layer before the last.
            doubling: ``transposed`` convolutions as published, which leave a grid in the pictures, or ``nearest``
                pixels and convolutions of kernel 3, which do not (Odena et al. 2016).
        """
        super().__init__()
        self.latent = latent
        layers: list[nn.Module] = []
        before = latent
        for level, width in enumerate(reversed(_widths(size, features))):
            first = nn.ConvTranspose2d(before, width, 4, bias=False)
            layers += [
                _doubling(before, width, doubling) if level else first,
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
            ]
            before = width
        layers += [_doubling(before, CHANNELS, doubling), nn.Tanh()]
        self.layers = nn.Sequential(*layers)

    def draw(self, count: int, randomness: torch.Generator) -> tuple[Tensor, ...]:
        """Draw ``count`` latents from a standard normal."""
        return (torch.randn(count, self.latent, 1, 1, generator=randomness),)

    def forward(self, *drawn: Tensor) -> tuple[Tensor, ...]:
        """Return the pictures of latents."""
        return (self.layers(drawn[0]),)


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


class DCGANTraining(Training[DCGANParameters]):
    """Binary cross-entropy or hinge, one update of each network a step."""

    def build(self, size: int) -> tuple[GeneratorNetwork, nn.Module]:
        """Build both networks."""
        settings = self.settings
        made = DCGANGenerator(size, settings.latent, settings.generator_features, settings.doubling)
        judge = discriminator_network(size, settings.discriminator_features, settings.discriminator_normalisation)
        for network in (made, judge):
            initialise(network)
        return made, judge

    def discriminator_losses(self, real: Tensor, fake: tuple[Tensor, ...], drawn: Mapping[str, Tensor]) -> Losses:
        """Score real and made pictures in batches of their own, as batch norm needs."""
        on_real, on_fake = self.discriminator(real), self.discriminator(fake[0])
        if self.settings.loss == "hinge":
            loss = losses.hinge(on_real, on_fake)
        else:
            loss = losses.binary_cross_entropy(on_real, on_fake, self.settings.real_label)
        return {"adversarial-loss": loss, "real-score": on_real.mean(), "fake-score": on_fake.mean()}

    def generator_losses(self, fake: tuple[Tensor, ...]) -> Losses:
        """Return the non-saturating loss, or minus the score."""
        on_fake = self.discriminator(fake[0])
        return {"deceiving-loss": -on_fake.mean() if self.settings.loss == "hinge" else losses.non_saturating(on_fake)}

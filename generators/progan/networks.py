"""The networks of the Progressive GAN for four-channel pictures, which grow from 8 pixels to their full size.

Imported only when a ProGAN is fitted or sampled, since it needs torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from generators import adversarial_losses as losses
from generators.four_channel_gan.layers import doubled_convolution
from generators.four_channel_gan.pictures import CHANNELS
from generators.four_channel_gan.training import GeneratorNetwork, Losses, Training
from generators.progan.parameters import ProGANParameters

#: The side in pixels at which training starts.
SMALLEST = 8
_LEAK = 0.1


class EqualisedConvolution(nn.Module):
    """A convolution whose weights are N(0, 1) and scaled by sqrt(2 / fan-in) when used (Karras et al. 2018, 4.1).

    Adam's steps are then alike for all layers, whatever their width.
    """

    def __init__(self, before: int, after: int, kernel: int, padding: int = 0, *, transposed: bool = False) -> None:
        """Build it; ``transposed`` makes a transposed convolution of stride 1."""
        super().__init__()
        self.transposed = transposed
        self.padding = padding
        shape = (before, after) if transposed else (after, before)
        self.weight = nn.Parameter(torch.randn(*shape, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(after))
        self.scale = math.sqrt(2 / (before * kernel * kernel))

    def forward(self, inputs: Tensor) -> Tensor:
        """Convolve (N, before, H, W)."""
        convolve = functional.conv_transpose2d if self.transposed else functional.conv2d
        return convolve(inputs, self.weight * self.scale, self.bias, padding=self.padding)

    def doubled(self, inputs: Tensor) -> Tensor:
        """Double the side by the nearest pixel, then convolve with kernel 3."""
        return doubled_convolution(inputs, self.weight * self.scale, self.bias)


class PixelNorm(nn.Module):
    """Scale each pixel's channels to a mean square of one (Karras et al. 2018, 4.2)."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Normalise (N, C, H, W) over C."""
        return inputs * torch.rsqrt(inputs.float().square().mean(dim=1, keepdim=True) + 1e-8).to(inputs.dtype)


def _block(before: int, after: int, kernels: tuple[tuple[int, int], ...], pixel_norm: bool) -> nn.Sequential:
    """Return convolutions of (kernel, padding), each with pixel norm if asked for and leaky ReLU."""
    layers: list[nn.Module] = []
    for kernel, padding in kernels:
        layers.append(EqualisedConvolution(before, after, kernel, padding))
        if pixel_norm:
            layers.append(PixelNorm())
        layers.append(nn.LeakyReLU(_LEAK))
        before = after
    return nn.Sequential(*layers)


_TWICE = ((3, 1), (3, 1))


def _width(side: int, features: int, widest: int | None = None) -> int:
    """Return the channels at a side: ``features`` at 32 px, then half at each doubling, at least a quarter.

    Below 32 px they double at each halving, up to ``widest``.
    """
    doublings = 6 - side.bit_length()
    if doublings > 0:
        return max(features, min(features << doublings, widest or features))
    return max(1, features >> min(-doublings, 2))


def sides(size: int) -> list[int]:
    """Return 8, 16, ... up to ``size``."""
    return [2**power for power in range(3, size.bit_length())]


class Growing(nn.Module):
    """A network that grows: the side of its pictures, and how much of the newest block is faded in."""

    side: int
    alpha: float
    _share: Tensor

    def __init__(self, size: int) -> None:
        """Begin fully grown to ``size`` pixels a side."""
        super().__init__()
        # As a tensor too, since a recorded step goes on with whatever the tensor holds.
        self.register_buffer("_share", torch.ones(()), persistent=False)
        self.grow(size, 1.0)

    def grow(self, side: int, alpha: float) -> None:
        """Set the side of the pictures, and how much of the newest block is faded in."""
        self.side, self.alpha = side, alpha
        self._share.fill_(alpha)

    def faded(self, coarse: Tensor, fine: Tensor) -> Tensor:
        """Mix what the older blocks give with what the newest one gives."""
        # Under autocast, a GPU enlarges in float32 what it convolves in bfloat16.
        return torch.lerp(coarse.to(fine.dtype), fine, self._share.to(fine.dtype))


class ProGANGenerator(Growing, GeneratorNetwork):
    """Latents (N, latent) to pictures (N, 4, side, side), ``side`` being how far it has grown.

    1,601,944 parameters at 256 px, latent and features 128.
    """

    def __init__(
        self,
        size: int,
        latent: int,
        features: int,
        *,
        pixel_norm: bool,
        tanh: bool,
        doubling: str,
        widest: int | None = None,
    ) -> None:
        """Build it, fully grown.

        Args:
            size: side in pixels, a power of two from 8.
            latent: length of a latent.
            features: channels at 32 px.
            pixel_norm: normalise after every convolution, as the paper does; the published code of paper B does not.
            tanh: end in tanh; otherwise the pictures are unbounded.
            doubling: of features and of the picture that is faded out, ``nearest`` as in the paper, or ``bilinear`` as
                in the published code of paper B, which is smoother.
            widest: channels at most below 32 px, where they double at each halving; as many as at 32 px when None.
        """
        super().__init__(size)
        self.latent = latent
        self.doubling = doubling
        self.tanh = tanh
        before = _width(4, features, widest)
        self.start = nn.Sequential(
            EqualisedConvolution(latent, before, 4, transposed=True),
            PixelNorm(),
            nn.LeakyReLU(_LEAK),
            _block(before, before, _TWICE, pixel_norm),
        )
        self.blocks, self.to_picture = nn.ModuleDict(), nn.ModuleDict()
        for side in sides(size):
            after = _width(side, features, widest)
            self.blocks[str(side)] = _block(before, after, _TWICE, pixel_norm)
            self.to_picture[str(side)] = EqualisedConvolution(after, CHANNELS, 1)
            before = after

    def draw(self, count: int, randomness: torch.Generator) -> tuple[Tensor, ...]:
        """Draw ``count`` latents from a standard normal."""
        return (torch.randn(count, self.latent, generator=randomness),)

    def forward(self, *drawn: Tensor) -> tuple[Tensor, ...]:
        """Return the pictures of latents."""
        made = self.start(drawn[0][:, :, None, None])
        before = made
        for side in sides(self.side):
            before = made
            block: Any = self.blocks[str(side)]
            if self.doubling == "nearest":
                made = block[1:](block[0].doubled(made))
            else:
                made = block(functional.interpolate(made, scale_factor=2, mode="bilinear"))
        picture = self.to_picture[str(self.side)](made)
        if self.alpha < 1 and self.side > SMALLEST:
            coarse = functional.interpolate(
                self.to_picture[str(self.side // 2)](before), scale_factor=2, mode=self.doubling
            )
            picture = self.faded(coarse, picture)
        return (picture.tanh() if self.tanh else picture,)


class ProGANDiscriminator(Growing):
    """Pictures (N, 4, side, side) to scores (N,). 1,595,201 parameters at 256 px and features 128."""

    def __init__(self, size: int, features: int, *, pixel_norm: bool, widest: int | None = None) -> None:
        """Build it, fully grown; see :class:`ProGANGenerator`."""
        super().__init__(size)
        self.from_picture, self.blocks = nn.ModuleDict(), nn.ModuleDict()
        for side in [4, *sides(size)]:
            width = _width(side, features, widest)
            self.from_picture[str(side)] = EqualisedConvolution(CHANNELS, width, 1)
            if side > 4:
                self.blocks[str(side)] = _block(width, _width(side // 2, features, widest), _TWICE, pixel_norm)
        last = _width(4, features, widest)
        self.end = nn.Sequential(
            _block(last + 1, last, ((3, 1),), pixel_norm), _block(last, last, ((4, 0),), pixel_norm), nn.Flatten()
        )
        self.score = nn.Linear(last, 1)
        nn.init.normal_(self.score.weight)
        nn.init.zeros_(self.score.bias)
        self.score_scale = math.sqrt(2 / last)

    def forward(self, pictures: Tensor) -> Tensor:
        """Return the scores of pictures of the side it has grown to."""
        judged = self.from_picture[str(self.side)](pictures)
        for side in reversed(sides(self.side)):
            judged = _halved(self.blocks[str(side)](judged))
            if side == self.side and self.alpha < 1:
                coarse = self.from_picture[str(side // 2)](_halved(pictures))
                judged = self.faded(coarse, judged)
        judged = self.end(with_deviation(judged))
        return functional.linear(judged, self.score.weight * self.score_scale, self.score.bias)[:, 0]


def _halved(pictures: Tensor) -> Tensor:
    """Return pictures at half the side; bilinear by one half is the mean of two by two pixels."""
    return functional.avg_pool2d(pictures, 2)


def with_deviation(features: Tensor) -> Tensor:
    """Append a channel: the standard deviation over the batch, one number for all (Karras et al. 2018, section 3)."""
    deviation = (features.float().var(dim=0, correction=0) + 1e-8).sqrt().mean()
    constant = deviation.to(features.dtype).expand(len(features), 1, *features.shape[2:])
    return torch.cat([features, constant], dim=1)


class ProGANTraining(Training[ProGANParameters]):
    """The game while both networks grow."""

    def build(self, size: int) -> tuple[GeneratorNetwork, nn.Module]:
        """Build both networks."""
        settings = self.settings
        made = ProGANGenerator(
            size,
            settings.latent,
            settings.generator_features,
            pixel_norm=settings.generator_pixel_norm,
            tanh=settings.tanh,
            doubling=settings.doubling,
            widest=settings.widest,
        )
        judge = ProGANDiscriminator(
            size,
            settings.discriminator_features,
            pixel_norm=settings.discriminator_pixel_norm,
            widest=settings.widest,
        )
        return made, judge

    def begin(self, step: int) -> tuple[int, bool, bool]:
        """Grow both networks to what they are at this step."""
        self.penalised = step % self.settings.penalty_interval == 0
        side, alpha = self.settings.growth(step, len(self.real), self.real.pictures.shape[-1])
        networks: tuple[Any, ...] = (self.generator_module, self.discriminator.module, self.averaged)
        for network in networks:
            network.grow(side, alpha)
        return side, alpha < 1, self.penalised

    def draw_for_losses(self, count: int, step: int, randomness: torch.Generator) -> dict[str, Tensor]:
        """Draw the places between real and made pictures where WGAN-GP looks at the gradient."""
        return {"share": torch.rand(count, 1, 1, 1, generator=randomness)} if self.settings.loss == "wgan-gp" else {}

    def seen_as(self, real: Tensor) -> Tensor:
        """Return real pictures at the side that the networks have grown to, faded as the generator's are."""
        judge = self.discriminator.module
        while real.shape[-1] > judge.side:
            real = _halved(real)
        if judge.alpha < 1 and judge.side > SMALLEST and self.settings.fade_real:
            coarse = functional.interpolate(_halved(real), scale_factor=2, mode="nearest")
            real = judge.faded(coarse, real)
        return real

    def discriminator_losses(self, real: Tensor, fake: tuple[Tensor, ...], drawn: Mapping[str, Tensor]) -> Losses:
        """Return the discriminator's loss and its penalty."""
        settings = self.settings
        on_real, on_fake = self.discriminator(real), self.discriminator(fake[0])
        told = {"real-score": on_real.mean(), "fake-score": on_fake.mean()}
        if settings.loss == "wgan-gp":
            told["adversarial-loss"] = losses.wasserstein(on_real, on_fake, settings.drift)
            if self.penalised:
                # A rarer penalty weighs as much in sum: StyleGAN2's lazy regularisation.
                weight = settings.gradient_penalty * settings.penalty_interval
                told["penalty-loss"] = weight * losses.gradient_penalty(self._judged, real, fake[0], drawn["share"])
            return told
        told["adversarial-loss"] = losses.binary_cross_entropy(on_real, on_fake)
        if self.penalised:
            weight = settings.r1 * settings.penalty_interval
            told["penalty-loss"] = weight * losses.real_gradient_penalty(self._judged, real)
        return told

    def _judged(self, pictures: Tensor) -> Tensor:
        """Return scores whose gradient may be taken here: Fabric's wrapper refuses any backward pass but its own."""
        with self.fabric.autocast():
            return self.discriminator.module(pictures).float()

    def generator_losses(self, fake: tuple[Tensor, ...]) -> Losses:
        """Return the non-saturating loss, or minus the critic's score."""
        on_fake = self.discriminator(fake[0])
        return {
            "deceiving-loss": -on_fake.mean() if self.settings.loss == "wgan-gp" else losses.non_saturating(on_fake)
        }

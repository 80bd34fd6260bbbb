"""The networks of FastGAN for four-channel pictures, 32 to 512 px.

Imported only when a FastGAN is fitted or sampled, since it needs torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from generators import adversarial_losses as losses
from generators.fastgan.parameters import FastGANParameters
from generators.four_channel_gan.layers import doubled_convolution, gated, initialise
from generators.four_channel_gan.pictures import CHANNELS, RealPictures
from generators.four_channel_gan.training import GeneratorNetwork, Losses, Training
from generators.randomness import seeded

#: The side of the smaller picture that the discriminator also judges, at most.
LARGEST_SMALL = 128
#: Scores that the discriminator gives a picture: 5 x 5 places at either side.
SCORES = 50
_LEAK = 0.2


def _convolution(before: int, after: int, kernel: int, stride: int = 1, padding: int = 0) -> nn.Module:
    return spectral_norm(nn.Conv2d(before, after, kernel, stride, padding, bias=False))


class NoiseInjection(nn.Module):
    """Add one noise map to all channels, times one learned number that starts at 0."""

    def __init__(self) -> None:
        """Build it."""
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, features: Tensor, noise: Tensor) -> Tensor:
        """Add ``noise`` (N, 1, H, W) to ``features`` (N, C, H, W)."""
        return features + self.weight * noise


class Excitation(nn.Module):
    """Skip-layer excitation: coarse features say which channels of fine ones count (Liu et al. 2021, section 3.1)."""

    def __init__(self, coarse: int, fine: int) -> None:
        """Build it for so many channels on either side."""
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(4),
            _convolution(coarse, fine, 4),
            nn.SiLU(),
            _convolution(fine, fine, 1),
            nn.Sigmoid(),
        )

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        """Return ``fine`` (N, C, H, W) with its channels weighted."""
        return fine * self.gate(coarse)


class Up(nn.Module):
    """Double the side: nearest, then one convolution with batch norm and a gated linear unit; ``noisy`` has two."""

    def __init__(self, before: int, after: int, *, noisy: bool = False) -> None:
        """Build it for so many channels."""
        super().__init__()
        widths = [before, after] if noisy else [before]
        self.convolutions = nn.ModuleList(_convolution(width, 2 * after, 3, padding=1) for width in widths)
        self.norms = nn.ModuleList(nn.BatchNorm2d(2 * after) for _ in widths)
        self.noise = nn.ModuleList(NoiseInjection() for _ in widths if noisy)

    def forward(self, features: Tensor, noise: tuple[Tensor, ...] = ()) -> Tensor:
        """Return features at twice the side; ``noise`` holds a map (N, 1, 2H, 2W) for each convolution."""
        made = features
        for i, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            made = convolution(made) if i else doubled_convolution(made, cast(Tensor, convolution.weight))
            if noise:
                made = self.noise[i](made, noise[i])
            made = gated(norm(made))
        return made


#: Channels of the generator at each side, in units of its features.
_GENERATOR_WIDTHS = {4: 16, 8: 8, 16: 4, 32: 2, 64: 2, 128: 1, 256: 1 / 2, 512: 1 / 4}
#: Sides whose block has two convolutions with noise.
_NOISY = (8, 32, 128, 512)


def _sides(size: int) -> list[int]:
    """Return 8, 16, ... up to ``size``."""
    return [2**power for power in range(3, size.bit_length())]


class FastGANGenerator(GeneratorNetwork):
    """Latents and noise to pictures (N, 4, size, size) and the same at a smaller side, at most 128.

    29,128,198 parameters at 256 px, latent 256, features 64.
    """

    def __init__(self, size: int, latent: int, features: int, *, tanh: bool) -> None:
        """Build it.

        Args:
            size: side in pixels, a power of two from 32 to 512.
            latent: length of a latent.
            features: channels at 128 px; 16 times as many at 4 px.
            tanh: end in tanh; the published code does so at 1024 px only.
        """
        super().__init__()
        self.size, self.latent, self.tanh = size, latent, tanh
        self.small = min(LARGEST_SMALL, size // 2)
        width = {side: max(1, int(features * share)) for side, share in _GENERATOR_WIDTHS.items()}
        self.start = nn.Sequential(
            spectral_norm(nn.ConvTranspose2d(latent, 2 * width[4], 4, bias=False)),
            nn.BatchNorm2d(2 * width[4]),
        )
        self.blocks = nn.ModuleDict(
            {str(side): Up(width[side // 2], width[side], noisy=side in _NOISY) for side in _sides(size)}
        )
        # Published from 64 px on, over a factor of 16; at 32 px the only skip there is room for is one of 8.
        self.skips = {side: side // 16 for side in _sides(size) if side >= 64} or {32: 4}
        self.excitations = nn.ModuleDict(
            {str(side): Excitation(width[coarse], width[side]) for side, coarse in self.skips.items()}
        )
        self.to_large = _convolution(width[size], CHANNELS, 3, padding=1)
        self.to_small = _convolution(width[self.small], CHANNELS, 1)

    def draw(self, count: int, randomness: torch.Generator) -> tuple[Tensor, ...]:
        """Draw ``count`` latents (N, latent, 1, 1), and two noise maps (N, 1, side, side) for each block with noise."""
        latents = torch.randn(count, self.latent, 1, 1, generator=randomness)
        noisy = [side for side in _sides(self.size) if side in _NOISY for _ in range(2)]
        return (latents, *(torch.randn(count, 1, side, side, generator=randomness) for side in noisy))

    def forward(self, *drawn: Tensor) -> tuple[Tensor, ...]:
        """Return both pictures."""
        latents, *noise = drawn
        made = {4: gated(self.start(latents))}
        for side in _sides(self.size):
            own = tuple(noise.pop(0) for _ in range(2)) if side in _NOISY else ()
            made[side] = self.blocks[str(side)](made[side // 2], own)
            if side in self.skips:
                made[side] = self.excitations[str(side)](made[self.skips[side]], made[side])
        pictures = self.to_large(made[self.size]), self.to_small(made[self.small])
        return tuple(picture.tanh() for picture in pictures) if self.tanh else pictures


class OwnStatistics(nn.InstanceNorm2d):
    """Batch norm in training mode on a batch of one picture: normalise by the picture's own statistics."""

    @classmethod
    def instead_of(cls, network: nn.Module) -> None:
        """Put one in the place of every batch norm of a network."""
        for module in network.modules():
            for name, child in module.named_children():
                if isinstance(child, nn.BatchNorm2d):
                    norm = cls(child.num_features, child.eps, affine=True)
                    norm.load_state_dict({"weight": child.weight, "bias": child.bias})
                    setattr(module, name, norm.to(child.weight.device))


def _down(before: int, after: int) -> nn.Sequential:
    """Return a convolution of stride 2 with batch norm and leaky ReLU."""
    return nn.Sequential(_convolution(before, after, 4, 2, 1), nn.BatchNorm2d(after), nn.LeakyReLU(_LEAK))


class Down(nn.Module):
    """Halve the side: the mean of a path of two convolutions and one of average pooling."""

    def __init__(self, before: int, after: int) -> None:
        """Build it for so many channels."""
        super().__init__()
        self.main = nn.Sequential(
            *_down(before, after),
            _convolution(after, after, 3, padding=1),
            nn.BatchNorm2d(after),
            nn.LeakyReLU(_LEAK),
        )
        self.direct = nn.Sequential(
            nn.AvgPool2d(2), _convolution(before, after, 1), nn.BatchNorm2d(after), nn.LeakyReLU(_LEAK)
        )

    def forward(self, features: Tensor) -> Tensor:
        """Return features at half the side."""
        return (self.main(features) + self.direct(features)) / 2


class Decoder(nn.Module):
    """Features at 8 px back to pictures (N, 4, side, side) in [-1, 1]: what keeps the discriminator describing them."""

    def __init__(self, before: int, features: int, side: int) -> None:
        """Build it for so many channels, and the discriminator's features."""
        super().__init__()
        layers: list[nn.Module] = [nn.AdaptiveAvgPool2d(8)]
        for width in (2 * features, features, features, features // 2)[: (side // 8).bit_length() - 1]:
            layers.append(Up(before, max(1, width)))
            before = max(1, width)
        self.layers = nn.Sequential(*layers, _convolution(before, CHANNELS, 3, padding=1), nn.Tanh())

    def forward(self, features: Tensor) -> Tensor:
        """Decode."""
        decoded: Tensor = self.layers(features)
        return decoded


class FastGANDiscriminator(nn.Module):
    """Pictures at two sides to 50 scores each; and, of real ones, three reconstructions.

    11,527,680 parameters at 256 px and features 64.
    """

    def __init__(self, size: int, features: int) -> None:
        """Build it.

        Args:
            size: side in pixels, a power of two from 32 to 512.
            features: channels at 64 px of 256; the last layers have 16 times as many.
        """
        super().__init__()
        self.small = min(LARGEST_SMALL, size // 2)

        def width(side: int) -> int:
            return max(1, features * 64 // side)

        largest = min(size, 256)
        first = _convolution(CHANNELS, width(largest), 4, 2, 1) if size > largest else None
        self.start = nn.Sequential(first or _convolution(CHANNELS, width(largest), 3, padding=1), nn.LeakyReLU(_LEAK))
        self.sides = [side // 2 for side in reversed(_sides(largest)) if side > 8]
        self.blocks = nn.ModuleDict({str(side): Down(width(2 * side), width(side)) for side in self.sides})
        # Over a factor of 8 as published; 32 px has room for one of 4 only.
        self.skips = {side: side * 8 for side in self.sides if side * 8 <= largest} or {8: 32}
        self.excitations = nn.ModuleDict(
            {str(side): Excitation(width(fine), width(side)) for side, fine in self.skips.items()}
        )
        self.score = nn.Sequential(
            _convolution(width(8), 2 * width(8), 1),
            nn.BatchNorm2d(2 * width(8)),
            nn.LeakyReLU(_LEAK),
            _convolution(2 * width(8), 1, 4),
        )
        small = [side // 2 for side in reversed(_sides(self.small)) if side > 8]

        def small_width(side: int) -> int:
            return max(1, features * 32 // side)

        self.start_small = nn.Sequential(
            _convolution(CHANNELS, small_width(self.small // 2), 4, 2, 1), nn.LeakyReLU(_LEAK)
        )
        self.blocks_small = nn.Sequential(*(_down(small_width(2 * side), small_width(side)) for side in small[1:]))
        self.score_small = _convolution(small_width(8), 1, 4)
        decoded = self.small
        self.decode_large = Decoder(width(8), features, decoded)
        self.decode_small = Decoder(small_width(8), features, decoded)
        self.decode_part = Decoder(width(16), features, decoded)

    def forward(self, large: Tensor, small: Tensor, part: int | None = None) -> tuple[Tensor, ...]:
        """Judge pictures.

        Args:
            large: (N, 4, size, size).
            small: (N, 4, small, small).
            part: which quadrant (0 to 3, row by row) to reconstruct; None reconstructs nothing.

        Returns:
            Scores (N, 50), and with ``part`` the reconstructions (N, 4, small, small) of the picture from the large
            side's features, from the small side's, and of the quadrant.
        """
        judged = self.start(large)
        at = {judged.shape[-1]: judged}
        for side in self.sides:
            judged = self.blocks[str(side)](judged)
            if side in self.skips:
                judged = self.excitations[str(side)](at[self.skips[side]], judged)
            at[side] = judged
        judged_small = self.blocks_small(self.start_small(small))
        scores = torch.cat([self.score(at[8]).flatten(1), self.score_small(judged_small).flatten(1)], dim=1)
        if part is None:
            return (scores,)
        return (
            scores,
            self.decode_large(at[8]),
            self.decode_small(judged_small),
            self.decode_part(quadrant(at[16], part)),
        )


def quadrant(pictures: Tensor, part: int) -> Tensor:
    """Return one quarter of pictures (N, C, H, W): 0 and 1 above, 2 and 3 below."""
    height, width = pictures.shape[2] // 2, pictures.shape[3] // 2
    down, across = divmod(part, 2)
    return pictures[:, :, down * height : (down + 1) * height, across * width : (across + 1) * width]


#: Says how far reconstructions (N, 3, H, W) are from pictures (N, 3, H, W), both in [-1, 1]: (N,).
Distance = Callable[[Tensor, Tensor], Tensor]

_PART, _MARGINS = 10, 11
_MARGIN_NAMES = ("real-margins", "fake-margins")


class FastGANTraining(Training[FastGANParameters]):
    """Hinge loss with random margins, and a discriminator that reconstructs real pictures."""

    def __init__(
        self, settings: FastGANParameters, real: RealPictures, seed: int, device: torch.device, distance: Distance
    ) -> None:
        """Build it; ``distance`` compares reconstructions with real pictures."""
        self.distance = distance
        self.part: int | None = None
        super().__init__(settings, real, seed, device)

    def build(self, size: int) -> tuple[GeneratorNetwork, nn.Module]:
        """Build both networks."""
        settings = self.settings
        made = FastGANGenerator(size, settings.latent, settings.generator_features, tanh=settings.tanh)
        judge = FastGANDiscriminator(size, settings.discriminator_features)
        for network in (made, judge):
            initialise(network)
        return made, judge

    def begin(self, step: int) -> int | None:
        """Choose the quadrant that is reconstructed at this step, if any."""
        part = int(torch.randint(4, (1,), generator=seeded(self.seed, _PART, step)))
        self.part = None if step % self.settings.reconstruction_interval else part
        return self.part

    def draw_for_losses(self, count: int, step: int, randomness: torch.Generator) -> dict[str, Tensor]:
        """Draw the margins of the hinge loss in [0.8, 1)."""
        margins = seeded(self.seed, _MARGINS, step)
        return {name: 0.8 + 0.2 * torch.rand(count, SCORES, generator=margins) for name in _MARGIN_NAMES}

    def _smaller(self, pictures: Tensor, side: int) -> Tensor:
        """Return pictures at the smaller side, averaged or, as published, by the nearest pixel."""
        if self.settings.antialias:
            return functional.adaptive_avg_pool2d(pictures, side)
        return functional.interpolate(pictures, (side, side), mode="nearest")

    def discriminator_losses(self, real: Tensor, fake: tuple[Tensor, ...], drawn: Mapping[str, Tensor]) -> Losses:
        """Return the hinge loss, and every so many steps the loss of the reconstructions."""
        side = fake[1].shape[-1]
        on_real, *decoded = self.discriminator(real, self._smaller(real, side), self.part)
        (on_fake,) = self.discriminator(*fake)
        of_real, of_fake = (drawn[name] for name in _MARGIN_NAMES)
        told = {
            "adversarial-loss": losses.hinge(on_real, on_fake, (of_real, of_fake)),
            "real-score": on_real.mean(),
            "fake-score": on_fake.mean(),
        }
        if self.part is not None:
            # Rarer, but as much in sum: StyleGAN2's lazy regularisation.
            weight = float(self.settings.reconstruction_interval)
            whole = self._smaller(real, side)
            targets = (whole, whole, self._smaller(quadrant(real, self.part), side))
            told["reconstruction-loss"] = weight * self._reconstruction(decoded, targets)
        return told

    def _reconstruction(self, decoded: list[Tensor], targets: tuple[Tensor, ...]) -> Tensor:
        """Return the distance of images, summed over the three, and of masks if asked for."""
        shown = torch.cat([target[:, :3] for target in targets])
        with self.fabric.autocast():
            images = self.distance(torch.cat([picture[:, :3] for picture in decoded]), shown).float()
        loss = len(decoded) * images.mean()
        if self.settings.reconstruct_mask:
            masks = [functional.l1_loss(d[:, 3], t[:, 3]) for d, t in zip(decoded, targets, strict=True)]
            loss = loss + torch.stack(masks).sum()
        return loss

    def generator_losses(self, fake: tuple[Tensor, ...]) -> Losses:
        """Return minus the mean score."""
        (on_fake,) = self.discriminator(*fake)
        return {"deceiving-loss": -on_fake.mean()}

    def sampled_network(self, step: int) -> Any:
        """Return the network that is sampled from; as published, batch norm takes each picture's own statistics."""
        network = super().sampled_network(step)
        if self.settings.batch_norm == "picture":
            OwnStatistics.instead_of(network)
        return network

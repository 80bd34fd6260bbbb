"""Training many SinGANs together, one scale after the other; each model becomes what it would alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from generators.cuda_graph import CapturedStep, set_capturable, set_rate
from generators.randomness import seeded
from generators.singan_seg.networks import CHANNELS, FrozenTrunk, StackedCritic, StackedGenerator, bordered, width
from generators.singan_seg.pyramid import Pyramid, truncated

if TYPE_CHECKING:
    from generators.singan_seg.parameters import SinGANSegParameters

# What a model's seed is for: each purpose has random numbers of its own.
_GENERATOR, _CRITIC, _RECONSTRUCTION, _EPOCHS = range(4)

#: Epochs whose random numbers are drawn, and passed through the finished scales, at once.
BLOCK = 4

#: What is told of each model after an epoch.
_TOLD = ("real_score", "fake_score", "penalty", "reconstruction_error")

History = list[tuple[int, dict[str, Tensor]]]


@dataclass
class FinishedScale:
    """What sampling needs of a scale of K models.

    Attributes:
        trunk: the generator, frozen.
        amplitude: (K,), of the noise.
    """

    trunk: FrozenTrunk
    amplitude: Tensor

    def __call__(self, noise: Tensor, before: Tensor) -> Tensor:
        """Return pictures (B, K * 4, h, w) from noise and from the pictures of the scale before, at this size."""
        return self.trunk(bordered(scaled(noise, self.amplitude) + before)).tanh() + before


def scaled(noise: Tensor, amplitude: Tensor) -> Tensor:
    """Multiply each model's noise (B, K * 4, h, w) by its amplitude (K,)."""
    return noise * amplitude.repeat_interleave(CHANNELS)[:, None, None]


def draw_noise(count: int, scale: int, size: tuple[int, int], randomness: Sequence[torch.Generator]) -> Tensor:
    """Draw Gaussian noise (count, K * 4, h, w), each model's from its own generator; at scale 0 channels are alike."""
    channels = 1 if scale == 0 else CHANNELS
    each = [torch.randn(count, channels, *size, generator=own, device=own.device) for own in randomness]
    return torch.stack(each, dim=1).expand(-1, -1, CHANNELS, -1, -1).reshape(count, -1, *size)


def through(
    finished: Sequence[FinishedScale],
    pyramid: Pyramid,
    noise: Sequence[Tensor],
    *,
    truncate: bool,
) -> Tensor:
    """Pass noise through finished scales.

    Args:
        finished: scales 0 to n - 1.
        pyramid: their sizes.
        noise: for each of them (B, K * 4, h, w).
        truncate: round to bytes between scales.

    Returns:
        Pictures (B, K * 4, h, w) at the size of scale n, or of the last scale when all are finished.
    """
    pictures = torch.zeros_like(noise[0])
    for scale, own in enumerate(finished):
        pictures = own(noise[scale], pictures)
        if scale + 1 < len(pyramid.sizes):
            pictures = finer(pictures, pyramid, scale + 1, truncate=truncate)
    return pictures


def finer(pictures: Tensor, pyramid: Pyramid, scale: int, *, truncate: bool) -> Tensor:
    """Return pictures of the scale before at the size of ``scale``, rounded to bytes when ``truncate`` says so."""
    larger = pyramid.finer(truncated(pictures) if truncate else pictures, scale)
    return truncated(larger) if truncate else larger


@dataclass
class ScaleTraining:
    """One scale of K models: both networks, their optimisers, and the epochs done."""

    settings: SinGANSegParameters
    pyramid: Pyramid
    scale: int
    real: Tensor
    keys: Sequence[int]
    finished: Sequence[FinishedScale]
    reconstruction: Tensor
    dtype: torch.dtype
    epoch: int = 0
    rate: float | None = None
    history: History = field(default_factory=list)

    def __post_init__(self) -> None:
        """Build the networks; see :meth:`warm_start` for those of the scale before."""
        settings, device = self.settings, self.real.device
        features = width(self.scale, settings.features, settings.features_double_every, settings.largest_features)
        made = [seeded(key, _GENERATOR, self.scale) for key in self.keys]
        judged = [seeded(key, _CRITIC, self.scale) for key in self.keys]
        self.generator = StackedGenerator(features, made).to(device)
        self.critic = StackedCritic(features, judged).to(device)
        self.generator_optimiser, self.critic_optimiser = (
            _adam(network, settings.learning_rate, settings.betas, device) for network in (self.generator, self.critic)
        )
        # On a GPU most scales are so small that starting their kernels would take longer than running them.
        self._updates = CapturedStep(self._all_updates)
        self.size = self.pyramid.sizes[self.scale]
        if self.scale == 0:
            self.amplitude = torch.ones(len(self.keys), device=device)
            self.noise_of_reconstruction = self._reconstruction_noise(0)
        else:
            error = _per_model((self.real - self.reconstruction).square(), len(self.keys))
            self.amplitude = settings.noise_amplitude * error.sqrt()
            self.noise_of_reconstruction = torch.zeros_like(self.real)

    def _reconstruction_noise(self, epoch: int) -> Tensor:
        return draw_noise(1, 0, self.size, self._randomness(_RECONSTRUCTION, epoch))

    def _randomness(self, purpose: int, number: int) -> list[torch.Generator]:
        """Return a source of random numbers for each model; on a GPU they are drawn there."""
        device = self.real.device
        each = [seeded(key, purpose, self.scale, number) for key in self.keys]
        if device.type == "cpu":
            return each
        return [torch.Generator(device).manual_seed(own.initial_seed()) for own in each]

    def warm_start(self, before: ScaleTraining) -> None:
        """Take up the weights of the scale before when the networks are as wide."""
        if before.generator.features == self.generator.features:
            self.generator.load_state_dict(before.generator.state_dict())
            self.critic.load_state_dict(before.critic.state_dict())

    def run(self, total: int) -> Iterator[int]:
        """Train up to ``total`` epochs in all and yield the number done after each."""
        while self.epoch < total:
            block, done = divmod(self.epoch, BLOCK)
            before, noise, shares = self._draws(block)
            for place in range(done, min(BLOCK, total - block * BLOCK)):
                self._set_rate(total)
                self._epoch(before[place], noise[place], shares[place])
                self.epoch += 1
                yield self.epoch

    def _set_rate(self, total: int) -> None:
        settings = self.settings
        decayed = self.epoch >= settings.decay_after * total
        rate = settings.learning_rate * (settings.decay if decayed else 1)
        if rate != self.rate:
            self.rate = rate
            for optimiser in (self.generator_optimiser, self.critic_optimiser):
                set_rate(optimiser, rate)

    @torch.no_grad()
    def _draws(self, block: int) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Draw a block of epochs: pictures of the scale before and noise, (draws, K * 4, h, w) each, and shares.

        The finished scales do not change while this one trains, so that all draws of a block pass them together.
        """
        settings = self.settings
        draws = settings.critic_steps + (0 if settings.one_update else settings.generator_steps)
        randomness = self._randomness(_EPOCHS, block)
        shared = settings.one_update
        own = draw_noise(BLOCK * (1 if shared else draws), self.scale, self.size, randomness)
        noise = list(own.view(BLOCK, -1, *own.shape[1:]).expand(-1, draws, -1, -1, -1))
        shares = torch.stack(
            [torch.rand(BLOCK, settings.critic_steps, generator=one, device=one.device) for one in randomness], dim=2
        )
        if self.scale == 0:
            before = own.new_zeros(BLOCK, draws, *own.shape[1:])
        else:
            lower = [
                draw_noise(BLOCK * draws, scale, self.pyramid.sizes[scale], randomness) for scale in range(self.scale)
            ]
            passed = through(self.finished, self.pyramid, lower, truncate=settings.truncate)
            before = passed.view(BLOCK, draws, *passed.shape[1:])
        return list(before), noise, shares

    def _epoch(self, before: Tensor, noise: Tensor, shares: Tensor) -> None:
        if self.scale == 0 and not self.settings.fixed_reconstruction_noise:
            self.noise_of_reconstruction = self._reconstruction_noise(self.epoch)
        told = self._updates(before, noise, shares, self.noise_of_reconstruction)
        self.history.append((self.epoch, dict(zip(_TOLD, told, strict=True))))

    def _all_updates(self, before: Tensor, noise: Tensor, shares: Tensor, reconstruction_noise: Tensor) -> Tensor:
        """Update the critic, then the generator, as often as an epoch does.

        Args:
            before: (draws, K * 4, h, w), pictures of the scale before.
            noise: likewise.
            shares: (critic_steps, K), where between fake and real the gradient penalty is taken.
            reconstruction_noise: (1, K * 4, h, w).

        Returns:
            What was told of each model by the last updates, (4, K); see ``_TOLD``.
        """
        settings, models = self.settings, len(self.keys)
        inputs = bordered(scaled(noise, self.amplitude) + before).to(self.dtype)
        again = bordered(scaled(reconstruction_noise, self.amplitude) + self.reconstruction).to(self.dtype)
        size = (inputs.shape[2], inputs.shape[3])
        critic_steps = settings.critic_steps
        # The generator stands still meanwhile: all fakes of the critic's steps are one pass.
        with torch.no_grad():
            made, statistics = self.generator(inputs[:critic_steps])
            fakes = made.tanh() + before[:critic_steps]
        self.generator.follow(statistics, size)
        for step in range(critic_steps):
            fake = fakes[step : step + 1]
            on_real, on_fake = self.critic(torch.cat([self.real, fake]).to(self.dtype))
            share = shares[step].repeat_interleave(CHANNELS)[:, None, None]
            penalty = self.critic.gradient_penalty(torch.lerp(fake, self.real, share).to(self.dtype))
            loss = on_fake - on_real + settings.gradient_penalty * penalty
            _update(loss, self.critic_optimiser)
        self.critic.requires_grad_(False)
        for step in range(1 if settings.one_update else settings.generator_steps):
            chosen = critic_steps - 1 if settings.one_update else critic_steps + step
            made, statistics = self.generator(torch.cat([inputs[chosen : chosen + 1], again]))
            made = made.tanh()
            fake, rebuilt = made[:1] + before[chosen : chosen + 1], made[1:] + self.reconstruction
            error = _per_model((rebuilt - self.real).square(), models)
            loss = settings.reconstruction * error - self.critic(fake.to(self.dtype))[0]
            _update(loss, self.generator_optimiser)
            if settings.one_update:
                # The fake's pass was counted with the critic's; the reconstruction is computed at each of the steps.
                again_only = [(mean[1:], scale[1:]) for mean, scale in statistics]
                self.generator.follow(again_only, size, settings.generator_steps)
            else:
                self.generator.follow(statistics, size)
        self.critic.requires_grad_(True)
        return torch.stack([on_real, on_fake, penalty, error]).detach()

    def finish(self) -> FinishedScale:
        """Return the scale as it is sampled from."""
        return FinishedScale(FrozenTrunk.of(self.generator), self.amplitude)

    def next_reconstruction(self, finished: FinishedScale) -> Tensor:
        """Return the reconstruction of the real pictures at the size of the next scale."""
        rebuilt = finished(self.noise_of_reconstruction, self.reconstruction)
        if self.scale + 1 == len(self.pyramid.sizes):
            return rebuilt
        return finer(rebuilt, self.pyramid, self.scale + 1, truncate=self.settings.truncate)

    def _parts(self) -> dict[str, Any]:
        return {
            "generator": self.generator,
            "critic": self.critic,
            "generator-optimiser": self.generator_optimiser,
            "critic-optimiser": self.critic_optimiser,
        }

    def state(self) -> dict[str, Any]:
        """Return what a resumed fit needs."""
        parts = {name: part.state_dict() for name, part in self._parts().items()}
        return {"epoch": self.epoch, "noise": self.noise_of_reconstruction, **parts}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up a state."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        for optimiser in (self.generator_optimiser, self.critic_optimiser):
            set_capturable(optimiser, self.real.device)
        self.epoch = int(state["epoch"])
        self.noise_of_reconstruction = state["noise"].to(self.real.device)


def _per_model(values: Tensor, models: int) -> Tensor:
    """Return the mean (K,) of values (1, K * 4, h, w) for each model."""
    return values.view(models, -1).mean(dim=1)


def _update(losses: Tensor, optimiser: torch.optim.Optimizer) -> None:
    """Take a step on losses (K,): each depends on its own model's weights only, so that their sum trains each alone."""
    optimiser.zero_grad(set_to_none=True)
    losses.sum().backward()
    optimiser.step()


def _adam(
    network: StackedGenerator | StackedCritic, rate: float, betas: tuple[float, float], device: torch.device
) -> torch.optim.Adam:
    optimiser = torch.optim.Adam(network.parameters(), rate, betas, fused=True)
    set_capturable(optimiser, device)
    return optimiser

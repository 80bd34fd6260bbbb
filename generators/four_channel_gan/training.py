"""The game of a generator and a discriminator: one step of each, the averaged weights, and how it can go wrong."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from generators.cuda_graph import CapturedStep, set_capturable
from generators.four_channel_gan.augmentation import augment, draw_augmentation
from generators.four_channel_gan.parameters import FourChannelParameters
from generators.four_channel_gan.pictures import RealPictures, crop, draw_crops
from generators.randomness import FLIP_AXES, draw_flips, flip, seeded
from harness.learning import HarnessError
from harness.learning.batches import batch_positions
from harness.learning.precision import fabric_on, without_remarks

Losses = dict[str, Tensor]
P = TypeVar("P", bound=FourChannelParameters)

# What a seed is for: each purpose has random numbers of its own.
_STEP, _WEIGHTS, _REAL_VIEW, _FAKE_VIEW, _RECALIBRATION = range(5)

#: Pictures in [-1, 1] whose standard deviation over a batch is below this are one picture.
_SAME = 0.005
#: Before so many steps a network may well make one grey picture.
_SETTLED = 100
#: A discriminator that has lost or won at so many looks in a row does not come back.
_PATIENCE = 25
#: Scores beyond this are no judgement any more.
_EXPLODED = 1e6


class GeneratorNetwork(nn.Module, ABC):
    """A network that makes four-channel pictures from random numbers."""

    @abstractmethod
    def draw(self, count: int, randomness: torch.Generator) -> tuple[Tensor, ...]:
        """Draw what ``forward`` takes, for ``count`` pictures: a latent, and noise if the network injects any."""

    @abstractmethod
    def forward(self, *drawn: Tensor) -> tuple[Tensor, ...]:
        """Return pictures (N, 4, H, W) around [-1, 1], the largest first."""


class Training(ABC, Generic[P]):
    """Everything that changes while a GAN trains. A GAN says how its networks are built and what their losses are."""

    def __init__(self, settings: P, real: RealPictures, seed: int, device: torch.device) -> None:
        """Build networks and optimisers; their initial weights depend on the seed alone."""
        self.settings = settings
        self.real = real
        self.seed = seed
        self.device = device
        self.fabric = fabric_on(device, settings.precision)
        size = real.pictures.shape[-1]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(seeded(seed, _WEIGHTS).initial_seed()))
            made, judge = self.build(size)
        averaged = copy.deepcopy(made).requires_grad_(False)
        self.generator_module, self.averaged = made, averaged.to(device).to(memory_format=torch.channels_last)
        self.generator, self.generator_optimiser = self._set_up(made, settings.learning_rate)
        self.discriminator, self.discriminator_optimiser = self._set_up(judge, settings.discriminator_learning_rate)
        self.watch = Watch()
        self._told: Losses = {}
        # On a GPU each kind of step is recorded once and replayed. Kinds take turns, so they share their memory.
        self._steps: dict[Hashable, CapturedStep] = {}
        self._names: dict[Hashable, list[str]] = {}
        self._pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None

    def _set_up(self, network: nn.Module, rate: float) -> tuple[Any, torch.optim.Optimizer]:
        """Move a network to the device and wrap it, so that it runs in the precision that was asked for."""
        network.to(self.device).to(memory_format=torch.channels_last)
        # The fused step updates all tensors in one call; most layers here are small and would each cost ten.
        optimiser = torch.optim.Adam(network.parameters(), rate, self.settings.betas, fused=True)
        set_capturable(optimiser, self.device)
        with without_remarks():
            return self.fabric.setup(network, optimiser)

    @abstractmethod
    def build(self, size: int) -> tuple[GeneratorNetwork, nn.Module]:
        """Build both networks for pictures of ``size`` pixels a side, initialised from the global torch seed."""

    @abstractmethod
    def discriminator_losses(self, real: Tensor, fake: tuple[Tensor, ...], drawn: Mapping[str, Tensor]) -> Losses:
        """Return named losses that sum to the discriminator's, and its mean ``real-score`` and ``fake-score``.

        Args:
            real: pictures (N, 4, H, W), augmented.
            fake: what the generator made, augmented alike, without gradient.
            drawn: by :meth:`draw_for_losses`.
        """

    @abstractmethod
    def generator_losses(self, fake: tuple[Tensor, ...]) -> Losses:
        """Return named losses that sum to the generator's; ``fake`` is augmented and carries its gradient."""

    def begin(self, step: int) -> Hashable:
        """Set what depends on the step, such as how far networks have grown.

        Returns:
            The kind of this step: what is computed in steps of one kind differs in the values of tensors only.
        """
        return None

    def draw_for_losses(self, count: int, step: int, randomness: torch.Generator) -> dict[str, Tensor]:
        """Draw what the losses of ``count`` pictures need, on the CPU, by name."""
        return {}

    def seen_as(self, real: Tensor) -> Tensor:
        """Return real pictures at the size that the discriminator now judges."""
        return real

    def step(self, step: int) -> Losses:
        """Update the discriminator, then the generator, once.

        All randomness comes from (seed, step), so that a resumed fit is the same fit; on a CPU bit for bit.

        Returns:
            Losses and scores without gradient, by name; of those that are not computed at every step, the last ones.
        """
        kind = self.begin(step)
        drawn = {name: tensor.to(self.device) for name, tensor in self._draw(step).items()}
        if kind not in self._steps:
            self._steps[kind] = CapturedStep(partial(self._played, kind, list(drawn)), self._pool)
        values = self._steps[kind](*drawn.values())
        self._average(step)
        self._told |= zip(self._names[kind], values.unbind(), strict=True)
        return dict(self._told)

    def _draw(self, step: int) -> dict[str, Tensor]:
        """Draw all that is random at a step, on the CPU, by name; the latent and noise as ``drawn-0`` and so on."""
        settings = self.settings
        randomness = seeded(self.seed, _STEP, step)
        count, side = settings.batch_size, self.real.pictures.shape[-1]
        drawn = {
            "positions": torch.from_numpy(batch_positions(np.arange(len(self.real)), count, self.seed, step)),
            "flips": draw_flips(count, FLIP_AXES[settings.flip], randomness),
        }
        if settings.crop > 1:
            drawn["crops"] = draw_crops(count, side, settings.crop, randomness)
        latents = self.generator_module.draw(count, randomness)
        drawn |= {f"drawn-{number}": tensor for number, tensor in enumerate(latents)}
        for name, purpose in (("real-view", _REAL_VIEW), ("fake-view", _FAKE_VIEW)):
            drawn[name] = draw_augmentation(count, settings.augment, seeded(self.seed, purpose, step))
        return drawn | self.draw_for_losses(count, step, randomness)

    def _played(self, kind: Hashable, names: list[str], *tensors: Tensor) -> Tensor:
        """Update both networks with what was drawn, and return losses and scores, whose names are kept by kind."""
        settings = self.settings
        drawn = dict(zip(names, tensors, strict=True))
        real = flip(self.real.batch(drawn["positions"]), FLIP_AXES[settings.flip], drawn["flips"])
        if settings.crop > 1:
            real = crop(real, settings.crop, drawn["crops"])
        real = self._augmented(self.seen_as(real), drawn["real-view"])
        pictures = self.generator(*(tensor for name, tensor in drawn.items() if name.startswith("drawn-")))
        made = tuple(self._augmented(picture, drawn["fake-view"]) for picture in pictures)
        told = self.discriminator_losses(real, tuple(picture.detach() for picture in made), drawn)
        told["discriminator-loss"] = self._update(told, self.discriminator_optimiser)
        self.discriminator.requires_grad_(False)
        answer = self.generator_losses(made)
        answer["generator-loss"] = self._update(answer, self.generator_optimiser)
        self.discriminator.requires_grad_(True)
        # Only where every picture is the same does no pixel vary.
        answer["variation"] = pictures[0].detach().float().std(dim=0).mean()
        told |= answer
        self._names[kind] = list(told)
        return torch.stack([value.detach().float() for value in told.values()])

    def _augmented(self, pictures: Tensor, drawn: Tensor) -> Tensor:
        settings = self.settings
        return augment(pictures, settings.augment, drawn, mask_colour=settings.augment_mask_colour)

    def _update(self, losses: Losses, optimiser: torch.optim.Optimizer) -> Tensor:
        """Take one optimiser step on the sum of the losses, scores aside, and return it."""
        total = torch.stack([loss for name, loss in losses.items() if not name.endswith("-score")]).sum()
        optimiser.zero_grad(set_to_none=True)
        self.fabric.backward(total)
        optimiser.step()
        return total

    def _average(self, step: int) -> None:
        """Move the averaged weights towards the raw ones; the decay warms up so that early weights are forgotten."""
        if self.settings.ema:
            decay = min(self.settings.ema, (1 + step) / (10 + step))
            averaged: list[Tensor] = list(self.averaged.parameters())
            raw: list[Tensor] = list(self.generator_module.parameters())
            with torch.no_grad():
                torch._foreach_lerp_(averaged, raw, 1 - decay)

    def sampled_network(self, step: int) -> GeneratorNetwork:
        """Return a copy of the network that is sampled from, in evaluation mode."""
        if not self.settings.ema:
            return copy.deepcopy(self.generator_module).requires_grad_(False).eval()
        network = copy.deepcopy(self.averaged)
        with torch.no_grad():
            # Vectors of spectral norm are those of the raw weights, which are near; statistics follow.
            for own, raw in zip(network.buffers(), self.generator_module.buffers(), strict=True):
                own.copy_(raw)
        recalibrate(network, seeded(self.seed, _RECALIBRATION, step))
        return network.eval()

    def _parts(self) -> dict[str, Any]:
        return {
            "generator": self.generator_module,
            "discriminator": self.discriminator.module,
            "averaged": self.averaged,
            "generator-optimiser": self.generator_optimiser,
            "discriminator-optimiser": self.discriminator_optimiser,
        }

    def state(self, step: int) -> dict[str, Any]:
        """Return everything that a resumed fit needs."""
        parts = {name: part.state_dict() for name, part in self._parts().items()}
        return {"step": step, "watch": vars(self.watch), "told": self._told, **parts}

    def restore(self, state: dict[str, Any]) -> int:
        """Take up a state and return its step."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        for optimiser in (self.generator_optimiser, self.discriminator_optimiser):
            set_capturable(optimiser, self.device)
        self.watch = Watch(**state["watch"])
        self._told = dict(state["told"])
        return int(state["step"])


@torch.no_grad()
def recalibrate(network: GeneratorNetwork, randomness: torch.Generator, batches: int = 16) -> None:
    """Set the batch-norm statistics of averaged weights, for which none were tracked: means over fresh pictures."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    if not norms:
        return
    device = next(network.parameters()).device
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    for _ in range(batches):
        network(*(tensor.to(device) for tensor in network.draw(64, randomness)))
    network.eval()


@dataclass
class Watch:
    """Looks at a training now and then, and says when it cannot come to anything any more.

    Attributes:
        won: looks in a row at which the discriminator's loss was nothing.
        dead: looks in a row at which it gave real and made pictures the same score.
    """

    won: int = field(default=0)
    dead: int = field(default=0)

    def look(self, name: str, told: dict[str, float], step: int, remedy: str) -> None:
        """Check what a step told.

        Args:
            name: of the plugin.
            told: losses, scores and ``variation``.
            step: steps done.
            remedy: the end of the sentence: what to change.

        Raises:
            HarnessError: a value is not finite, all pictures are one, or the discriminator has collapsed.
        """
        broken = {key: value for key, value in told.items() if not math.isfinite(value)}
        exploded = {key: value for key, value in told.items() if key.endswith("-score") and abs(value) > _EXPLODED}
        for found in (broken, exploded):
            if found:
                first, value = next(iter(found.items()))
                raise HarnessError(f"{name} diverged: {first} is {value:g} at step {step}; {remedy}.")
        if step >= _SETTLED and told["variation"] < _SAME:
            raise HarnessError(
                f"{name} collapsed: at step {step} all its pictures are the same (standard deviation "
                f"{told['variation']:.2g} between pictures, of a range of 2); {remedy}, or use another seed."
            )
        self.won = self.won + 1 if abs(told["discriminator-loss"]) < 1e-4 else 0
        self.dead = self.dead + 1 if told["real-score"] == told["fake-score"] else 0
        if max(self.won, self.dead) >= _PATIENCE:
            said = "tells real from made without fail" if self.won >= _PATIENCE else "scores real and made alike"
            raise HarnessError(
                f"{name}'s discriminator collapsed: at {_PATIENCE} looks in a row up to step {step} it {said}, so that "
                f"the generator learns nothing from it; {remedy}."
            )

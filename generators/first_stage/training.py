"""Training the first stage: reconstruction, perceptual, adversarial and codebook terms, and codes that stay in use."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from generators.adversarial_losses import hinge
from generators.cuda_graph import CapturedStep, set_capturable, set_rate
from generators.first_stage.autoencoder import CHANNELS, FACTOR, NETWORKS, build
from generators.first_stage.discriminator import PatchDiscriminator, adaptive_weight, layers_for
from generators.first_stage.parameters import FirstStageParameters
from generators.randomness import FLIP_AXES, draw_flips, flip, seeded
from harness.learning import HarnessError
from harness.learning.batches import batch_positions
from harness.learning.perceptual import NO_NETWORK, PerceptualNetwork, perceptual_network
from harness.learning.precision import fabric_on

# What a seed is for: each purpose has random numbers of its own.
_STEP, _WEIGHTS, _CODES = range(3)

#: Latents that the first codes are drawn from, for each code.
_LATENTS_A_CODE = 4
#: A training is looked at once in so many steps, since reading numbers makes a GPU wait.
_LOOK_EVERY = 25
#: Before so many steps a network may well make one grey picture.
_SETTLED = 200
#: Reconstructions whose standard deviation is below this share of the images' are one colour.
_FLAT = 0.05
#: A standard deviation, of pictures in [-1, 1], that is none; by it images that do not vary have their contrast.
_NOTHING = 1e-6
#: A code counts as used when it was in this many steps.
_USE_WINDOW = 100


class _Kind(NamedTuple):
    """What is computed at a step; a GPU records each kind once.

    Attributes:
        judging: reconstructions are compared by more than their pixels.
        adversarial: the discriminator judges them too.
    """

    judging: bool
    adversarial: bool


class FirstStageTraining:
    """Everything that changes while an autoencoder and its discriminator train.

    Attributes:
        autoencoder: the network that is trained.
        note: the sentence on the perceptual network that every report must show; empty for LPIPS itself.
    """

    def __init__(self, settings: FirstStageParameters, images: Tensor, seed: int, device: torch.device) -> None:
        """Build networks and optimisers; their initial weights depend on the seed alone.

        Args:
            settings: without a file.
            images: all real training images, uint8 (N, 3, H, W) on the device, channels last; the sides are multiples
                of 4.
            seed: of all randomness.
            device: to train on.

        Raises:
            HarnessError: the images do not fit.
        """
        side = min(images.shape[2:])
        smallest = max(8, 2 ** (settings.perceptual_blocks - 1))
        if side < smallest or any(length % FACTOR for length in images.shape[2:]):
            height, width = images.shape[2:]
            raise HarnessError(
                f"The first stage takes images whose sides are multiples of {FACTOR} and at least {smallest} pixels, "
                f"got {height} x {width}; set another size, or fewer perceptual_blocks."
            )
        self.settings, self.images, self.seed, self.device = settings, images, seed, device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(seeded(seed, _WEIGHTS).initial_seed()))
            autoencoder = build(settings.network)
            discriminator = PatchDiscriminator(settings.discriminator_features, layers_for(side))
        self.autoencoder, self.optimiser = self._set_up(autoencoder)
        self.discriminator, self.discriminator_optimiser = self._set_up(discriminator)
        self.perceptual, self.note = _perceptual(settings, device)
        self.fabric = fabric_on(device, settings.precision)
        #: For each code, the steps since it was used last.
        self.idle = torch.full((NETWORKS[settings.network].codes,), _USE_WINDOW, dtype=torch.int64, device=device)
        # Kinds take turns, so their recordings share their memory.
        self._steps: dict[_Kind, CapturedStep] = {}
        self._names: dict[_Kind, list[str]] = {}
        self._pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None

    def _set_up(self, network: Any) -> tuple[Any, torch.optim.Adam]:
        network.to(self.device).to(memory_format=torch.channels_last).train()
        settings = self.settings
        optimiser = torch.optim.Adam(network.parameters(), settings.learning_rate, settings.betas, fused=True)
        set_capturable(optimiser, self.device)
        return network, optimiser

    def _draw(self, step: int) -> tuple[Tensor, Tensor]:
        """Draw the positions (N,) of a step's images and the axes along which each is flipped; both on the device."""
        settings = self.settings
        positions = batch_positions(np.arange(len(self.images)), settings.batch_size, self.seed, step)
        flips = draw_flips(len(positions), FLIP_AXES[settings.flip], seeded(self.seed, _STEP, step))
        return torch.from_numpy(positions).to(self.device), flips.to(self.device)

    def _batch(self, positions: Tensor, flips: Tensor) -> Tensor:
        """Return images as float32 (N, 3, H, W) in [-1, 1], channels last, flipped as was drawn."""
        chosen = self.images[positions].float().div_(127.5).sub_(1)
        chosen = flip(chosen, FLIP_AXES[self.settings.flip], flips)
        return chosen.contiguous(memory_format=torch.channels_last)

    def rate(self, step: int) -> float:
        """Return the learning rate of a step: constant, then falling linearly to 0 at the end of the training."""
        settings = self.settings
        falling = settings.decay * settings.steps
        left = (settings.steps - step) / falling if falling else 1.0
        return settings.learning_rate * min(1.0, max(0.0, left))

    def step(self, step: int) -> dict[str, Tensor]:
        """Update the autoencoder, then the discriminator, once.

        All randomness comes from (seed, step), so that a resumed training is the same training; on a CPU bit for bit.

        Args:
            step: from 0.

        Returns:
            Losses, ``adaptive-weight``, ``codebook-usage`` (share of the codes used in the last 100 steps) and
            ``contrast`` (standard deviation of the reconstructions by that of the images), without gradient, by name.

        Raises:
            HarnessError: a loss is not finite, or all reconstructions are of one colour.
        """
        settings = self.settings
        if step == 0 and settings.codebook_start == "latents":
            self._start_codes()
        for optimiser in (self.optimiser, self.discriminator_optimiser):
            set_rate(optimiser, self.rate(step))
        judging = (step + 1) % settings.judging_interval == 0  # so that round numbers of steps, which are logged, do
        kind = _Kind(judging, judging and settings.adversarial_weight > 0 and step >= settings.adversarial_start)
        if kind not in self._steps:
            self._steps[kind] = CapturedStep(partial(self._updated, kind), self._pool)
        found = self._steps[kind](*self._draw(step))
        names = self._names[kind]
        told = dict(zip(names, found[: len(names)].unbind(), strict=True))
        self._revive(found[len(names) :].reshape(-1, CHANNELS), step)
        if step % _LOOK_EVERY == _LOOK_EVERY - 1 or step == settings.steps - 1:
            self._look(told, step)
        return told

    def _updated(self, kind: _Kind, positions: Tensor, flips: Tensor) -> Tensor:
        """Update the networks on a batch.

        Args:
            kind: of the step.
            positions: of the images, int64 (N,).
            flips: as they were drawn.

        Returns:
            float32: what the step tells, by names that are kept for the kind, and then the latents, three numbers for
            each place.
        """
        settings = self.settings
        real = self._batch(positions, flips)
        with self.fabric.autocast():
            latents = self.autoencoder.encode(real)
            quantised = self.autoencoder.quantise(latents)
            made = self.autoencoder.decode_quantised(quantised.latents)
        made = made.float()
        told, pull = self._judge(real, made, kind)
        told["codebook-loss"] = quantised.loss
        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward([made, settings.codebook_weight * quantised.loss], [pull, None])
        self.optimiser.step()
        if kind.adversarial:
            told["discriminator-loss"] = self._update_discriminator(real, made.detach())
        self.idle += 1
        self.idle.index_fill_(0, quantised.codes.flatten(), 0)
        told["codebook-usage"] = (self.idle < _USE_WINDOW).float().mean()
        spread, wanted = (pictures.detach().std(dim=(0, 2, 3)).mean() for pictures in (made, real))
        told["contrast"] = (spread + _NOTHING) / (wanted + _NOTHING)
        self._names[kind] = list(told)
        return torch.cat([torch.stack([value.detach().float() for value in told.values()]), _places(latents).flatten()])

    def _judge(self, real: Tensor, made: Tensor, kind: _Kind) -> tuple[dict[str, Tensor], Tensor]:
        """Return the terms that compare reconstructions with images, and the gradient of their sum to the first.

        The gradients are taken one by one, so that the adaptive weight costs no second pass through the networks.
        """
        settings = self.settings
        told = {"l1-loss": functional.l1_loss(made, real)}
        (pixels,) = torch.autograd.grad(told["l1-loss"], made, retain_graph=True)
        if not kind.judging:
            return told, pixels
        likeness = torch.zeros_like(pixels)
        if self.perceptual is not None:
            with self.fabric.autocast():
                told["perceptual-loss"] = self.perceptual(made, real).mean()
            (likeness,) = torch.autograd.grad(told["perceptual-loss"], made, retain_graph=True)
            likeness = settings.perceptual_weight * likeness
        often = float(settings.judging_interval)
        pull = pixels + often * likeness
        if kind.adversarial:
            self.discriminator.requires_grad_(False)
            with self.fabric.autocast():
                scores = self.discriminator(made)
            told["deceiving-loss"] = -scores.float().mean()
            (deceiving,) = torch.autograd.grad(told["deceiving-loss"], made, retain_graph=True)
            self.discriminator.requires_grad_(True)
            told["adaptive-weight"] = adaptive_weight(*self._at_last_layer(made, pixels + likeness, deceiving))
            pull = pull + often * settings.adversarial_weight * told["adaptive-weight"] * deceiving
        return told, pull

    def _at_last_layer(self, made: Tensor, *gradients: Tensor) -> list[Tensor]:
        """Carry gradients at the reconstructions on to the weights of the decoder's last convolution."""
        last = self.autoencoder.model.decoder.conv_out.weight
        return [torch.autograd.grad(made, last, gradient, retain_graph=True)[0] for gradient in gradients]

    def _update_discriminator(self, real: Tensor, made: Tensor) -> Tensor:
        """Take one step on half the hinge loss, as published, and return it."""
        with self.fabric.autocast():
            on_real, on_made = self.discriminator(real), self.discriminator(made)
        loss = hinge(on_real.float(), on_made.float()) / 2
        self.discriminator_optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.discriminator_optimiser.step()
        return loss

    @torch.no_grad()
    def _start_codes(self) -> None:
        """Set the codes to latents of training images, drawn at random."""
        codebook = self.autoencoder.codebook
        found: list[Tensor] = []
        count, batch = 0, 0
        while count < _LATENTS_A_CODE * len(codebook) and batch * self.settings.batch_size < len(self.images):
            with self.fabric.autocast():
                latents = self.autoencoder.encode(self._batch(*self._draw(batch)))
            found.append(_places(latents))
            count, batch = count + len(found[-1]), batch + 1
        codebook.copy_(_drawn(torch.cat(found), len(codebook), seeded(self.seed, _CODES)))

    @torch.no_grad()
    def _revive(self, places: Tensor, step: int) -> None:
        """Now and then move codes that have not been used for long onto latents (M, 3)."""
        interval = self.settings.revive_interval
        if interval is None or step % interval != interval - 1:
            return
        dead = (self.idle >= interval).nonzero().flatten()
        codebook = self.autoencoder.codebook
        codebook[dead] = _drawn(places, len(dead), seeded(self.seed, _CODES, step))
        # What Adam remembers of them is of other places.
        for moment in ("exp_avg", "exp_avg_sq"):
            self.optimiser.state[codebook][moment][dead] = 0

    def _look(self, told: dict[str, Tensor], step: int) -> None:
        """Say when the training cannot come to anything any more."""
        remedy = f"lower learning_rate (now {self.settings.learning_rate:g})"
        for name, value in told.items():
            if not math.isfinite(float(value)):
                raise HarnessError(f"The first stage diverged: {name} is {float(value)} at step {step + 1}; {remedy}.")
        contrast = float(told["contrast"])
        if step + 1 >= _SETTLED and contrast < _FLAT:
            raise HarnessError(
                f"The first stage collapsed: at step {step + 1} all its reconstructions are of one colour (they vary "
                f"by {contrast:.2g} of what the images do); {remedy}, or use another seed."
            )

    def _parts(self) -> dict[str, nn.Module | torch.optim.Optimizer]:
        return {
            "autoencoder": self.autoencoder,
            "discriminator": self.discriminator,
            "optimiser": self.optimiser,
            "discriminator-optimiser": self.discriminator_optimiser,
        }

    def state(self, step: int) -> dict[str, Any]:
        """Return everything that a resumed training needs after ``step`` steps."""
        parts = {name: part.state_dict() for name, part in self._parts().items()}
        return {"step": step, "idle": self.idle.clone(), **parts}

    def restore(self, state: dict[str, Any]) -> int:
        """Take up a state and return its step."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        for optimiser in (self.optimiser, self.discriminator_optimiser):
            set_capturable(optimiser, self.device)
        self.idle.copy_(state["idle"])
        return int(state["step"])


def _places(latents: Tensor) -> Tensor:
    """Return latents (N, 3, h, w) as float32 (N * h * w, 3), one row a place."""
    return latents.detach().float().permute(0, 2, 3, 1).reshape(-1, CHANNELS)


def _drawn(latents: Tensor, count: int, randomness: torch.Generator) -> Tensor:
    """Draw ``count`` of the latents (M, 3), each at most once when there are enough."""
    rounds = [torch.randperm(len(latents), generator=randomness) for _ in range(-(-count // len(latents)))]
    order = torch.cat(rounds) if rounds else torch.zeros(0, dtype=torch.int64)
    return latents[order[:count].to(latents.device)]


def _perceptual(settings: FirstStageParameters, device: torch.device) -> tuple[PerceptualNetwork | None, str]:
    """Return the perceptual network on this machine, and the sentence that reports must show."""
    if not settings.perceptual_weight:
        return None, ""
    network = perceptual_network(device, blocks=settings.perceptual_blocks)
    if network is None:
        return None, f"The first stage was trained without a perceptual term: {NO_NETWORK}."
    return network, f"First stage: {network.note}" if network.note else ""

"""Training the first stage: reconstruction, perceptual, adversarial and codebook terms, and codes that stay in use."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from generators.adversarial_losses import hinge
from generators.first_stage.autoencoder import FACTOR, NETWORKS, build
from generators.first_stage.discriminator import PatchDiscriminator, adaptive_weight, layers_for
from generators.first_stage.parameters import FirstStageParameters
from generators.randomness import FLIP_AXES, draw_flips, flip, seeded
from harness.errors import HarnessError
from harness.perceptual import NO_NETWORK, PerceptualNetwork, perceptual_network
from harness.precision import fabric_on
from harness.training import batch_positions

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
#: A code counts as used when it was in this many steps.
_USE_WINDOW = 100


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

    def _set_up(self, network: Any) -> tuple[Any, torch.optim.Adam]:
        network.to(self.device).to(memory_format=torch.channels_last).train()
        settings = self.settings
        return network, torch.optim.Adam(network.parameters(), settings.learning_rate, settings.betas, fused=True)

    def _batch(self, step: int) -> Tensor:
        """Return the images of a step as float32 (N, 3, H, W) in [-1, 1], channels last, flipped at random."""
        settings = self.settings
        positions = batch_positions(np.arange(len(self.images)), settings.batch_size, self.seed, step)
        chosen = self.images[torch.from_numpy(positions).to(self.device)].float().div_(127.5).sub_(1)
        axes = FLIP_AXES[settings.flip]
        chosen = flip(chosen, axes, draw_flips(len(positions), axes, seeded(self.seed, _STEP, step)).to(self.device))
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
            Losses, ``adaptive-weight`` and ``codebook-usage`` (share of the codes used in the last 100 steps) without
            gradient, by name.

        Raises:
            HarnessError: a loss is not finite, or all reconstructions are of one colour.
        """
        settings = self.settings
        if step == 0 and settings.codebook_start == "latents":
            self._start_codes()
        for group in (*self.optimiser.param_groups, *self.discriminator_optimiser.param_groups):
            group["lr"] = self.rate(step)
        real = self._batch(step)
        with self.fabric.autocast():
            latents = self.autoencoder.encode(real)
            quantised = self.autoencoder.quantise(latents)
            made = self.autoencoder.decode_quantised(quantised.latents)
        made = made.float()
        judging = (step + 1) % settings.judging_interval == 0  # so that round numbers of steps, which are logged, do
        told, pull = self._judge(real, made, step, judging=judging)
        told["codebook-loss"] = quantised.loss
        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward([made, settings.codebook_weight * quantised.loss], [pull, None])
        self.optimiser.step()
        if judging and self._adversarial(step):
            told["discriminator-loss"] = self._update_discriminator(real, made.detach())
        self._follow(quantised.codes, latents.detach(), step)
        told["codebook-usage"] = (self.idle < _USE_WINDOW).float().mean()
        told = {name: value.detach() for name, value in told.items()}
        if step % _LOOK_EVERY == _LOOK_EVERY - 1 or step == settings.steps - 1:
            self._look(told, real, made.detach(), step)
        return told

    def _adversarial(self, step: int) -> bool:
        return self.settings.adversarial_weight > 0 and step >= self.settings.adversarial_start

    def _judge(self, real: Tensor, made: Tensor, step: int, *, judging: bool) -> tuple[dict[str, Tensor], Tensor]:
        """Return the terms that compare reconstructions with images, and the gradient of their sum to the first.

        The gradients are taken one by one, so that the adaptive weight costs no second pass through the networks.
        """
        settings = self.settings
        told = {"l1-loss": functional.l1_loss(made, real)}
        (pixels,) = torch.autograd.grad(told["l1-loss"], made, retain_graph=True)
        if not judging:
            return told, pixels
        likeness = torch.zeros_like(pixels)
        if self.perceptual is not None:
            with self.fabric.autocast():
                told["perceptual-loss"] = self.perceptual(made, real).mean()
            (likeness,) = torch.autograd.grad(told["perceptual-loss"], made, retain_graph=True)
            likeness = settings.perceptual_weight * likeness
        often = float(settings.judging_interval)
        pull = pixels + often * likeness
        if self._adversarial(step):
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
                latents = self.autoencoder.encode(self._batch(batch))
            found.append(latents.float().permute(0, 2, 3, 1).reshape(-1, codebook.shape[1]))
            count, batch = count + len(found[-1]), batch + 1
        codebook.copy_(_drawn(torch.cat(found), len(codebook), seeded(self.seed, _CODES)))

    @torch.no_grad()
    def _follow(self, codes: Tensor, latents: Tensor, step: int) -> None:
        """Count how long codes have not been used, and now and then move those that are dead onto latents."""
        self.idle += 1
        self.idle[codes.flatten()] = 0
        interval = self.settings.revive_interval
        if interval is None or step % interval != interval - 1:
            return
        dead = (self.idle >= interval).nonzero().flatten()
        codebook = self.autoencoder.codebook
        places = latents.float().permute(0, 2, 3, 1).reshape(-1, codebook.shape[1])
        codebook[dead] = _drawn(places, len(dead), seeded(self.seed, _CODES, step))
        # What Adam remembers of them is of other places.
        for moment in ("exp_avg", "exp_avg_sq"):
            self.optimiser.state[codebook][moment][dead] = 0

    def _look(self, told: dict[str, Tensor], real: Tensor, made: Tensor, step: int) -> None:
        """Say when the training cannot come to anything any more."""
        remedy = f"lower learning_rate (now {self.settings.learning_rate:g})"
        for name, value in told.items():
            if not math.isfinite(float(value)):
                raise HarnessError(f"The first stage diverged: {name} is {float(value)} at step {step + 1}; {remedy}.")
        spread, wanted = (float(pictures.std(dim=(0, 2, 3)).mean()) for pictures in (made, real))
        if step + 1 >= _SETTLED and spread < _FLAT * wanted:
            raise HarnessError(
                f"The first stage collapsed: at step {step + 1} all its reconstructions are of one colour (standard "
                f"deviation {spread:.2g}, of the images {wanted:.2g}); {remedy}, or use another seed."
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
        self.idle.copy_(state["idle"])
        return int(state["step"])


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

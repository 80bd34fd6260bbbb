"""DCGAN for four-channel pictures: a polyp image and its mask from one latent."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from harness.errors import HarnessError
from harness.plugins import Card, Checkpoint, FitContext, Generator, Parameters, Sample, SampleContext

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from harness.data.pairs import PairSet

SIZES = (32, 64, 128, 256)

#: What the published code does where the sound defaults differ: 500 epochs of 1000 pairs.
AS_PUBLISHED: dict[str, Any] = {
    "steps": 62_500,
    "batch_size": 8,
    "generator_features": 64,
    "discriminator_features": 64,
    "learning_rate": 2e-4,
    "discriminator_learning_rate": 2e-4,
    "betas": (0.5, 0.999),
    "discriminator_normalisation": "batch",
    "loss": "bce",
    "real_label": 1.0,
    "flip": "horizontal",
    "augment": (),
    "ema": 0.0,
}

#: Latents are sampled in chunks of this many, the last one padded, so that no pair depends on how many are asked for.
CHUNK = 16

_LOG_EVERY = 20
#: Before so many steps the running statistics of batch norm say little, and neither does what they make.
_SETTLED = 100
_FLIP_AXES = {"none": (), "horizontal": (3,), "both": (2, 3)}
_ORDER, _LATENTS, _STEP, _RECALIBRATION, _WEIGHTS = range(5)


class DCGANParameters(Parameters):
    """What a DCGAN can be told; ``setting`` sets the defaults of the others."""

    setting: Literal["sound", "as-published"] = Field(
        "sound",
        description="group of defaults: 'sound' learns from some hundred pairs, 'as-published' follows paper B",
    )
    steps: int = Field(5000, ge=1, description="optimiser steps of each network")
    epochs: int | None = Field(None, ge=1, description="passes over the training pairs, instead of steps")
    batch_size: int = Field(16, ge=2, description="pairs a step")
    checkpoints: int | tuple[int, ...] = Field(
        4, description="how many checkpoints, evenly spaced with the last step last, or the list of their steps"
    )
    latent: int = Field(100, ge=1, description="length of the latent that a pair is made from")
    generator_features: int = Field(
        32, ge=1, description="channels of the generator's widest picture; deeper layers have up to 8 times as many"
    )
    discriminator_features: int = Field(
        32, ge=1, description="channels of the discriminator's first layer; deeper ones have up to 8 times as many"
    )
    learning_rate: float = Field(4e-4, gt=0, description="Adam's learning rate for the generator")
    discriminator_learning_rate: float = Field(4e-4, gt=0, description="Adam's learning rate for the discriminator")
    betas: tuple[float, float] = Field((0.5, 0.99), description="Adam's decay rates")
    loss: Literal["bce", "hinge"] = Field(
        "bce", description="adversarial loss: binary cross-entropy (non-saturating) or hinge"
    )
    real_label: float = Field(
        0.9, gt=0.5, le=1, description="target of real pairs under bce: below 1 is one-sided label smoothing"
    )
    discriminator_normalisation: Literal["batch", "spectral"] = Field(
        "batch", description="what keeps the discriminator in bounds"
    )
    flip: Literal["none", "horizontal", "both"] = Field("both", description="random flips of the real pairs")
    augment: tuple[Literal["colour", "translation", "cutout"], ...] = Field(
        ("translation",),
        description="augmentation of what the discriminator sees; colour leaves the mask alone",
    )
    ema: float = Field(
        0.998, ge=0, lt=1, description="decay of the averaged weights that are sampled from; 0 samples the raw weights"
    )
    mask_threshold: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="a mask pixel is polyp above this; paper B saves grey masks and leaves it to the reader",
    )

    @model_validator(mode="before")
    @classmethod
    def _apply_setting(cls, values: Any) -> Any:
        """Fill in the published values under 'as-published'; what a study says itself wins."""
        if isinstance(values, dict) and values.get("setting") == "as-published":
            return {**AS_PUBLISHED, **values}
        return values

    def total_steps(self, pairs: int) -> int:
        """Return the optimiser steps for a training set of so many pairs."""
        return self.steps if self.epochs is None else math.ceil(self.epochs * pairs / self.batch_size)

    def checkpoint_steps(self, pairs: int) -> list[int]:
        """Return the increasing steps at which checkpoints are written; the last step is always one.

        Raises:
            HarnessError: a step that was asked for lies beyond the end.
        """
        total = self.total_steps(pairs)
        if isinstance(self.checkpoints, int):
            count = min(max(self.checkpoints, 1), total)
            return sorted({round(total * (i + 1) / count) for i in range(count)})
        beyond = [step for step in self.checkpoints if not 1 <= step <= total]
        if beyond:
            raise HarnessError(
                f"dcgan: checkpoint {beyond[0]} is outside steps 1 to {total}; give steps within the fit."
            )
        return sorted({*self.checkpoints, total})


@dataclass
class _Training:
    """Everything that changes while a DCGAN trains."""

    generator: nn.Sequential
    discriminator: nn.Sequential
    averaged: nn.Sequential
    generator_optimiser: torch.optim.Optimizer
    discriminator_optimiser: torch.optim.Optimizer

    def parts(self) -> dict[str, Any]:
        return vars(self)

    def state(self, step: int) -> dict[str, Any]:
        return {"step": step, **{name: part.state_dict() for name, part in self.parts().items()}}

    def restore(self, state: dict[str, Any]) -> None:
        for name, part in self.parts().items():
            part.load_state_dict(state[name])


class DCGAN(Generator):
    """Deep convolutional GAN for pairs: RGB and mask as four channels of one picture, 32 to 256 px.

    Implements Radford, Metz and Chintala 2016 (arXiv 1511.06434) in the form of the PyTorch example with a fourth
    channel, as paper B (SinGAN-Seg) compares with: ``setting: as-published`` is its 64 px network with its training.
    The default trains the same networks, narrower, with what makes a GAN learn from few pictures: differentiable
    augmentation (Zhao et al. 2020), one-sided label smoothing and an average of the weights.
    The size of the pictures is that of the training pairs.
    """

    name = "dcgan"
    Parameters: ClassVar[type[Parameters]] = DCGANParameters
    card = Card(sizes=SIZES, minimum=2, cost="minutes on a CPU at 64 px")
    parameters: DCGANParameters

    @classmethod
    def example(cls) -> dict[str, Any]:
        """Return parameters for a fit of a second."""
        return {
            "steps": 6,
            "batch_size": 4,
            "checkpoints": 2,
            "latent": 8,
            "generator_features": 4,
            "discriminator_features": 4,
        }

    def fit(self, pairs: PairSet, context: FitContext) -> Iterator[Checkpoint]:
        """Train on real pairs of one power-of-two size and yield the checkpoints.

        All randomness at a step comes from (seed, step), so that a resumed fit is the same fit; on a CPU bit for bit.

        Raises:
            HarnessError: the pairs are not square with a side of 32 to 256 that is a power of two, are too few, or
                training diverged.
        """
        size = self._checked_size(pairs)
        settings = self.parameters
        total = settings.total_steps(len(pairs))
        checkpoints = set(settings.checkpoint_steps(len(pairs)))
        training = self._start(size, context)
        done = 0
        state = context.restore_state()
        if state is not None:
            training.restore(state)
            done = int(state["step"])
        while done < total:
            losses = self._step(training, pairs, done, context)
            done += 1
            saving = context.should_save()
            regular = done % _LOG_EVERY == 0 or done in checkpoints
            if regular or saving:
                self._check_finite(losses, done)
            if regular:
                context.log(done, **{name: float(loss) for name, loss in losses.items()})
            context.progress(done, total)
            if done in checkpoints:
                yield self._checkpoint(training, size, done, context)
            if saving:
                context.save_state(training.state(done))

    def _checked_size(self, pairs: PairSet) -> int:
        height, width = pairs.size
        if height != width or height not in SIZES:
            raise HarnessError(
                f"dcgan makes squares of {', '.join(map(str, SIZES))} px, and the training pairs are "
                f"{width} x {height} px; "
                "set dataset.size to one of these."
            )
        if len(pairs) < self.card.minimum:
            raise HarnessError(f"dcgan needs at least {self.card.minimum} training pairs and was given {len(pairs)}.")
        return height

    def _start(self, size: int, context: FitContext) -> _Training:
        """Build networks and optimisers; their initial weights depend on the seed alone."""
        import torch

        from generators.dcgan_networks import discriminator_network, generator_network, initialise, seeded

        settings = self.parameters
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(context.seed)
            networks = [
                generator_network(size, settings.latent, settings.generator_features),
                discriminator_network(size, settings.discriminator_features, settings.discriminator_normalisation),
                generator_network(size, settings.latent, settings.generator_features),
            ]
        for network in networks[:2]:
            initialise(network, seeded(context.seed, _WEIGHTS, len(list(network.parameters()))))
        networks[2].load_state_dict(networks[0].state_dict())
        generator, discriminator, averaged = (
            network.to(context.device).to(memory_format=torch.channels_last) for network in networks
        )
        return _Training(
            generator,
            discriminator,
            averaged.requires_grad_(False),
            torch.optim.Adam(generator.parameters(), settings.learning_rate, settings.betas),
            torch.optim.Adam(discriminator.parameters(), settings.discriminator_learning_rate, settings.betas),
        )

    def _step(self, training: _Training, pairs: PairSet, step: int, context: FitContext) -> dict[str, Tensor]:
        """Update the discriminator, then the generator, once; return both losses."""
        import torch

        from generators.dcgan_networks import augment, flip, four_channels, seeded

        settings = self.parameters
        randomness = seeded(context.seed, _STEP, step)
        real = flip(
            four_channels(pairs, self._positions(len(pairs), step, context.seed)),
            _FLIP_AXES[settings.flip],
            randomness,
        )
        real = real.to(context.device, memory_format=torch.channels_last)
        latents = torch.randn(settings.batch_size, settings.latent, 1, 1, generator=randomness).to(context.device)
        with _half_precision(context.device):
            fake = training.generator(latents)
            on_real = training.discriminator(augment(real, settings.augment, randomness)).float()
            on_fake = training.discriminator(augment(fake.detach(), settings.augment, randomness)).float()
            discriminator_loss = self._discriminator_loss(on_real, on_fake)
        training.discriminator_optimiser.zero_grad(set_to_none=True)
        discriminator_loss.backward()
        training.discriminator_optimiser.step()
        training.discriminator.requires_grad_(False)
        with _half_precision(context.device):
            generator_loss = self._generator_loss(
                training.discriminator(augment(fake, settings.augment, randomness)).float()
            )
        training.generator_optimiser.zero_grad(set_to_none=True)
        generator_loss.backward()
        training.generator_optimiser.step()
        training.discriminator.requires_grad_(True)
        self._average(training, step)
        return {"discriminator-loss": discriminator_loss.detach(), "generator-loss": generator_loss.detach()}

    def _positions(self, count: int, step: int, seed: int) -> list[int]:
        """Return which pairs step ``step`` sees: epochs are seeded shuffles laid end to end, so every batch is full."""
        import torch

        from generators.dcgan_networks import seeded

        start = step * self.parameters.batch_size
        wanted = range(start, start + self.parameters.batch_size)
        orders = {
            epoch: torch.randperm(count, generator=seeded(seed, _ORDER, epoch))
            for epoch in {p // count for p in wanted}
        }
        return [int(orders[p // count][p % count]) for p in wanted]

    def _discriminator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        import torch.nn.functional as functional

        if self.parameters.loss == "hinge":
            return functional.relu(1 - real).mean() + functional.relu(1 + fake).mean()
        target = real.new_full(real.shape, self.parameters.real_label)
        bce = functional.binary_cross_entropy_with_logits
        return bce(real, target) + bce(fake, fake.new_zeros(fake.shape))

    def _generator_loss(self, fake: Tensor) -> Tensor:
        import torch.nn.functional as functional

        return -fake.mean() if self.parameters.loss == "hinge" else functional.softplus(-fake).mean()

    def _average(self, training: _Training, step: int) -> None:
        """Move the averaged weights towards the raw ones; the decay warms up so that early weights are forgotten."""
        import torch

        decay = min(self.parameters.ema, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(list(training.averaged.parameters()), list(training.generator.parameters()), 1 - decay)

    def _check_finite(self, losses: dict[str, Tensor], step: int) -> None:
        values = {name: float(loss) for name, loss in losses.items()}
        if not all(math.isfinite(value) for value in values.values()):
            raise HarnessError(
                f"dcgan diverged: a loss is {values} at step {step}; "
                "lower learning_rate and discriminator_learning_rate "
                f"(now {self.parameters.learning_rate:g} and {self.parameters.discriminator_learning_rate:g})."
            )

    def _checkpoint(self, training: _Training, size: int, step: int, context: FitContext) -> Checkpoint:
        """Write the network that is sampled from, after a look at what it makes."""
        import copy

        from safetensors.torch import save_file

        from generators.dcgan_networks import recalibrate, seeded

        settings = self.parameters
        network = copy.deepcopy(training.averaged if settings.ema else training.generator).eval()
        if settings.ema:
            recalibrate(network, settings.latent, seeded(context.seed, _RECALIBRATION, step))
        self._preview(network, step, context)
        folder = context.checkpoint_folder(step)
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
        save_file(weights, folder / "generator.safetensors")
        config = {
            "plugin": self.name,
            "version": self.version,
            "step": step,
            "size": size,
            "latent": settings.latent,
            "features": settings.generator_features,
            "mask_threshold": settings.mask_threshold,
        }
        (folder / "config.json").write_text(json.dumps(config, indent=1))
        return Checkpoint(step, folder)

    def _preview(self, network: nn.Sequential, step: int, context: FitContext) -> None:
        """Log a grid of samples, and stop when they are all one picture or not numbers."""
        import numpy as np
        import torch

        from generators.dcgan_networks import seeded, to_bytes

        latents = torch.randn(32, self.parameters.latent, 1, 1, generator=seeded(context.seed, _LATENTS))
        with torch.no_grad():
            pictures = network(latents.to(context.device)).float().cpu()
        variation = float(pictures.std(dim=0).mean())
        if step >= _SETTLED and not variation > 0.005:
            raise HarnessError(
                f"dcgan collapsed: at step {step} all its pictures are the same (standard deviation {variation:.2g} "
                f"between pictures, of a range of 2); lower learning_rate (now {self.parameters.learning_rate:g}), "
                f"or use another seed (now {context.seed})."
            )
        images, masks = to_bytes(pictures, self.parameters.mask_threshold)
        context.log(step, variation=variation, mask_area=float(masks.mean()))
        context.log_images("samples", step, images)
        context.log_images("masks", step, np.repeat(masks[..., None] * np.uint8(255), 3, axis=3))

    def sample(
        self,
        checkpoint: Checkpoint,
        seeds: NDArray[np.int64],
        context: SampleContext,
        masks: NDArray[np.uint8] | None = None,
    ) -> Sample:
        """Make one pair a seed: the seed gives the latent, batch norm uses its running statistics.

        Latents pass the network in chunks of a fixed size whatever ``context.batch_size`` says, because a convolution
        may round differently in batches of another size: so a pair is the same bit for bit however many are asked for.

        Raises:
            HarnessError: the checkpoint's files are missing or not those of a DCGAN.
        """
        import numpy as np
        import torch

        from generators.dcgan_networks import to_bytes

        network, config = _load(checkpoint.folder, context.device)
        images_made, masks_made = [], []
        for start in range(0, len(seeds), CHUNK):
            chunk = [int(seed) for seed in seeds[start : start + CHUNK]]
            drawn = [torch.randn(config["latent"], generator=torch.Generator().manual_seed(s)) for s in chunk]
            latents = torch.zeros(CHUNK, config["latent"], 1, 1)
            latents[: len(chunk), :, 0, 0] = torch.stack(drawn)
            with torch.no_grad():
                pictures = network(latents.to(context.device)).float().cpu()[: len(chunk)]
            images, polyps = to_bytes(pictures, config["mask_threshold"])
            images_made.append(images)
            masks_made.append(polyps)
        size = config["size"]
        empty = np.zeros((0, size, size), np.uint8)
        return Sample(
            np.concatenate([empty, *masks_made]),
            np.concatenate([np.zeros((0, size, size, 3), np.uint8), *images_made]),
        )


def _half_precision(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Return bfloat16 autocast on a CUDA device, and nothing elsewhere."""
    import torch

    return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else contextlib.nullcontext()


def _load(folder: Path, device: torch.device) -> tuple[nn.Sequential, dict[str, Any]]:
    """Read a checkpoint's network, in eval mode, and its config."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from generators.dcgan_networks import generator_network

    try:
        config = json.loads((folder / "config.json").read_text())
        network = generator_network(config["size"], config["latent"], config["features"])
        network.load_state_dict(load_file(folder / "generator.safetensors"))
    except (OSError, SafetensorError, RuntimeError, ValueError, KeyError) as error:
        raise HarnessError(f"{folder} is not a whole checkpoint of dcgan ({error}); run its fit again.") from error
    return network.to(device).to(memory_format=torch.channels_last).eval(), config

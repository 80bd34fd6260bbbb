"""The part of the plugin contract that diffusion models share: fit, checkpoints, loading."""

from __future__ import annotations

import contextlib
import json
import math
from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from generators.diffusion.parameters import SAMPLING, DiffusionParameters
from generators.diffusion.watch import LossWatch
from generators.stepped_fit import SteppedTraining, Stops, evenly, fit_in_steps
from harness.learning import Checkpoint, FitContext, Generator, HarnessError, OutOfMemory

if TYPE_CHECKING:
    import torch

    from generators.diffusion.denoiser import Denoiser
    from generators.diffusion.training import DiffusionStart
    from generators.several_devices import SharedTraining
    from harness.learning import PairSet

_CONFIG, _DENOISER = "config.json", "denoiser.safetensors"

#: Steps that grids of a fit are sampled with.
_GRID_STEPS = 15


class DiffusionModel(Generator):
    """Base of diffusion models.

    A plugin derives from it and from ``Generator`` (by which the registry finds it without importing it), and says how
    its network is built and what samples look like.
    """

    Parameters: ClassVar[type[Any]] = DiffusionParameters
    sampling: ClassVar[frozenset[str]] = SAMPLING
    parameters: Any

    @abstractmethod
    def build(self, config: dict[str, Any]) -> Denoiser:
        """Build the network of a checkpoint's config from the global torch seed."""

    def square_side(self, pairs: PairSet) -> int:
        """Return the side of the training pairs.

        Raises:
            HarnessError: they are no squares.
        """
        height, width = pairs.size
        if height != width:
            raise HarnessError(f"{self.name} makes squares, and the training pairs are {width} x {height} px.")
        return height

    def check_side(self, side: int, levels: int, factor: int = 1) -> None:
        """Check that the network can halve pictures, or their latents, as often as it has to.

        Args:
            side: of the training pairs.
            levels: of the network.
            factor: pixels a side of a latent position.

        Raises:
            HarnessError: it cannot.
        """
        settings = self.parameters
        multiple = factor * settings.patch << (levels - 1)
        if side % multiple:
            on = f" on latents {factor} times smaller" if factor > 1 else ""
            raise HarnessError(
                f"{self.name} with network {settings.network} ({levels} levels, patches of {settings.patch}){on} needs "
                f"pairs of a side that is a multiple of {multiple}, got {side} px; set another dataset.size, network "
                "or patch."
            )

    @property
    def for_grids(self) -> Any:
        """Parameters that grids of a fit are sampled with, whatever the study says of sampling: a quick sampler, and
        defaults."""
        fields = type(self.parameters).model_fields
        chosen = {name: fields[name].default for name in self.sampling}
        # Few steps of DDIM with fresh noise are grainy.
        chosen["sampler"] = "dpm-solver++"
        chosen["sampling_steps"] = min(_GRID_STEPS, self.parameters.timesteps)
        return self.parameters.model_copy(update=chosen)

    def train(
        self,
        start: DiffusionStart,
        context: FitContext,
        show: Callable[[int, Denoiser], None],
        keep: Callable[[int, Denoiser], Checkpoint],
        state: dict[str, Any] | None,
        whole: Callable[[SteppedTraining], SteppedTraining] = lambda training: training,
    ) -> Iterator[Checkpoint]:
        """Take a training to its end, on one device or several, and yield the checkpoints.

        Args:
            start: what it starts from.
            context: of the fit.
            show: logs samples of a network at a step.
            keep: writes the checkpoint of a network at a step.
            state: to go on from.
            whole: returns what is stepped and saved, where that is more than the training.
        """
        with self._started(start, context.device) as training:
            yield from self._train(training, context, show, keep, state, whole(training))

    @contextlib.contextmanager
    def _started(self, start: DiffusionStart, device: torch.device) -> Iterator[SharedTraining]:
        import torch

        from generators.several_devices import SeveralDevices
        from harness.learning.precision import fabric_on

        settings = self.parameters
        if settings.devices == 1:
            yield start(fabric_on(device, settings.precision))
            return
        with torch.random.fork_rng(devices=[]):
            network = start.build().requires_grad_(False).to(device).to(memory_format=torch.channels_last).eval()
        sent = replace(start, examples=start.examples.to(torch.device("cpu")))
        with SeveralDevices(sent, device, settings.devices, settings.precision, network) as training:
            yield training

    def _train(
        self,
        training: SharedTraining,
        context: FitContext,
        show: Callable[[int, Denoiser], None],
        keep: Callable[[int, Denoiser], Checkpoint],
        state: dict[str, Any] | None,
        whole: SteppedTraining,
    ) -> Iterator[Checkpoint]:
        settings = self.parameters
        grids = evenly(settings.grids, settings.steps) if settings.grids else ()
        stops = Stops(settings.steps, settings.checkpoint_steps(), grids)

        def shown(step: int) -> None:
            show(step, training.sampled_network())

        def kept(step: int) -> Checkpoint:
            shown(step)
            return keep(step, training.sampled_network())

        yield from fit_in_steps(
            whole,
            context,
            stops,
            settings.batch_size,
            state=state,
            look=partial(self.look, LossWatch()),
            show=shown,
            keep=kept,
        )

    def look(self, watch: LossWatch, told: dict[str, float], step: int) -> None:
        """Check what a step told.

        Raises:
            HarnessError: the loss is not finite, or has risen and stays there.
        """
        rate, (_, slow) = self.parameters.learning_rate, self.parameters.betas
        if not math.isfinite(told["loss"]):
            raise HarnessError(
                f"{self.name} diverged: its loss is {told['loss']:g} at step {step}; lower learning_rate (now "
                f"{rate:g}) or set warmup_steps."
            )
        if lost := watch.look(told):
            lowest, now = lost
            raise HarnessError(
                f"{self.name} diverged: its mean loss over all timesteps had fallen to {lowest:.2g}, and is {now:.2g} "
                f"up to step {step}; lower learning_rate (now {rate:g}) or the second of betas (now {slow:g})."
            )

    def devices(self) -> int:
        """Return how many devices a fit computes on."""
        return int(self.parameters.devices)

    def missing_requirements(self) -> list[str]:
        """Say when the fit wants more accelerators than there are; without any, it computes in processes."""
        from harness.learning.devices import visible_accelerators

        there = len(visible_accelerators())
        if not 0 < there < self.devices():
            return []
        return [f"devices: {self.devices()} asks for more accelerators than the {there} of this machine"]

    def too_little_memory(self, side: int, device: torch.device) -> OutOfMemory:
        """Return what to raise when a fit ran out of memory."""
        settings = self.parameters
        return OutOfMemory(
            f"Too little memory on {device} for a batch of {settings.batch_size} pictures of {side} px with "
            f"{self.name}, computed in {settings.accumulate} parts; raise accumulate, or use a smaller batch_size or "
            "network."
        )

    def write(self, folder: Path, step: int, network: Denoiser, config: dict[str, Any]) -> Checkpoint:
        """Write a network and what it is built from, and return the checkpoint."""
        from safetensors.torch import save_file

        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
        save_file(weights, folder / _DENOISER)
        facts = {"plugin": self.name, "version": self.version, "step": step, **config}
        (folder / _CONFIG).write_text(json.dumps(facts, indent=1))
        return Checkpoint(step, folder)

    def load(self, folder: Path, device: torch.device) -> tuple[Denoiser, dict[str, Any]]:
        """Read a checkpoint's network, in evaluation mode, and its config.

        Raises:
            HarnessError: files are missing or not those of this plugin.
        """
        import torch
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            config = json.loads((folder / _CONFIG).read_text())
            with torch.random.fork_rng(devices=[]):
                network = self.build(config)
            network.load_state_dict(load_file(folder / _DENOISER))
        except (OSError, SafetensorError, RuntimeError, ValueError, KeyError) as error:
            # Of weights that do not fit, torch lists every tensor.
            first = str(error).partition("\n")[0]
            raise HarnessError(
                f"{folder} is not a whole checkpoint of {self.name} ({first}); run its fit again."
            ) from error
        network.requires_grad_(False)
        return network.to(device).to(memory_format=torch.channels_last).eval(), config

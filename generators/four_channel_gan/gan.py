"""The part of the plugin contract that four-channel GANs share: fit, checkpoints, sampling."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from generators.four_channel_gan.parameters import FourChannelParameters
from generators.stepped_fit import Stops, evenly, fit_in_steps
from harness.learning import Checkpoint, FitContext, Generator, HarnessError, OutOfMemory, Sample, SampleContext

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import torch
    from numpy.typing import NDArray

    from generators.four_channel_gan.pictures import RealPictures
    from generators.four_channel_gan.training import GeneratorNetwork, Training
    from harness.learning import PairSet

#: Pictures are sampled in chunks of this many, the last one padded, so that no pair depends on how many are asked for.
CHUNK = 16

_GRID_LATENTS = 7
_SHOWN = 32


class FourChannelGAN(Generator):
    """Base of the GANs whose pictures have four channels, RGB and mask, so that one latent gives a pair.

    A plugin derives from it and from ``Generator`` (by which the registry finds it without importing it), and gives
    its parameters, the :class:`Training` with its networks and losses, and the network that a checkpoint holds.
    """

    Parameters: ClassVar[type[Any]] = FourChannelParameters
    sampling: ClassVar[frozenset[str]] = frozenset({"smallest"})
    parameters: Any

    @abstractmethod
    def training(self, real: RealPictures, context: FitContext) -> Training[Any]:
        """Return the training at its start."""

    @abstractmethod
    def network(self, config: dict[str, Any]) -> GeneratorNetwork:
        """Build the network of a checkpoint from what :meth:`describe` wrote and ``resolution``."""

    @abstractmethod
    def describe(self, training: Training[Any]) -> dict[str, Any]:
        """Return what :meth:`network` needs to know of a checkpoint."""

    @classmethod
    def example(cls) -> dict[str, Any]:
        """Return parameters for a fit of a second."""
        return {
            "steps": 6,
            "batch_size": 4,
            "checkpoints": 2,
            "grids": 0,
            "latent": 8,
            "generator_features": 4,
            "discriminator_features": 4,
        }

    def fit(self, pairs: PairSet, context: FitContext) -> Iterator[Checkpoint]:
        """Train on real pairs of one power-of-two size and yield the checkpoints.

        Raises:
            HarnessError: the pairs are not squares of a side that this GAN makes, are too few, or training diverged.
            OutOfMemory: the device had too little memory; names the batch.
        """
        from generators.four_channel_gan.pictures import RealPictures
        from harness.learning.memory import is_out_of_memory

        settings = self.parameters
        resolution = self._resolution(pairs)
        try:
            real = RealPictures(
                pairs,
                resolution,
                context.device,
                antialias=settings.antialias,
                premultiplied=settings.premultiplied,
            )
            yield from self._train(self.training(real, context), pairs, context)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemory(
                f"Too little memory on {context.device} for a batch of {settings.batch_size} pictures of {resolution} "
                f"px with {self.name}; use a smaller batch_size, generator_features or discriminator_features."
            ) from error

    def _train(self, training: Training[Any], pairs: PairSet, context: FitContext) -> Iterator[Checkpoint]:
        settings = self.parameters
        total = settings.total_steps(len(pairs))
        grids = evenly(settings.grids, total) if settings.grids else ()
        stops = Stops(total, settings.checkpoint_steps(len(pairs)), grids)

        def look(told: dict[str, float], step: int) -> None:
            training.watch.look(self.name, told, step, self._remedy())

        def show(step: int) -> None:
            self._show(training.sampled_network(step), pairs, step, context)

        def keep(step: int) -> Checkpoint:
            network = training.sampled_network(step)
            self._show(network, pairs, step, context)
            return self._checkpoint(training, network, pairs, step, context)

        state = context.restore_state()
        yield from fit_in_steps(
            training, context, stops, settings.batch_size, state=state, look=look, show=show, keep=keep
        )

    def _remedy(self) -> str:
        settings = self.parameters
        return (
            "lower learning_rate and discriminator_learning_rate (now "
            f"{settings.learning_rate:g} and {settings.discriminator_learning_rate:g})"
        )

    def _resolution(self, pairs: PairSet) -> int:
        """Return the side of the pictures to learn, after a look at the pairs."""
        height, width = pairs.size
        sizes = self.card.sizes
        asked = self.parameters.resolution
        resolution = height if asked is None else asked
        listed = ", ".join(map(str, sizes))
        if height != width or height not in sizes:
            raise HarnessError(
                f"{self.name} makes squares of {listed} px, and the training pairs are {width} x {height} px; "
                "set dataset.size to one of these."
            )
        if resolution not in sizes or resolution > height:
            raise HarnessError(
                f"{self.name} cannot learn at resolution {resolution} from pairs of {height} px; set resolution to "
                f"one of {listed} that is not larger than the pairs."
            )
        if len(pairs) < self.card.minimum:
            raise HarnessError(
                f"{self.name} needs at least {self.card.minimum} training pairs and was given {len(pairs)}."
            )
        return resolution

    def _show(self, network: GeneratorNetwork, pairs: PairSet, step: int, context: FitContext) -> None:
        """Log a grid of samples of the same latents at every step; specks of their masks stay in."""
        import numpy as np

        from generators.randomness import seeded

        drawn = network.draw(_SHOWN, seeded(context.seed, _GRID_LATENTS))
        images, masks = self._made(network, drawn, pairs.size[0], self.parameters.mask_threshold, context.device)
        context.log(step, mask_area=float(masks.mean()))
        context.log_images("samples", step, images)
        context.log_images("masks", step, np.repeat(masks[..., None] * np.uint8(255), 3, axis=3))

    def _checkpoint(
        self, training: Training[Any], network: GeneratorNetwork, pairs: PairSet, step: int, context: FitContext
    ) -> Checkpoint:
        """Write the network that is sampled from."""
        from safetensors.torch import save_file

        folder = context.checkpoint_folder(step)
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
        save_file(weights, folder / "generator.safetensors")
        config = {
            "plugin": self.name,
            "version": self.version,
            "step": step,
            "size": pairs.size[0],
            "resolution": training.real.pictures.shape[-1],
            "enlarge": self.parameters.enlarge,
            "mask_threshold": self.parameters.mask_threshold,
            **self.describe(training),
        }
        (folder / "config.json").write_text(json.dumps(config, indent=1))
        return Checkpoint(step, folder)

    def _made(
        self,
        network: GeneratorNetwork,
        drawn: tuple[torch.Tensor, ...],
        size: int,
        mask_threshold: float,
        device: torch.device,
    ) -> tuple[NDArray[np.uint8], ...]:
        """Return the images and masks of drawn numbers, as many as there are, made in chunks of one size."""
        import numpy as np
        import torch

        from generators.four_channel_gan.pictures import to_bytes

        made = []
        for start in range(0, len(drawn[0]), CHUNK):
            chunk = [tensor[start : start + CHUNK] for tensor in drawn]
            count = len(chunk[0])
            padded = [torch.cat([t, t.new_zeros(CHUNK - count, *t.shape[1:])]) if count < CHUNK else t for t in chunk]
            with torch.no_grad():
                pictures = network(*(tensor.to(device) for tensor in padded))[0][:count]
            made.append(to_bytes(pictures, mask_threshold, size, self.parameters.enlarge))
        nothing = (np.zeros((0, size, size, 3), np.uint8), np.zeros((0, size, size), np.uint8))
        images, masks = zip(nothing, *made, strict=True)
        return np.concatenate(images), np.concatenate(masks)

    def sample(
        self,
        checkpoint: Checkpoint,
        seeds: NDArray[np.int64],
        context: SampleContext,
        masks: NDArray[np.uint8] | None = None,
    ) -> Sample:
        """Make one pair a seed: the seed gives the latent, and the noise where the network injects any.

        Pictures pass the network in float32, in chunks of a fixed size whatever ``context.batch_size`` says, because a
        convolution may round differently in batches of another size: so a pair is the same bit for bit however many
        are asked for.

        Raises:
            HarnessError: the checkpoint's files are missing or not those of this GAN.
        """
        import torch

        from generators.specks import without_specks

        network, config = self._load(checkpoint.folder, context.device)
        each = [network.draw(1, torch.Generator().manual_seed(int(seed))) for seed in seeds]
        drawn = tuple(map(torch.cat, zip(*each, strict=True))) or network.draw(0, torch.Generator())
        images, polyps = self._made(network, drawn, config["size"], config["mask_threshold"], context.device)
        return Sample(without_specks(polyps, self.parameters.smallest), images)

    def _load(self, folder: Path, device: torch.device) -> tuple[GeneratorNetwork, dict[str, Any]]:
        """Read a checkpoint's network, in evaluation mode, and its config."""
        import torch
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            config = json.loads((folder / "config.json").read_text())
            network = self.network(config)
            network.load_state_dict(load_file(folder / "generator.safetensors"))
        except (OSError, SafetensorError, RuntimeError, ValueError, KeyError) as error:
            raise HarnessError(
                f"{folder} is not a whole checkpoint of {self.name} ({error}); run its fit again."
            ) from error
        network.requires_grad_(False)
        return network.to(device).to(memory_format=torch.channels_last).eval(), config

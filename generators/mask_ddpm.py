"""A diffusion model of masks: paper A's first stage, whose masks another model then makes images for."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from generators.diffusion.generator import DiffusionModel
from generators.diffusion.parameters import SAMPLING, DiffusionParameters, Schedule
from harness.learning import Card, Checkpoint, FitContext, Generator, Parameters, Sample, SampleContext

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from generators.diffusion.denoiser import Denoiser
    from harness.learning import PairSet

#: Widths of each level, residual blocks of a level, channels of an attention head, and groups of the norms.
NETWORKS: dict[str, dict[str, Any]] = {
    "published": {"widths": (128, 128, 256, 256, 512, 512), "layers": 2},
    "large": {"widths": (128, 128, 256, 256, 512), "layers": 2, "head_width": 64},
    "medium": {"widths": (64, 128, 192, 256), "layers": 2, "head_width": 64},
    "small": {"widths": (32, 64, 128), "layers": 1, "head_width": 32, "groups": 4},
    "tiny": {"widths": (16, 24), "layers": 1, "head_width": 8, "groups": 8},
}

_SHOWN = 16
_GRID_SEED = 1 << 40


class MaskDDPMParameters(DiffusionParameters):
    """What a diffusion model of masks can be told; ``setting`` sets the defaults of the others."""

    #: Paper A's flags of improved-diffusion at 256 px: 200,000 steps of 2 masks, which it chose among 230,000.
    as_published: ClassVar[dict[str, Any]] = {
        "network": "published",
        "channels": 3,
        "steps": 230_000,
        "batch_size": 2,
        "checkpoints": (1, 50_000, 100_000, 150_000, 200_000, 230_000),
        "noise_schedule": "linear",
        "noise_shift": 1.0,
        "prediction": "noise",
        "learning_rate": 1e-4,
        "gradient_clip": None,
        "ema": 0.9999,
        "ema_warmup": False,
        "flip": "none",
        "sampler": "ancestral",
        "sampling_steps": 1000,
        "spacing": "leading",
        "thresholding": "image-mean",
        "precision": "float32",
    }

    network: Literal["published", "large", "medium", "small", "tiny"] = Field(
        "medium",
        description="size of the U-Net: 'published' has 113,676,678 parameters with 3 channels and needs a side that"
        " is a multiple of 32; 'small' learns on a CPU; 'tiny' is for tests",
    )
    channels: Literal[1, 3] = Field(1, description="of the pictures of masks: grey, or three equal ones as published")
    noise_schedule: Schedule = Field("cosine", description="how noise grows with the timestep")
    noise_shift: float = Field(
        3.0,
        gt=0,
        description="divide the signal-to-noise ratio of each timestep by the square of this, as if masks were so many "
        "times larger: how large a polyp is shows through very much noise, and is otherwise learned at few timesteps",
    )
    prediction: Literal["noise", "velocity"] = Field(
        "velocity", description="what the network predicts: the noise, or velocity (Salimans and Ho 2022)"
    )
    variance: Literal["learned", "fixed"] = Field(
        "learned", description="of the reverse steps: learned between two bounds by the hybrid objective, or the lower"
    )
    thresholding: Literal["grey", "image-mean"] = Field(
        "grey",
        description="how pictures become masks: above the middle grey, or each byte against its picture's mean as "
        "paper A's code does, which turns a mask without any polyp white",
    )
    channel: Literal["red", "green"] = Field(
        "red", description="of which channel the mask is made under image-mean: labels there were red, conditions green"
    )
    smallest: float = Field(
        0.002, ge=0, lt=1, description="share of the frame below which specks and holes are removed, under grey"
    )

    @model_validator(mode="after")
    def _coloured(self) -> MaskDDPMParameters:
        if self.thresholding == "image-mean" and self.channels != 3:
            raise ValueError("thresholding image-mean compares three channels; set channels to 3")
        return self


class MaskDDPM(DiffusionModel, Generator):
    """Denoising diffusion model of masks, for any square size that its network can halve.

    Implements Ho, Jain and Abbeel 2020 (arXiv 2006.11239) with the learned variances and the hybrid objective of
    Nichol and Dhariwal 2021 (arXiv 2102.09672), on the U-Net of diffusers. ``setting: as-published`` is paper A's:
    its network of 113,676,678 parameters at 256 px, sampled by 1000 ancestral steps and thresholded with its flaws.
    The default has one channel, the cosine schedule, flips, and masks that are thresholded at the middle grey and freed
    from specks and holes.
    """

    name = "mask-ddpm"
    Parameters: ClassVar[type[Parameters]] = MaskDDPMParameters
    card = Card(needs="masks", makes="masks", minimum=2, cost="half an hour on a CPU core at 64 px")
    sampling: ClassVar[frozenset[str]] = SAMPLING | {"thresholding", "channel", "smallest"}
    parameters: MaskDDPMParameters

    @classmethod
    def example(cls) -> dict[str, Any]:
        """Return parameters for a fit of a second."""
        return {
            "network": "tiny",
            "steps": 6,
            "batch_size": 4,
            "checkpoints": 2,
            "grids": 0,
            "timesteps": 20,
            "sampling_steps": 4,
            "attention": (8,),
        }

    def build(self, config: dict[str, Any]) -> Denoiser:
        """Build the network of a checkpoint's config."""
        from generators.diffusion.denoiser import Denoiser, Shape

        return Denoiser(
            config["channels"],
            config["side"],
            Shape(**NETWORKS[config["network"]]),
            attention=tuple(config["attention"]),
            patch=config["patch"],
            learned_variance=config["learned_variance"],
            dropout=config["dropout"],
        )

    def fit(self, pairs: PairSet, context: FitContext) -> Iterator[Checkpoint]:
        """Train on the masks of real pairs and yield the checkpoints.

        Raises:
            HarnessError: the pairs are no squares, or not of a side that the network can halve; or training diverged.
            OutOfMemory: the device had too little memory; names the batch.
        """
        import numpy as np
        import torch

        from generators.diffusion.examples import PixelExamples
        from generators.diffusion.training import DiffusionStart
        from harness.learning.memory import is_out_of_memory

        settings = self.parameters
        side = self.square_side(pairs)
        self.check_side(side, len(NETWORKS[settings.network]["widths"]))
        learned = settings.variance == "learned"
        config = {
            "side": side,
            "learned_variance": learned,
            **settings.model_dump(mode="json", include={"channels", "network", "attention", "patch", "dropout"}),
        }
        masks = torch.from_numpy(np.array(pairs.masks))[:, None].to(context.device) * 255
        examples = PixelExamples(masks.repeat(1, settings.channels, 1, 1), None, settings.flip)

        def show(step: int, network: Denoiser) -> None:
            asked = self.for_grids
            made = self._pictures(network, asked, np.arange(_SHOWN) + _GRID_SEED, context.device)
            grey = ((made.mean(axis=1) + 1) * 127.5).clip(0, 255).astype(np.uint8)
            context.log_images("samples", step, np.repeat(grey[..., None], 3, axis=3))
            found = self._masks(made, asked)
            context.log(step, mask_area=float(found.mean()), empty_masks=float((~found.any(axis=(1, 2))).sum()))

        def keep(step: int, network: Denoiser) -> Checkpoint:
            return self.write(context.checkpoint_folder(step), step, network, config)

        try:
            build = partial(self.build, config)
            start = DiffusionStart(settings, examples, build, context.seed, learned_variance=learned)
            yield from self.train(start, context, show, keep, context.restore_state())
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise self.too_little_memory(side, context.device) from error

    def sample(
        self,
        checkpoint: Checkpoint,
        seeds: NDArray[np.int64],
        context: SampleContext,
        masks: NDArray[np.uint8] | None = None,
    ) -> Sample:
        """Make one mask a seed. A mask without any polyp is kept: real frames without one exist.

        Raises:
            HarnessError: the checkpoint's files are missing or not those of this plugin.
        """
        network, _ = self.load(checkpoint.folder, context.device)
        made = self._pictures(network, self.parameters, seeds, context.device)
        return Sample(self._masks(made, self.parameters))

    def _pictures(
        self, network: Denoiser, settings: MaskDDPMParameters, seeds: NDArray[np.int64], device: torch.device
    ) -> NDArray[np.float32]:
        """Return pictures of masks, float32 (N, C, S, S) around [-1, 1]."""
        from generators.diffusion.sampling import denoise

        made = denoise(
            network,
            settings,
            (settings.channels, network.side, network.side),
            seeds,
            device,
            learned_variance=settings.variance == "learned",
        )
        pictures: NDArray[np.float32] = made.numpy()
        return pictures

    @staticmethod
    def _masks(pictures: NDArray[np.float32], settings: MaskDDPMParameters) -> NDArray[np.uint8]:
        from generators.diffusion.masks import threshold, threshold_as_published

        if settings.thresholding == "grey":
            return threshold(pictures, settings.smallest)
        return threshold_as_published(pictures, settings.channel)

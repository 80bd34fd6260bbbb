"""Latent diffusion conditioned on masks: paper A's second stage, which makes images for given masks."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from generators.diffusion.generator import DiffusionModel
from generators.diffusion.parameters import SAMPLING, DiffusionParameters, Schedule
from generators.first_stage.parameters import FirstStageParameters
from harness.learning import Card, Checkpoint, FitContext, Generator, Parameters, Sample, SampleContext

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

    from generators.diffusion.denoiser import Denoiser
    from generators.first_stage.autoencoder import Autoencoder
    from generators.stepped_fit import SteppedTraining
    from harness.learning import PairSet

#: Widths of each level, residual blocks of a level, channels of an attention head, and groups of the norms.
NETWORKS: dict[str, dict[str, Any]] = {
    "published": {"widths": (128, 512, 1024), "layers": 2, "head_width": 128},
    "large": {"widths": (128, 256, 512), "layers": 2, "head_width": 64},
    "medium": {"widths": (96, 192, 384), "layers": 2, "head_width": 64},
    "small": {"widths": (64, 128, 128), "layers": 1, "head_width": 32, "groups": 4},
    "tiny": {"widths": (16, 24), "layers": 1, "head_width": 8, "groups": 8},
}

_FIRST_STAGE = "first-stage.safetensors"
_SHOWN = 16
_GRID_SEED = 1 << 40


class MaskLDMParameters(DiffusionParameters):
    """What a latent diffusion model can be told; ``setting`` sets the defaults of the others."""

    #: Paper A's run at 256 px with batches of 8: its six checkpoints are epochs 88 to 922 of 113 steps (Table 2).
    as_published: ClassVar[dict[str, Any]] = {
        "network": "published",
        "first_stage": {"setting": "as-published"},
        "scale_latents": False,
        "steps": 104_299,
        "batch_size": 8,
        "checkpoints": (10_057, 11_752, 15_368, 100_909, 103_282, 104_299),
        "attention": (),
        "noise_schedule": "scaled-linear",
        "beta_start": 0.0015,
        "beta_end": 0.0205,
        "prediction": "noise",
        "loss": "l1",
        "learning_rate": 8e-6,
        "warmup_steps": 10_000,
        "weight_decay": 0.01,
        "gradient_clip": None,
        "ema": 0.0,
        "flip": "none",
        "mask_dropout": 0.0,
        "guidance": 1.0,
        "sampler": "ddim",
        "sampling_steps": 200,
        "eta": 1.0,
        "spacing": "leading",
        "precision": "float32",
    }

    network: Literal["published", "large", "medium", "small", "tiny"] = Field(
        "medium",
        description="size of the U-Net: 'published' has 215,229,315 parameters with attention in the middle only; "
        "'small' learns on a CPU; 'tiny' is for tests",
    )
    attention: tuple[int, ...] = Field(
        (32, 16),
        description="sides of the grid of positions at which there is self-attention, besides the middle block; the "
        "published list names factors where these sides were meant, and so has none",
    )
    first_stage: FirstStageParameters | None = Field(
        FirstStageParameters(network="medium"),
        description="autoencoder whose latents are denoised, trained first or loaded; null: denoise pixels, the better "
        "choice up to 64 px",
    )
    scale_latents: bool = Field(
        True, description="divide latents by their standard deviation over the training images, as later work does"
    )
    noise_schedule: Schedule = Field("cosine", description="how noise grows with the timestep")
    prediction: Literal["noise", "velocity"] = Field(
        "velocity", description="what the network predicts: the noise, or velocity (Salimans and Ho 2022)"
    )
    mask_dropout: float = Field(
        0.1, ge=0, lt=1, description="share of training pairs whose mask is left out, which guidance above 1 needs"
    )
    guidance: float = Field(
        1.5,
        ge=1,
        description="classifier-free guidance: above 1 what the mask changes is exaggerated, and each step costs twice",
    )

    @model_validator(mode="after")
    def _guided(self) -> MaskLDMParameters:
        if self.guidance > 1 and not self.mask_dropout:
            raise ValueError(
                f"guidance {self.guidance:g} compares with a picture without a mask, which mask_dropout 0 never "
                "teaches; set guidance to 1, or mask_dropout above 0"
            )
        return self


class MaskLDM(DiffusionModel, Generator):
    """Latent diffusion model of images for given masks, or with ``first_stage: null`` the same on pixels.

    Implements Rombach et al. 2022 (arXiv 2112.10752) with the mask beside the noisy latents as soft coverage, as its
    semantic synthesis does and paper A took over; on the U-Net and the ``VQModel`` of diffusers.
    ``setting: as-published`` is paper A's: 215,229,315 parameters at 256 px, whose attention list names factors, so
    that there is attention in the middle only; raw weights; 200 DDIM steps with eta 1. Its first stage was pretrained
    on other images; here it is trained on the real images of the fit, unless ``first_stage.file`` names one.
    The default has attention where it was meant, averaged weights, scaled latents, velocity prediction, and
    classifier-free guidance. The mask of a pair is exactly the mask that its image was made for.
    """

    name = "mask-ldm"
    Parameters: ClassVar[type[Parameters]] = MaskLDMParameters
    card = Card(needs="pairs", makes="images", minimum=2, cost="under an hour on a CPU core at 64 px")
    sampling: ClassVar[frozenset[str]] = SAMPLING | {"guidance"}
    parameters: MaskLDMParameters

    @classmethod
    def example(cls) -> dict[str, Any]:
        """Return parameters for a fit of a second."""
        first_stage = {"network": "tiny", "steps": 3, "batch_size": 2, "perceptual_weight": 0.0}
        return {
            "network": "tiny",
            "first_stage": first_stage,
            "steps": 6,
            "batch_size": 4,
            "checkpoints": 2,
            "grids": 0,
            "timesteps": 20,
            "sampling_steps": 4,
            "attention": (4,),
        }

    def environment_key(self) -> dict[str, str]:
        """Return what the first stage depends on."""
        first_stage = self.parameters.first_stage
        return first_stage.environment_key() if first_stage is not None else {}

    @property
    def for_grids(self) -> MaskLDMParameters:
        """Parameters that grids of a fit are sampled with; there is guidance where the fit allows it."""
        chosen: MaskLDMParameters = super().for_grids
        return chosen if chosen.mask_dropout else chosen.model_copy(update={"guidance": 1.0})

    def build(self, config: dict[str, Any]) -> Denoiser:
        """Build the network of a checkpoint's config."""
        from generators.diffusion.denoiser import Denoiser, Shape

        return Denoiser(
            3,
            config["side"] // config["factor"],
            Shape(**NETWORKS[config["network"]]),
            attention=tuple(config["attention"]),
            patch=config["patch"],
            masks=True,
            dropout=config["dropout"],
        )

    def fit(self, pairs: PairSet, context: FitContext) -> Iterator[Checkpoint]:
        """Train the first stage, then the denoiser on its latents, and yield the checkpoints of that.

        Raises:
            HarnessError: the pairs are no squares, or not of a side that the networks can halve; or training diverged.
            OutOfMemory: the device had too little memory; names the batch.
        """
        import numpy as np
        import torch

        from harness.learning.memory import is_out_of_memory

        side = self.square_side(pairs)
        images = torch.from_numpy(np.array(pairs.images)).permute(0, 3, 1, 2).to(context.device)
        masks = torch.from_numpy(np.array(pairs.masks))[:, None].to(context.device)
        try:
            yield from self._fit(side, images, masks, context)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise self.too_little_memory(side, context.device) from error

    def _fit(self, side: int, images: Tensor, masks: Tensor, context: FitContext) -> Iterator[Checkpoint]:
        import numpy as np

        from generators.diffusion.denoiser import coverage_of
        from generators.diffusion.examples import LatentExamples, PixelExamples
        from generators.diffusion.training import DiffusionStart
        from generators.first_stage.autoencoder import FACTOR, save
        from generators.first_stage.fitting import AfterFirstStage, fitted_first_stage, in_progress

        settings = self.parameters
        # Mistakes are told before the first stage is trained, not after it.
        self.check_side(side, len(NETWORKS[settings.network]["widths"]), FACTOR if settings.first_stage else 1)
        settings.checkpoint_steps()
        state = context.restore_state()
        autoencoder: Autoencoder | None = None
        examples: PixelExamples | LatentExamples = PixelExamples(images, masks, settings.flip)
        scale = 1.0
        if settings.first_stage is not None:
            autoencoder = fitted_first_stage(settings.first_stage, images, context, state)
            state = in_progress(state)
            examples = LatentExamples(images, masks, settings.flip, autoencoder.encode, autoencoder.factor)
            if settings.scale_latents:
                scale = examples.scale = 1 / examples.deviation
        config = {
            "side": side,
            "factor": 1 if autoencoder is None else autoencoder.factor,
            "scale": scale,
            **settings.model_dump(mode="json", include={"network", "attention", "patch", "dropout"}),
        }
        shown = coverage_of(masks[:_SHOWN], config["factor"])
        context.log_images(
            "masks", 0, np.repeat(masks[:_SHOWN, 0, :, :, None].cpu().numpy() * np.uint8(255), 3, axis=3)
        )

        def show(step: int, network: Denoiser) -> None:
            seeds = np.arange(len(shown)) + _GRID_SEED
            context.log_images(
                "samples",
                step,
                self._images(network, autoencoder, config, self.for_grids, seeds, shown, context.device),
            )

        def keep(step: int, network: Denoiser) -> Checkpoint:
            folder = context.checkpoint_folder(step)
            if autoencoder is not None:
                save(autoencoder, folder / _FIRST_STAGE)
            return self.write(folder, step, network, config)

        start = DiffusionStart(
            settings, examples, partial(self.build, config), context.seed, mask_dropout=settings.mask_dropout
        )

        def whole(training: SteppedTraining) -> SteppedTraining:
            return training if autoencoder is None else AfterFirstStage(training, autoencoder)

        yield from self.train(start, context, show, keep, state, whole)

    def sample(
        self,
        checkpoint: Checkpoint,
        seeds: NDArray[np.int64],
        context: SampleContext,
        masks: NDArray[np.uint8] | None = None,
    ) -> Sample:
        """Make one image for each seed and mask; a mask may come many times, with other seeds.

        Raises:
            HarnessError: the checkpoint's files are missing or not those of this plugin, or masks have another size.
        """
        import numpy as np
        import torch

        from generators.diffusion.denoiser import coverage_of
        from generators.first_stage.autoencoder import load
        from harness.learning import HarnessError

        network, config = self.load(checkpoint.folder, context.device)
        if masks is None or masks.shape[1:] != (config["side"], config["side"]):
            got = "none" if masks is None else f"{masks.shape[1]} x {masks.shape[2]} px"
            raise HarnessError(
                f"{self.name} was fitted on masks of {config['side']} px and makes images for such; got {got}."
            )
        autoencoder = None
        if config["factor"] > 1:
            autoencoder = load(checkpoint.folder / _FIRST_STAGE).to(context.device)
        coverage = coverage_of(torch.from_numpy(np.array(masks))[:, None], config["factor"])
        images = self._images(network, autoencoder, config, self.parameters, seeds, coverage, context.device)
        return Sample(np.array(masks), images)

    def _images(
        self,
        network: Denoiser,
        autoencoder: Autoencoder | None,
        config: dict[str, Any],
        settings: MaskLDMParameters,
        seeds: NDArray[np.int64],
        coverage: Tensor,
        device: torch.device,
    ) -> NDArray[np.uint8]:
        """Return images uint8 (N, S, S, 3) for the coverage by their masks."""
        import torch

        from generators.diffusion.sampling import denoise, in_chunks

        side = config["side"] // config["factor"]
        made = denoise(
            network,
            settings,
            (3, side, side),
            seeds,
            device,
            coverage=coverage,
            guidance=settings.guidance,
            clip=autoencoder is None,
        )
        if autoencoder is not None:
            made = in_chunks(autoencoder.decode, made / config["scale"], (3, config["side"], config["side"]), device)
        levels = ((made + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        images: NDArray[np.uint8] = levels.permute(0, 2, 3, 1).contiguous().numpy()
        return images

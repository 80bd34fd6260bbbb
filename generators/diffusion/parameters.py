"""The parameters that every diffusion model has; imports nothing heavy, since studies are checked against them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from harness.learning import PublishedParameters

Schedule = Literal["linear", "scaled-linear", "cosine"]
Sampler = Literal["ancestral", "ddim", "dpm-solver++"]

#: What decides how a fitted model is sampled, and not how it is fitted.
SAMPLING = frozenset({"sampler", "sampling_steps", "eta", "spacing"})


class DiffusionParameters(PublishedParameters):
    """What a diffusion model can be told; ``setting`` sets the defaults of the others."""

    steps: int = Field(20_000, ge=1, description="optimiser steps")
    batch_size: int = Field(16, ge=1, description="training pairs a step")
    accumulate: int = Field(
        1, ge=1, description="parts that a device's batch is computed in, one after another, where memory is short"
    )
    devices: int = Field(
        1,
        ge=1,
        description="devices of one machine that share each batch, and change rounding alone; on a CPU, processes",
    )
    checkpoints: int | tuple[int, ...] = Field(
        4, description="how many checkpoints, evenly spaced with the last step last, or the list of their steps"
    )
    grids: int = Field(4, ge=0, description="how many sample grids are logged, evenly spaced, beside the checkpoints'")
    patch: int = Field(
        1,
        ge=1,
        description="side in pixels of the patches that are the network's positions; 2 is four times as fast and finer "
        "detail is harder to learn",
    )
    attention: tuple[int, ...] = Field(
        (16,), description="sides of the grid of positions at which there is self-attention, besides the middle block"
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="in the residual blocks")
    timesteps: int = Field(1000, ge=2, description="noise levels of training")
    noise_schedule: Schedule = Field("linear", description="how noise grows with the timestep")
    beta_start: float = Field(1e-4, gt=0, lt=1, description="first variance of the linear schedules")
    beta_end: float = Field(0.02, gt=0, lt=1, description="last variance of the linear schedules")
    noise_shift: float = Field(
        1.0,
        gt=0,
        description="divide the signal-to-noise ratio of each timestep by the square of this, as if pictures were so "
        "many times larger; what a picture shows as a whole is then learned at more timesteps",
    )
    prediction: Literal["noise", "velocity"] = Field(
        "noise", description="what the network predicts: the noise, or velocity (Salimans and Ho 2022)"
    )
    loss: Literal["l1", "l2"] = Field("l2", description="of the prediction")
    weighting: Literal["uniform", "min-snr"] = Field(
        "uniform",
        description="weight of a timestep in the loss; min-snr cuts the signal-to-noise ratio at 5 (Hang)",
    )
    timestep_sampling: Literal["uniform", "importance"] = Field(
        "uniform", description="how timesteps are drawn; importance draws those of a large loss more often"
    )
    learning_rate: float = Field(2e-4, gt=0, description="AdamW's learning rate")
    warmup_steps: int = Field(0, ge=0, description="steps over which the learning rate rises from nothing")
    decay_steps: int = Field(0, ge=0, description="last steps over which the learning rate falls to nothing")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's weight decay")
    betas: tuple[float, float] = Field((0.9, 0.999), description="AdamW's decay rates")
    gradient_clip: float | None = Field(1.0, gt=0, description="largest norm of a gradient; none: any")
    ema: float = Field(
        0.999, ge=0, lt=1, description="decay of the averaged weights that are sampled from; 0 samples the raw weights"
    )
    ema_warmup: bool = Field(True, description="let the average forget the first steps faster")
    flip: Literal["none", "horizontal", "both"] = Field("both", description="random flips of the training pairs")
    sampler: Sampler = Field("ddim", description="how noise becomes a picture")
    sampling_steps: int = Field(50, ge=1, description="network evaluations a picture; at most timesteps")
    eta: float = Field(1.0, ge=0, le=1, description="share of fresh noise in ddim's steps; 1 is as noisy as ancestral")
    spacing: Literal["trailing", "leading"] = Field(
        "trailing",
        description="which timesteps fewer sampling_steps take: the last of each equal part, so that the first is the "
        "noisiest, or 1, 1 + T / n, ... as latent diffusion's code",
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of the networks; auto takes bfloat16 where the device computes with it"
    )
    compile: bool = Field(False, description="compile the network for the device first (needs a C++ compiler)")

    @model_validator(mode="after")
    def _fits(self) -> DiffusionParameters:
        if self.sampling_steps > self.timesteps:
            raise ValueError(f"sampling_steps {self.sampling_steps} is more than the {self.timesteps} timesteps")
        if self.accumulate > self.batch_size:
            raise ValueError(f"accumulate {self.accumulate} is more than batch_size {self.batch_size}")
        if self.devices * self.accumulate > self.batch_size:
            raise ValueError(
                f"devices {self.devices} times accumulate {self.accumulate} is more than batch_size {self.batch_size}"
            )
        return self

    def checkpoint_steps(self) -> list[int]:
        """Return the increasing steps at which checkpoints are written; the last step is always one.

        Raises:
            HarnessError: a step that was asked for lies beyond the end.
        """
        from generators.stepped_fit import chosen_steps

        return chosen_steps(self.checkpoints, self.steps)

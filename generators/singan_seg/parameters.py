"""What a SinGAN-Seg can be told; imports nothing heavy, since studies are checked against it."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from harness.learning import PublishedParameters


class SinGANSegParameters(PublishedParameters):
    """What a SinGAN-Seg can be told; ``setting`` sets the defaults of the others."""

    as_published: ClassVar[dict[str, Any]] = {
        "max_size": 250,
        "one_update": True,
        "truncate": True,
        "fixed_reconstruction_noise": False,
        "precision": "float32",
    }

    epochs: int = Field(2000, ge=1, description="of each scale; an epoch is critic_steps and generator_steps")
    together: int | None = Field(
        None, ge=1, description="models that are trained at once; 4 on a CPU, whose cache holds no more, else 16"
    )
    max_size: int | None = Field(
        None, ge=26, description="longest side that is learned, in pixels; the study's size when left out or smaller"
    )
    min_size: int = Field(25, ge=12, description="shorter side of the coarsest scale, in pixels")
    scale_factor: float = Field(0.75, gt=0.3, lt=1, description="side of a scale over that of the next, about")
    features: int = Field(32, ge=1, description="channels of the networks at the coarsest scales")
    features_double_every: int = Field(4, ge=1, description="scales after which the channels double")
    largest_features: int = Field(128, ge=1, description="the most channels that doubling leads to")
    critic_steps: int = Field(3, ge=1, description="updates of the critic in an epoch")
    generator_steps: int = Field(3, ge=1, description="updates of the generator in an epoch")
    one_update: bool = Field(
        False,
        description="one update of the generator in an epoch, on the critic's last fake, as paper B's code",
    )
    learning_rate: float = Field(5e-4, gt=0, description="Adam's learning rate for both networks")
    betas: tuple[float, float] = Field((0.5, 0.999), description="Adam's decay rates")
    decay_after: float = Field(0.8, gt=0, le=1, description="share of the epochs after which the rate falls")
    decay: float = Field(0.1, gt=0, le=1, description="what the rate is multiplied by then")
    gradient_penalty: float = Field(0.1, ge=0, description="weight of the critic's gradient penalty (WGAN-GP)")
    reconstruction: float = Field(10.0, ge=0, description="weight of the squared error of the reconstruction")
    noise_amplitude: float = Field(
        0.1, gt=0, description="noise of a scale over the error with which the scale before reconstructs"
    )
    truncate: bool = Field(False, description="round pictures down to bytes between scales, as paper B's code does")
    fixed_reconstruction_noise: bool = Field(
        True, description="one noise that the coarsest scale reconstructs from; otherwise a new one each epoch"
    )
    start_scale: int = Field(
        0, ge=0, description="first scale with fresh noise in sampling; those below reconstruct the real pair"
    )
    mask_threshold: float = Field(0.5, gt=0, lt=1, description="a mask pixel is polyp above this")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="of the networks in training; auto takes bfloat16 on a CPU that computes with it, and on a GPU "
        "float32, which is faster there",
    )

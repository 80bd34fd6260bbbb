"""What a FastGAN can be told; imports nothing heavy, since studies are checked against it."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from generators.four_channel_gan.parameters import FourChannelParameters


class FastGANParameters(FourChannelParameters):
    """What a FastGAN can be told; ``setting`` sets the defaults of the others."""

    as_published: ClassVar[dict[str, Any]] = {
        "steps": 50_000,
        "batch_size": 8,
        "latent": 256,
        "generator_features": 64,
        "discriminator_features": 64,
        "learning_rate": 2e-4,
        "discriminator_learning_rate": 2e-4,
        "betas": (0.5, 0.999),
        "flip": "horizontal",
        "augment": ("colour", "translation"),
        "augment_mask_colour": True,
        "ema": 0.0,
        "antialias": False,
        "enlarge": "nearest",
        "tanh": False,
        "batch_norm": "picture",
        "reconstruction_interval": 1,
        "perceptual_blocks": 5,
        "reconstruct_mask": False,
        "smallest": 0.0,
        "precision": "float32",
    }

    latent: int = Field(256, ge=1, description="length of the latent that a pair is made from")
    generator_features: int = Field(
        24, ge=4, description="channels of the generator at 128 px; twice as many at 64 and 32 px, 16 times at 4 px"
    )
    discriminator_features: int = Field(
        24, ge=4, description="channels of the discriminator at 64 px; twice as many at each halving, at most 8 times"
    )
    betas: tuple[float, float] = Field((0.5, 0.99), description="Adam's decay rates")
    tanh: bool = Field(True, description="end in tanh; otherwise pictures are unbounded and cut when saved")
    batch_norm: Literal["running", "picture"] = Field(
        "running", description="statistics of batch norm when sampling: averages, or, as published, each picture's own"
    )
    reconstruction: Literal["perceptual", "l1"] = Field(
        "perceptual",
        description="distance of the discriminator's reconstructions: of a perceptual network's features, or of pixels",
    )
    perceptual_blocks: int = Field(
        3, ge=1, le=5, description="blocks of the perceptual network, of five; the deep ones cost most"
    )
    reconstruction_interval: int = Field(
        4, ge=1, description="reconstruct at every so many steps, with a weight that makes up for the others"
    )
    reconstruct_mask: bool = Field(True, description="let the discriminator reconstruct the mask too")

"""What a DCGAN can be told; imports nothing heavy, since studies are checked against it."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from generators.four_channel_gan.parameters import Augmentation, FourChannelParameters


class DCGANParameters(FourChannelParameters):
    """What a DCGAN can be told; ``setting`` sets the defaults of the others."""

    #: 500 epochs of 1000 pairs at 64 px, whatever the size that the pictures are compared at.
    as_published: ClassVar[dict[str, Any]] = {
        "steps": 62_500,
        "batch_size": 8,
        "generator_features": 64,
        "discriminator_features": 64,
        "learning_rate": 2e-4,
        "discriminator_learning_rate": 2e-4,
        "betas": (0.5, 0.999),
        "doubling": "transposed",
        "discriminator_normalisation": "batch",
        "loss": "bce",
        "real_label": 1.0,
        "flip": "horizontal",
        "augment": (),
        "ema": 0.0,
        "resolution": 64,
        "antialias": False,
        "smallest": 0.0,
        "precision": "float32",
    }

    augment: tuple[Augmentation, ...] = Field(
        ("translation",),
        description="differentiable augmentation of what the discriminator sees, real and made",
    )
    generator_features: int = Field(
        32, ge=1, description="channels of the generator's widest picture; deeper layers have up to 8 times as many"
    )
    discriminator_features: int = Field(
        32, ge=1, description="channels of the discriminator's first layer; deeper ones have up to 8 times as many"
    )
    doubling: Literal["nearest", "transposed"] = Field(
        "nearest",
        description="how the generator doubles the side: nearest pixel and convolution, or transposed convolution, "
        "whose grid shows",
    )
    loss: Literal["bce", "hinge"] = Field(
        "bce", description="adversarial loss: binary cross-entropy (non-saturating) or hinge"
    )
    real_label: float = Field(
        0.9, gt=0.5, le=1, description="target of real pairs under bce: below 1 is one-sided label smoothing"
    )
    discriminator_normalisation: Literal["batch", "spectral"] = Field(
        "batch", description="what keeps the discriminator in bounds"
    )

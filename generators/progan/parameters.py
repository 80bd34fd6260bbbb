"""What a ProGAN can be told; imports nothing heavy, since studies are checked against it."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from generators.four_channel_gan.parameters import FourChannelParameters

#: Side of the pictures that growing starts with, in pixels.
_SMALLEST = 8


class ProGANParameters(FourChannelParameters):
    """What a ProGAN can be told; ``setting`` sets the defaults of the others."""

    as_published: ClassVar[dict[str, Any]] = {
        "steps": 300_000,
        "batch_size": 4,
        "latent": 128,
        "generator_features": 128,
        "discriminator_features": 128,
        "learning_rate": 1e-3,
        "discriminator_learning_rate": 1e-3,
        "betas": (0.0, 0.99),
        "flip": "horizontal",
        "augment": (),
        "ema": 0.999,
        "loss": "wgan-gp",
        "gradient_penalty": 10.0,
        "drift": 0.001,
        "generator_pixel_norm": False,
        "discriminator_pixel_norm": True,
        "tanh": False,
        "doubling": "bilinear",
        "penalty_interval": 1,
        "widest": None,
        "full_size_share": None,
        "fade": 0.5,
        "fade_first": True,
        "fade_real": False,
        "premultiplied": True,
        "crop": 1.2,
        "smallest": 0.0,
        "precision": "float32",
    }

    latent: int = Field(128, ge=1, description="length of the latent that a pair is made from")
    generator_features: int = Field(
        64, ge=4, description="channels of the generator at 32 px; half at each doubling beyond, at least a quarter"
    )
    discriminator_features: int = Field(
        64, ge=4, description="channels of the discriminator at 32 px; half at each doubling, at least a quarter"
    )
    widest: int | None = Field(
        None,
        ge=4,
        description="channels of both below 32 px double at each halving of the side, up to this many; none: all have "
        "as many as at 32 px",
    )
    learning_rate: float = Field(1.5e-3, gt=0, description="Adam's learning rate for the generator")
    discriminator_learning_rate: float = Field(1.5e-3, gt=0, description="Adam's learning rate for the discriminator")
    betas: tuple[float, float] = Field((0.0, 0.99), description="Adam's decay rates")
    loss: Literal["wgan-gp", "non-saturating"] = Field(
        "wgan-gp",
        description="the paper's loss, or the logistic one with a penalty on gradients at real pairs (R1)",
    )
    gradient_penalty: float = Field(10.0, ge=0, description="weight of the gradient penalty of wgan-gp")
    drift: float = Field(0.001, ge=0, description="weight of the squared scores of real pairs in wgan-gp")
    r1: float = Field(0.2, ge=0, description="weight of the R1 penalty of the non-saturating loss")
    penalty_interval: int = Field(
        2, ge=1, description="take the penalty at every so many steps, with a weight that makes up for it"
    )
    generator_pixel_norm: bool = Field(True, description="normalise pixels after each convolution of the generator")
    discriminator_pixel_norm: bool = Field(False, description="normalise pixels in the discriminator too")
    tanh: bool = Field(True, description="end in tanh; otherwise pictures are unbounded and cut when saved")
    doubling: Literal["nearest", "bilinear"] = Field("bilinear", description="how the generator doubles the side")
    full_size_share: float | None = Field(
        0.5,
        gt=0,
        lt=1,
        description="share of the steps at full size; the sizes before divide the rest; none: all alike",
    )
    fade: float = Field(0.3, ge=0, le=1, description="share of a size's steps during which it is faded in")
    fade_first: bool = Field(
        False, description="fade in the smallest size as well, in the discriminator only, as the published code does"
    )
    fade_real: bool = Field(True, description="fade the detail of real pairs in as that of made ones")

    def growth(self, step: int, pairs: int, size: int) -> tuple[int, float]:
        """Return how far the networks have grown.

        Args:
            step: from 0.
            pairs: training pairs, of which epochs are counted.
            size: the side in pixels at the end.

        Returns:
            The side of the pictures at this step, and in [0, 1] how much of its block is faded in.
        """
        levels = size.bit_length() - _SMALLEST.bit_length() + 1
        total = self.total_steps(pairs)
        last = total * (self.full_size_share or 1 / levels) if levels > 1 else total
        each = (total - last) / max(levels - 1, 1)
        level = min(int(step / each), levels - 1) if each else levels - 1
        start, length = level * each, last if level == levels - 1 else each
        fading = self.fade * length
        faded = min(1.0, (step - start) / fading) if fading else 1.0
        return _SMALLEST << level, faded if level or self.fade_first else 1.0

"""DCGAN for four-channel pictures: a polyp image and its mask from one latent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from generators.four_channel_gan.gan import FourChannelGAN
from generators.four_channel_gan.parameters import Augmentation, FourChannelParameters
from harness.learning import Card, FitContext, Generator, Parameters

if TYPE_CHECKING:
    from generators.dcgan_networks import DCGANTraining
    from generators.four_channel_gan.pictures import RealPictures
    from generators.four_channel_gan.training import GeneratorNetwork, Training


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


class DCGAN(FourChannelGAN, Generator):
    """Deep convolutional GAN for pairs: RGB and mask as four channels of one picture, 32 to 256 px.

    Implements Radford, Metz and Chintala 2016 (arXiv 1511.06434) in the form of the PyTorch example with a fourth
    channel, as paper B (SinGAN-Seg) compares with: ``setting: as-published`` is its 64 px network with its training.
    The default trains the same networks, narrower, with what makes a GAN learn from few pictures: differentiable
    augmentation (Zhao et al. 2020), one-sided label smoothing and an average of the weights.
    The size of the pictures is that of the training pairs.
    """

    name = "dcgan"
    version = "2"
    Parameters: ClassVar[type[Parameters]] = DCGANParameters
    card = Card(sizes=(32, 64, 128, 256), minimum=2, cost="minutes on a CPU at 64 px")
    parameters: DCGANParameters

    def training(self, real: RealPictures, context: FitContext) -> DCGANTraining:
        """Return the training at its start."""
        from generators.dcgan_networks import DCGANTraining

        return DCGANTraining(self.parameters, real, context.seed, context.device)

    def describe(self, training: Training[Any]) -> dict[str, Any]:
        """Return what a checkpoint's network is built from."""
        return {
            "latent": self.parameters.latent,
            "features": self.parameters.generator_features,
            "doubling": self.parameters.doubling,
        }

    def network(self, config: dict[str, Any]) -> GeneratorNetwork:
        """Build the network of a checkpoint."""
        from generators.dcgan_networks import DCGANGenerator

        return DCGANGenerator(config["resolution"], config["latent"], config["features"], config["doubling"])

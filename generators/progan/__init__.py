"""Progressive GAN for four-channel pictures: a polyp image and its mask from one latent, coarse to fine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from generators.four_channel_gan.gan import FourChannelGAN
from generators.progan.parameters import ProGANParameters
from harness.learning import Card, FitContext, Generator, Parameters

if TYPE_CHECKING:
    from generators.four_channel_gan.pictures import RealPictures
    from generators.four_channel_gan.training import GeneratorNetwork, Training
    from generators.progan.networks import ProGANTraining


class ProGAN(FourChannelGAN, Generator):
    """Progressive growing GAN for pairs: RGB and mask as four channels of one picture, 32 to 256 px.

    Implements Karras, Aila, Laine and Lehtinen 2018 (arXiv 1710.10196) in the small form that paper B (SinGAN-Seg)
    compares with, trained with WGAN-GP: ``setting: as-published`` is its network with its training, whose real images
    are black outside the mask, are random crops, and whose output is unbounded.
    The default has what the original paper has and that code has not (pixel norm in the generator, real pairs faded
    like made ones), tanh, and differentiable augmentation (Zhao et al. 2020).
    """

    name = "progan"
    Parameters: ClassVar[type[Parameters]] = ProGANParameters
    card = Card(sizes=(32, 64, 128, 256), minimum=2, cost="minutes on a CPU at 64 px")
    parameters: ProGANParameters

    def training(self, real: RealPictures, context: FitContext) -> ProGANTraining:
        """Return the training at its start."""
        from generators.progan.networks import ProGANTraining

        return ProGANTraining(self.parameters, real, context.seed, context.device)

    def describe(self, training: Training[Any]) -> dict[str, Any]:
        """Return what a checkpoint's network is built from, and how far it had grown."""
        settings = self.parameters
        return {
            "latent": settings.latent,
            "features": settings.generator_features,
            "pixel_norm": settings.generator_pixel_norm,
            "tanh": settings.tanh,
            "doubling": settings.doubling,
            "widest": settings.widest,
            "side": training.averaged.side,
            "alpha": training.averaged.alpha,
        }

    def network(self, config: dict[str, Any]) -> GeneratorNetwork:
        """Build the network of a checkpoint."""
        from generators.progan.networks import ProGANGenerator

        network = ProGANGenerator(
            config["resolution"],
            config["latent"],
            config["features"],
            pixel_norm=config["pixel_norm"],
            tanh=config["tanh"],
            doubling=config["doubling"],
            widest=config["widest"],
        )
        network.grow(config["side"], config["alpha"])
        return network

"""DCGAN for four-channel pictures: a polyp image and its mask from one latent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from generators.dcgan.parameters import DCGANParameters
from generators.four_channel_gan.gan import FourChannelGAN
from harness.learning import Card, FitContext, Generator, Parameters

if TYPE_CHECKING:
    from generators.dcgan.networks import DCGANTraining
    from generators.four_channel_gan.pictures import RealPictures
    from generators.four_channel_gan.training import GeneratorNetwork, Training


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
        from generators.dcgan.networks import DCGANTraining

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
        from generators.dcgan.networks import DCGANGenerator

        return DCGANGenerator(config["resolution"], config["latent"], config["features"], config["doubling"])

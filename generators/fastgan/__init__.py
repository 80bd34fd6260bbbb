"""FastGAN for four-channel pictures: a polyp image and its mask from one latent, learned from few pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from generators.fastgan.parameters import FastGANParameters
from generators.four_channel_gan.gan import FourChannelGAN
from harness.learning import Card, FitContext, Generator, Parameters

if TYPE_CHECKING:
    import torch

    from generators.fastgan.networks import Distance, FastGANTraining
    from generators.four_channel_gan.pictures import RealPictures
    from generators.four_channel_gan.training import GeneratorNetwork, Training


class FastGAN(FourChannelGAN, Generator):
    """FastGAN for pairs: RGB and mask as four channels of one picture, 32 to 512 px, from few pairs.

    Implements Liu, Zhu, Song and Elgammal 2021 (arXiv 2101.04775) with a fourth channel, as paper B (SinGAN-Seg)
    compares with: ``setting: as-published`` is its network with its training and its sampling, which takes the raw
    weights and the batch norm of a batch of one.
    The default is narrower and samples averaged weights in evaluation mode; colour augmentation leaves the mask alone.
    """

    name = "fastgan"
    Parameters: ClassVar[type[Parameters]] = FastGANParameters
    card = Card(sizes=(32, 64, 128, 256, 512), minimum=2, cost="minutes on a CPU at 64 px")
    parameters: FastGANParameters

    def training(self, real: RealPictures, context: FitContext) -> FastGANTraining:
        """Return the training at its start."""
        from generators.fastgan.networks import FastGANTraining

        distance = self._distance(context)
        return FastGANTraining(self.parameters, real, context.seed, context.device, distance)

    def environment_key(self) -> dict[str, str]:
        """Return which perceptual network this machine has, since results depend on it."""
        if self.parameters.reconstruction != "perceptual":
            return {}
        from harness.learning.pretrained import perceptual_weights

        found = perceptual_weights()
        return {"perceptual-network": found.sha256 if found else "none"}

    def _distance(self, context: FitContext) -> Distance:
        """Return what compares reconstructions with real pictures, and note which it is."""

        def pixels(made: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
            return (made.float() - real.float()).abs().mean(dim=(1, 2, 3))

        settings = self.parameters
        if settings.reconstruction == "l1":
            return pixels
        from harness.learning.perceptual import NO_NETWORK, perceptual_network

        network = perceptual_network(context.device, blocks=settings.perceptual_blocks)
        if network is None:
            context.note(f"FastGAN's discriminator compared its reconstructions pixel by pixel: {NO_NETWORK}.")
            return pixels
        context.note(f"FastGAN's discriminator compared its reconstructions by {network.name}. {network.note}".strip())
        return network

    def describe(self, training: Training[Any]) -> dict[str, Any]:
        """Return what a checkpoint's network is built from."""
        settings = self.parameters
        return {
            "latent": settings.latent,
            "features": settings.generator_features,
            "tanh": settings.tanh,
            "batch_norm": settings.batch_norm,
        }

    def network(self, config: dict[str, Any]) -> GeneratorNetwork:
        """Build the network of a checkpoint."""
        from generators.fastgan.networks import FastGANGenerator, OwnStatistics

        network = FastGANGenerator(config["resolution"], config["latent"], config["features"], tanh=config["tanh"])
        if config["batch_norm"] == "picture":
            OwnStatistics.instead_of(network)
        return network

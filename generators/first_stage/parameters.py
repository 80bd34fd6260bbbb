"""What the first stage can be told; imports nothing heavy, since studies are checked against it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from harness.learning import PublishedParameters

Network = Literal["vq-f4", "medium", "small", "tiny"]


class FirstStageParameters(PublishedParameters):
    """How the autoencoder is trained, or where it is loaded from; ``setting`` sets the defaults of the others.

    ``as-published`` is the recipe that CompVis' VQ-f4 was trained with (Rombach et al. 2022, arXiv 2112.10752; Esser et
    al. 2021, arXiv 2012.09841), where how many steps it took is not told; it saw millions of pictures.
    """

    as_published: ClassVar[dict[str, Any]] = {
        "network": "vq-f4",
        "steps": 50_000,
        "batch_size": 8,
        "learning_rate": 3.6e-5,
        "betas": (0.5, 0.9),
        "decay": 0.0,
        "perceptual_weight": 1.0,
        "perceptual_blocks": 5,
        "judging_interval": 1,
        "adversarial_start": 0,
        "discriminator_features": 64,
        "codebook_start": "uniform",
        "revive_interval": None,
        "flip": "none",
        "precision": "float32",
    }

    network: Network = Field(
        "small",
        description="size of the autoencoder: vq-f4 is the published one (55,322,782 parameters), tiny the smallest",
    )
    file: str | None = Field(
        None,
        description="weights of that network to load instead of training: a safetensors file of this harness or of "
        "diffusers, or CompVis' checkpoint (vq-f4, or a latent diffusion model that carries it)",
    )
    steps: int = Field(1000, ge=1, description="optimiser steps of each network")
    batch_size: int = Field(8, ge=1, description="images a step")
    learning_rate: float = Field(5e-4, gt=0, description="Adam's learning rate for both networks")
    betas: tuple[float, float] = Field((0.5, 0.9), description="Adam's decay rates")
    decay: float = Field(
        0.5, ge=0, le=1, description="share of the steps, at the end, over which the learning rate falls to 0"
    )
    perceptual_weight: float = Field(
        0.1,
        ge=0,
        description="weight of the perceptual term; 0 does without. LPIPS is published with 1; unweighted distances "
        "are several times larger than LPIPS",
    )
    perceptual_blocks: int = Field(
        3, ge=1, le=5, description="blocks of the perceptual network, of five; the deep ones cost most"
    )
    adversarial_weight: float = Field(
        0.75,
        ge=0,
        description="weight of the adversarial term, times the ratio of both terms' gradients; 0 does without",
    )
    adversarial_start: int = Field(
        2000,
        ge=0,
        description="step at which the discriminator comes in; a training that ends before does without, since in few "
        "steps it does harm",
    )
    discriminator_features: int = Field(32, ge=1, description="channels of the discriminator's first layer")
    judging_interval: int = Field(
        4,
        ge=1,
        description="compute the perceptual and the adversarial term at every so many steps, with a weight that makes "
        "up for the others",
    )
    codebook_weight: float = Field(1.0, ge=0, description="weight of what pulls latents and codes together")
    codebook_start: Literal["latents", "uniform"] = Field(
        "latents", description="first codes: latents of training images, or, as published, numbers close to 0"
    )
    revive_interval: int | None = Field(
        25, ge=1, description="move codes that were not used in so many steps onto latents; null leaves them dead"
    )
    flip: Literal["none", "horizontal", "both"] = Field("both", description="random flips of the real images")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of the networks in training; auto takes bfloat16 where the device computes with it"
    )

    def environment_key(self) -> dict[str, str]:
        """Return what this machine has that the first stage depends on: the file, or the perceptual network.

        Raises:
            WeightsError: the file cannot be read.
        """
        from harness.learning.pretrained import perceptual_weights, sha256

        if self.file is not None:
            return {"first-stage": sha256(Path(self.file).expanduser())}
        if not self.perceptual_weight:
            return {}
        found = perceptual_weights()
        return {"perceptual-network": found.sha256 if found else "none"}

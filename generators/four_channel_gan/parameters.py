"""The parameters that every four-channel GAN has; imports nothing heavy, since studies are checked against them."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from generators.stepped_fit import chosen_steps
from harness.learning import PublishedParameters

Augmentation = Literal["colour", "translation", "cutout"]


class FourChannelParameters(PublishedParameters):
    """What a four-channel GAN can be told; ``setting`` sets the defaults of the others."""

    steps: int = Field(5000, ge=1, description="optimiser steps of each network")
    epochs: int | None = Field(None, ge=1, description="passes over the training pairs, instead of steps")
    batch_size: int = Field(16, ge=2, description="pairs a step")
    checkpoints: int | tuple[int, ...] = Field(
        4, description="how many checkpoints, evenly spaced with the last step last, or the list of their steps"
    )
    grids: int = Field(10, ge=0, description="how many sample grids are logged, evenly spaced, beside the checkpoints'")
    latent: int = Field(100, ge=1, description="length of the latent that a pair is made from")
    generator_features: int = Field(
        32, ge=1, description="channels of the generator; see the networks for which layers"
    )
    discriminator_features: int = Field(
        32, ge=1, description="channels of the discriminator; see the networks for which layers"
    )
    learning_rate: float = Field(4e-4, gt=0, description="Adam's learning rate for the generator")
    discriminator_learning_rate: float = Field(4e-4, gt=0, description="Adam's learning rate for the discriminator")
    betas: tuple[float, float] = Field((0.5, 0.99), description="Adam's decay rates")
    flip: Literal["none", "horizontal", "both"] = Field("both", description="random flips of the real pairs")
    augment: tuple[Augmentation, ...] = Field(
        ("colour", "translation", "cutout"),
        description="differentiable augmentation of what the discriminator sees, real and made",
    )
    augment_mask_colour: bool = Field(
        False, description="let colour augmentation change the mask channel too, as paper B's FastGAN does"
    )
    ema: float = Field(
        0.998, ge=0, lt=1, description="decay of the averaged weights that are sampled from; 0 samples the raw weights"
    )
    resolution: int | None = Field(
        None, description="side in pixels of what is learned, when smaller than the study's; pictures are then enlarged"
    )
    antialias: bool = Field(True, description="average pixels when real pairs are reduced to the resolution")
    enlarge: Literal["bicubic", "nearest"] = Field(
        "bicubic", description="how pictures are enlarged from the resolution to the study's size"
    )
    premultiplied: bool = Field(
        False, description="black out images outside their mask, as packing image and mask into one RGBA picture does"
    )
    crop: float = Field(
        1.0, ge=1, description="enlarge real pairs this much and cut a random window of the old size out; 1 takes all"
    )
    mask_threshold: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="a mask pixel is polyp above this; paper B saves grey masks and leaves it to the reader",
    )
    smallest: float = Field(
        0.002,
        ge=0,
        lt=1,
        description="pieces of a mask, and holes in it, of less than this share of the frame are removed; 0: none",
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of the networks in training; auto takes bfloat16 where the device computes with it"
    )

    def total_steps(self, pairs: int) -> int:
        """Return the optimiser steps for a training set of so many pairs."""
        return self.steps if self.epochs is None else math.ceil(self.epochs * pairs / self.batch_size)

    def checkpoint_steps(self, pairs: int) -> list[int]:
        """Return the increasing steps at which checkpoints are written; the last step is always one.

        Raises:
            HarnessError: a step that was asked for lies beyond the end.
        """
        return chosen_steps(self.checkpoints, self.total_steps(pairs))

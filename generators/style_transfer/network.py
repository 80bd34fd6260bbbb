"""The optimisation of style transfer: many images at once, each of which comes out as it would alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from harness.learning.perceptual import CONVOLUTIONS, VGG, load_vgg
from harness.learning.pretrained import IMAGENET_MEAN, IMAGENET_STD, Found


@dataclass(frozen=True)
class Objective:
    """What an image is optimised for.

    Attributes:
        content: weight of the content loss.
        style: weight of the style loss.
        content_layer: layer of the VGG network whose features the image keeps.
        style_layers: layers whose Gram matrices it takes over, each with its weight.
        relative: divide every layer's features by their root mean square in the style image.
    """

    content: float
    style: float
    content_layer: str
    style_layers: tuple[tuple[str, float], ...]
    relative: bool = False

    @property
    def layers(self) -> tuple[str, ...]:
        """All layers that are looked at."""
        return tuple(dict.fromkeys([*(layer for layer, _ in self.style_layers), self.content_layer]))


@dataclass(frozen=True)
class Style:
    """What an image is to take over from one style image, or from N with a leading dimension.

    Attributes:
        grams: the Gram matrix (C, C) of each style layer, float32.
        powers: float32 (1 + style layers,), the mean square of the content layer's features and of each style layer's;
            ones where they are taken as they are.
    """

    grams: tuple[Tensor, ...]
    powers: Tensor

    def __getitem__(self, item: int) -> Style:
        return Style(tuple(gram[item] for gram in self.grams), self.powers[item])

    @staticmethod
    def stack(styles: list[Style]) -> Style:
        """Join the styles of N images."""
        grams = tuple(torch.stack(each) for each in zip(*(style.grams for style in styles), strict=True))
        return Style(grams, torch.stack([style.powers for style in styles]))


class GramLoss(torch.autograd.Function):
    """Sum over a matrix of squared differences between features' Gram matrix and a wanted one; (N,) for N images.

    The gradient of the sum of (F'F - G)^2 is 4 F (F'F - G). Written out, it takes one product instead of the two that
    automatic differentiation takes, which does not know that F'F is symmetric.
    """

    @staticmethod
    def forward(context: Any, features: Tensor, wanted: Tensor) -> Tensor:
        """Return the losses of features (N, C, H, W) against Gram matrices (N, C, C)."""
        positions = by_position(features)
        difference = torch.baddbmm(wanted, positions.transpose(1, 2), positions, beta=-1)
        context.save_for_backward(features, difference)
        return difference.square().sum(dim=(1, 2))

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Return the gradient of the features."""
        features, difference = context.saved_tensors
        pull = torch.bmm(by_position(features), difference * (4 * gradient)[:, None, None]).to(features.dtype)
        return pull.unflatten(1, features.shape[2:]).permute(0, 3, 1, 2), None


def by_position(features: Tensor) -> Tensor:
    """Return features (N, C, H, W) as (N, H * W, C), in float32 at least; no copy when they are channels last."""
    positions = features.permute(0, 2, 3, 1).flatten(1, 2)
    return positions.to(torch.promote_types(features.dtype, torch.float32))


def gram_matrices(features: Tensor) -> Tensor:
    """Return the Gram matrices (N, C, C) of features (N, C, H, W): sums over positions, not divided by anything."""
    positions = by_position(features)
    return torch.bmm(positions.transpose(1, 2), positions)


class StyleOptimisation:
    """Adam on images, through a frozen VGG network.

    Images are float32 (N, 3, H, W) and normalised as for ImageNet, whatever network looks at them, so that a learning
    rate means the same. Losses are sums over images, and Adam looks at each pixel alone: no image feels another.
    """

    def __init__(self, network: VGG, objective: Objective, device: torch.device, bfloat16: bool) -> None:
        """Prepare it.

        Args:
            network: with the blocks that the objective needs.
            objective: what images are optimised for.
            device: to compute on.
            bfloat16: whether the network computes in bfloat16; Gram matrices, losses and images stay float32.
        """
        self.network = network.to(device)
        self.objective = objective
        self.device = device
        self.bfloat16 = bfloat16
        self._mean, self._std = (torch.tensor(c, device=device)[:, None, None] for c in (IMAGENET_MEAN, IMAGENET_STD))

    def normalised(self, images: NDArray[np.uint8]) -> Tensor:
        """Return images uint8 (N, H, W, 3) as they are optimised."""
        pixels = torch.from_numpy(np.ascontiguousarray(images)).to(self.device).permute(0, 3, 1, 2).float() / 255
        return ((pixels - self._mean) / self._std).contiguous(memory_format=torch.channels_last)

    def to_bytes(self, images: Tensor) -> NDArray[np.uint8]:
        """Return optimised images as uint8 (N, H, W, 3), colours outside [0, 1] cut."""
        pixels = (images * self._std + self._mean).clamp(0, 1) * 255
        return pixels.round().permute(0, 2, 3, 1).to(torch.uint8).cpu().numpy()

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """Return the activations of the objective's layers."""
        pixels = images * self._std + self._mean
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            made: dict[str, Tensor] = self.network(pixels * 2 - 1, self.objective.layers)
        return made

    @torch.no_grad()
    def style(self, images: Tensor) -> Style:
        """Return what images (N, 3, H, W) have that others can take over."""
        features = self.features(images)
        layers = [layer for layer, _ in self.objective.style_layers]
        if self.objective.relative:
            looked_at = [features[layer].float() for layer in (self.objective.content_layer, *layers)]
            powers = torch.stack([each.square().mean(dim=(1, 2, 3)).clamp(min=1e-12) for each in looked_at], dim=1)
        else:
            powers = torch.ones(len(images), 1 + len(layers), device=self.device)
        return Style(tuple(gram_matrices(features[layer]) for layer in layers), powers)

    def losses(self, features: dict[str, Tensor], content: Tensor, style: Style) -> tuple[Tensor, Tensor]:
        """Return the content loss and the style loss of N images, each float32 (N,) and without its own weight.

        Args:
            features: of the images.
            content: features (N, C, H, W) of the content layer that they are to keep.
            style: what they are to take over.
        """
        kept = (features[self.objective.content_layer].float() - content).square().mean(dim=(1, 2, 3))
        taken = torch.zeros_like(kept)
        for number, (layer, weight) in enumerate(self.objective.style_layers):
            made = features[layer]
            # The mean over the matrix, divided by the number of features once more, as published.
            share = weight / (made.shape[1] ** 2 * made[0].numel())
            loss: Tensor = GramLoss.apply(made, style.grams[number])
            taken = taken + share * loss / style.powers[:, 1 + number].square()
        return kept / style.powers[:, 0], taken

    def run(self, images: Tensor, style: Style, steps: int, learning_rate: float) -> Tensor:
        """Return images (N, 3, H, W) that have kept their content and taken over the style, after so many steps."""
        made = images.clone().requires_grad_(True)
        # One fused call a step; nothing in the loop waits for the device.
        optimiser = torch.optim.Adam([made], learning_rate, fused=True)
        content = None
        for _ in range(steps):
            features = self.features(made)
            if content is None:
                content = features[self.objective.content_layer].detach().float()
            kept, taken = self.losses(features, content, style)
            optimiser.zero_grad(set_to_none=True)
            (self.objective.content * kept + self.objective.style * taken).sum().backward()
            optimiser.step()
        return made.detach()


def resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Return images (N, 3, H, W) at another height and width, averaged when they shrink; proportions may change."""
    if tuple(images.shape[2:]) == size:
        return images
    return functional.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)


def random_vgg(blocks: int) -> VGG:
    """Return the first blocks of a VGG19 whose weights are drawn (He et al. 2015), always the same."""
    network = VGG(CONVOLUTIONS["vgg19"][:blocks], IMAGENET_MEAN, IMAGENET_STD)
    randomness = torch.Generator().manual_seed(0)
    for name, numbers in network.convolutions.named_parameters():
        if name.endswith("weight"):
            torch.nn.init.kaiming_normal_(numbers, nonlinearity="relu", generator=randomness)
        else:
            torch.nn.init.zeros_(numbers)
    return network


def layer_in(network: str, layer: str, after_relu: bool) -> str:
    """Return VGG19's layer ``convB_K`` in another VGG network: the last of the block where it has fewer."""
    block, number = layer.removeprefix("conv").split("_")
    last = CONVOLUTIONS[network.partition("-")[0]][int(block) - 1]
    return f"{'relu' if after_relu else 'conv'}{block}_{min(int(number), last)}"


def network_of(found: Found | None, blocks: int) -> VGG:
    """Return the first blocks of the network with weights of this machine, or of the random one."""
    return random_vgg(blocks) if found is None else load_vgg(found, blocks)

"""Layers that several networks share, in the form that costs least."""

from __future__ import annotations

import torch.nn.functional as functional
from torch import Tensor, nn


def doubled_convolution(features: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Double the side of features by the nearest pixel and convolve with 3 x 3 weights, in one convolution.

    Enlarging repeats each pixel in a square of two by two, so the two steps together are a transposed convolution of
    stride 2 whose kernel is the sum of the weights at four shifts: 16 products a pixel instead of 36, and the enlarged
    features are never made. Equal to ``conv2d(interpolate(features, scale_factor=2), weight, bias, padding=1)``.

    Args:
        features: (N, C, H, W).
        weight: (D, C, 3, 3).
        bias: (D,), or None.

    Returns:
        (N, D, 2H, 2W).
    """
    turned = weight.flip(2, 3).transpose(0, 1)
    shifts = ((0, 1, 0, 1), (1, 0, 0, 1), (0, 1, 1, 0), (1, 0, 1, 0))
    kernel = sum(functional.pad(turned, shift) for shift in shifts)
    return functional.conv_transpose2d(features, kernel, bias, stride=2, padding=1)  # type: ignore[arg-type]


def gated(features: Tensor) -> Tensor:
    """Return the gated linear unit of (N, 2C, H, W): the first half times the sigmoid of the second.

    Unlike ``functional.glu`` its gradient keeps the channels last, which spares a copy at every layer.
    """
    values, gates = features.chunk(2, dim=1)
    return values * gates.sigmoid()


def initialise(network: nn.Module) -> None:
    """Draw convolution weights from N(0, 0.02) and batch-norm scales from N(1, 0.02), as in the DCGAN paper."""
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            weights = dict(module.named_parameters())
            nn.init.normal_(weights.get("parametrizations.weight.original", module.weight), 0.0, 0.02)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.02)
            nn.init.zeros_(module.bias)

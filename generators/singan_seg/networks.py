"""The networks of many SinGANs at one scale, stacked so that one call computes all of them.

K models lie side by side as K groups of channels: pictures are (B, K * 4, H, W), and convolutions are grouped. B counts
passes: each has statistics of its own, since every model sees one picture at a time (batch norm over a batch of one is
instance norm), so passes of one network that do not depend on each other share a call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

CHANNELS = 4
#: A convolution of kernel 3 without padding takes a pixel off each side; there are five.
BORDER = 5
_HIDDEN = 4
_BLOCK = 16
_LEAK = 0.2
_EPSILON = 1e-5
#: How far running statistics move at each pass.
_MOMENTUM = 0.1


def width(scale: int, features: int, double_every: int, largest: int) -> int:
    """Return the channels of the networks at a scale: doubled at every so many scales, up to ``largest``."""
    return min(features * 2 ** (scale // double_every), max(largest, features))


class StackedTrunk(nn.Module):
    """Five convolutions of kernel 3 without padding for K models; the first four with batch norm and leaky ReLU.

    Rott Shaham, Dekel and Michaeli 2019 (arXiv 1905.01164), with four channels of input as in SinGAN-Seg.
    """

    ends_in: ClassVar[int]

    def __init__(self, features: int, seeds: Sequence[torch.Generator]) -> None:
        """Initialise each model from its own generator of random numbers.

        Args:
            features: channels of the hidden layers.
            seeds: one for each model; a model's weights depend on its seed alone.
        """
        super().__init__()
        self.models = len(seeds)
        self.features = features
        shapes = [(features, CHANNELS), *[(features, features)] * (_HIDDEN - 1), (self.ends_in, features)]
        own = [[torch.randn(*shape, 3, 3, generator=seed) * 0.02 for shape in shapes] for seed in seeds]
        gains = [[1 + 0.02 * torch.randn(features, generator=seed) for _ in range(_HIDDEN)] for seed in seeds]
        self.weights = nn.ParameterList([torch.cat(layer) for layer in zip(*own, strict=True)])
        # Batch norm takes the hidden layers' biases away again, so that they stay 0; they are kept for what they are.
        self.biases = nn.ParameterList([torch.zeros(self.models * after) for after, _ in shapes])
        self.gains = nn.ParameterList([torch.cat(layer) for layer in zip(*gains, strict=True)])
        self.shifts = nn.ParameterList([torch.zeros(self.models * features) for _ in range(_HIDDEN)])

    def _convolved(self, inputs: Tensor, layer: int) -> Tensor:
        return functional.conv2d(inputs, self.weights[layer].to(inputs.dtype), groups=self.models)

    def hidden(self, inputs: Tensor) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Compute the hidden layers in training mode: each pass is normalised by its own statistics.

        Args:
            inputs: (B, K * 4, H, W).

        Returns:
            Features (B, K * features, H - 8, W - 8), and of each layer mean and inverse deviation, (B, K * features).
        """
        passes = len(inputs)
        statistics = []
        for layer in range(_HIDDEN):
            made = self._convolved(inputs, layer)
            gains, shifts = self.gains[layer].repeat(passes), self.shifts[layer].repeat(passes)
            flat = made.reshape(1, -1, *made.shape[2:])
            normal, mean, scale = torch.native_batch_norm(flat, gains, shifts, None, None, True, 0.0, _EPSILON)
            statistics.append((mean.detach().view(passes, -1), scale.detach().view(passes, -1)))
            inputs = functional.leaky_relu_(normal, _LEAK).view(made.shape)
        return inputs, statistics


class StackedGenerator(StackedTrunk):
    """Generators of one scale: (B, K * 4, H, W) to (B, K * 4, H - 10, W - 10). 30,340 parameters with 32 features."""

    ends_in = CHANNELS
    means: Tensor
    variances: Tensor

    def __init__(self, features: int, seeds: Sequence[torch.Generator]) -> None:
        """Initialise; see :class:`StackedTrunk`."""
        super().__init__(features, seeds)
        self.register_buffer("means", torch.zeros(_HIDDEN, self.models * features))
        self.register_buffer("variances", torch.ones(_HIDDEN, self.models * features))

    def forward(self, inputs: Tensor) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Compute in training mode; returns what :meth:`StackedTrunk.hidden` does, with one more convolution."""
        features, statistics = self.hidden(inputs)
        last = self.weights[_HIDDEN].view(self.models, CHANNELS, self.features, 3, 3)
        # Kernels for CPUs take blocks of 16 channels: with 4 the gradient of the weights takes four times as long.
        fewest = _BLOCK if inputs.device.type == "cpu" else CHANNELS
        padded = functional.pad(last, (0,) * 7 + (fewest - CHANNELS,)).flatten(0, 1).to(features.dtype)
        made = functional.conv2d(features, padded, groups=self.models)
        made = made.view(len(made), self.models, fewest, *made.shape[2:])[:, :, :CHANNELS].flatten(1, 2)
        return made.to(last.dtype) + self.biases[_HIDDEN][:, None, None], statistics

    @torch.no_grad()
    def follow(self, statistics: Sequence[tuple[Tensor, Tensor]], size: tuple[int, int], times: int = 1) -> None:
        """Move the running statistics as batch norm does after each of the passes, in order.

        Args:
            statistics: what :meth:`forward` returned.
            size: height and width of its inputs.
            times: as if the passes had been computed so often in a row.
        """
        for layer, (mean, scale) in enumerate(statistics):
            pixels = (size[0] - 2 * layer - 2) * (size[1] - 2 * layer - 2)
            variance = (scale.square().reciprocal() - _EPSILON) * (pixels / (pixels - 1))
            passes = len(mean) * times
            ages = torch.arange(passes - 1, -1, -1, device=mean.device, dtype=mean.dtype)
            shares = _MOMENTUM * (1 - _MOMENTUM) ** ages
            kept = (1 - _MOMENTUM) ** passes
            self.means[layer].mul_(kept).add_(shares @ mean.repeat(times, 1))
            self.variances[layer].mul_(kept).add_(shares @ variance.repeat(times, 1))


class StackedCritic(StackedTrunk):
    """Critics of one scale, which score patches of 11 pixels. 29,473 parameters with 32 features.

    Only the mean score of a picture is ever used. That is linear in the last hidden layer, so that the last convolution
    is a product with the means of nine windows, and no map of scores is made.
    """

    ends_in = 1

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the mean scores (B, K) of pictures (B, K * 4, H, W)."""
        features = self.hidden(inputs)[0]
        rows, columns = (_windows(side, features) for side in features.shape[2:])
        means = rows @ features @ columns.T / ((features.shape[2] - 2) * (features.shape[3] - 2))
        weights = self.weights[_HIDDEN].view(self.models, -1)
        per_model = means.to(weights.dtype).view(len(features), self.models, -1)
        return (per_model * weights).sum(dim=2) + self.biases[_HIDDEN]

    def gradient_penalty(self, inputs: Tensor) -> Tensor:
        """Return the penalty of WGAN-GP on the gradient of the scores with respect to ``inputs``, one for each model.

        The gradient is written out layer by layer instead of asked of autograd: its own derivative is then an ordinary
        backward pass, where differentiating a grouped convolution twice would compute one model after the other.

        Args:
            inputs: (1, K * 4, H, W).

        Returns:
            (K,): mean over pixels of (norm over the four channels - 1)^2, of the sum of all patches' scores.
        """
        dtype, exact = inputs.dtype, self.weights[0].dtype
        kept = []
        for layer in range(_HIDDEN):
            made = self._convolved(inputs, layer).to(exact)
            centred = made - _mean(made)
            scale = torch.rsqrt(_mean(centred.square()) + _EPSILON)
            normal = centred * scale
            gain = self.gains[layer][:, None, None]
            shifted = normal * gain + self.shifts[layer][:, None, None]
            inputs = functional.leaky_relu(shifted, _LEAK).to(dtype)
            kept.append((normal, scale * gain, torch.where(shifted.detach() > 0, 1.0, _LEAK)))
        rows, columns = (_windows(side, self.weights[_HIDDEN]) for side in inputs.shape[2:])
        gradient = (rows.T @ self.weights[_HIDDEN].view(1, -1, 3, 3) @ columns).to(dtype)
        for layer in range(_HIDDEN - 1, -1, -1):
            normal, scale, slope = kept[layer]
            arriving = gradient.to(exact) * slope
            through = (arriving - _mean(arriving) - normal * _mean(arriving * normal)) * scale
            gradient = functional.conv_transpose2d(through.to(dtype), self.weights[layer].to(dtype), groups=self.models)
        each = gradient.to(exact).view(self.models, CHANNELS, *gradient.shape[2:])
        return (each.norm(dim=1) - 1).square().mean(dim=(1, 2))


def _mean(values: Tensor) -> Tensor:
    """Return the mean over pixels, (B, C, 1, 1); over two dimensions at once it would be much slower on a CPU."""
    return values.flatten(2).mean(dim=2)[..., None, None]


def _windows(side: int, like: Tensor) -> Tensor:
    """Return (3, side): which pixels each of the kernel's three taps meets as it moves over a line."""
    pixels = torch.arange(side, device=like.device)
    taps = torch.arange(3, device=like.device)[:, None]
    return ((pixels >= taps) & (pixels < taps + side - 2)).to(like.dtype)


class FrozenTrunk:
    """Generators of a finished scale in evaluation mode: batch norm by running statistics, folded into convolutions."""

    def __init__(self, weights: Sequence[Tensor], biases: Sequence[Tensor], models: int) -> None:
        """Take folded weights; see :meth:`of`."""
        self.weights, self.biases, self.models = list(weights), list(biases), models

    @classmethod
    @torch.no_grad()
    def of(cls, trunk: StackedGenerator) -> FrozenTrunk:
        """Fold a trained generator."""
        weights, biases = [], []
        for layer in range(_HIDDEN):
            scale = trunk.gains[layer] * torch.rsqrt(trunk.variances[layer] + _EPSILON)
            weights.append(trunk.weights[layer] * scale[:, None, None, None])
            biases.append((trunk.biases[layer] - trunk.means[layer]) * scale + trunk.shifts[layer])
        weights.append(trunk.weights[_HIDDEN].detach())
        biases.append(trunk.biases[_HIDDEN].detach())
        return cls(weights, biases, trunk.models)

    @torch.no_grad()
    def __call__(self, inputs: Tensor) -> Tensor:
        """Return features (B, K * 4, H - 10, W - 10) of (B, K * 4, H, W)."""
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            inputs = functional.leaky_relu_(functional.conv2d(inputs, weight, bias, groups=self.models), _LEAK)
        return functional.conv2d(inputs, self.weights[-1], self.biases[-1], groups=self.models)


def bordered(pictures: Tensor) -> Tensor:
    """Return pictures with a border of zeros as wide as what the networks take off."""
    return functional.pad(pictures, (BORDER,) * 4)

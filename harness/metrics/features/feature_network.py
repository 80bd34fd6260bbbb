"""What a feature network is: which images it takes, how it is named, and what it gives."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harness.errors import DeclarationError, WeightsError, nearest

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
        load: returns the module that holds the weights, which is moved to the device, and ``extract``, which maps
            float32 (N, 3, side, side), values 0 to 255, to float32 (N, D); several threads may call that. Called when
            something is computed: features that are stored need no network.
        side: of the square input, in pixels.
        fingerprint: names the weights and how images are scaled for them in the store's keys; empty when ``name``
            says it all, None to keep nothing.
    """

    name: str
    load: Callable[[], tuple[nn.Module, Callable[[Tensor], Tensor]]]
    side: int = 299
    fingerprint: str | None = ""

    @cached_property
    def _loaded(self) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
        return self.load()

    @property
    def module(self) -> nn.Module:
        """The module that holds the weights."""
        return self._loaded[0]

    @property
    def extract(self) -> Callable[[Tensor], Tensor]:
        """What maps images to features."""
        return self._loaded[1]


def named_file(network: str, path: str) -> tuple[Path, str]:
    """Return the weights file that stands behind the ``@`` of a network's name, and the name with that file's.

    Raises:
        WeightsError: there is none.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise WeightsError(f"There is no weights file {file} for {network}; correct the path behind the @.")
    return file, f"{network}@{file.name}"


def normalised_network(
    name: str,
    module: nn.Module,
    forward: Callable[[Tensor], Tensor],
    file: Path,
    side: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> FeatureNetwork:
    """Return a module with loaded weights as a feature network that takes images as its weights were trained with.

    Args:
        name: to which the label adds the first digits of the file's SHA-256.
        module: whose parameters ``forward`` uses.
        forward: maps normalised float32 (N, 3, side, side) to (N, D) or to a map (N, D, h, w).
        file: the weights came from.
        side: of the input, in pixels.
        mean: of the channels, for images in [0, 1].
        std: likewise.
    """
    import torch

    from harness.weights.locate import sha256

    module.eval().requires_grad_(False)
    centre, scale = (torch.tensor(tuple(values)).reshape(1, 3, 1, 1) for values in (mean, std))

    def extract(images: Tensor) -> Tensor:
        scaled = (images / 255 - centre.to(images.device)) / scale.to(images.device)
        return _vectors(name, forward(scaled), len(images))

    facts = f"{side} {tuple(mean)} {tuple(std)}"
    label = f"{name} ({sha256(file)[:8]})"
    return FeatureNetwork(label, lambda: (module, extract), side, _fingerprint(module, facts.encode()))


def _vectors(name: str, features: Any, count: int) -> Tensor:
    """Return features (N, D): as they are, or a map (N, D, h, w) averaged over positions."""
    shape = tuple(getattr(features, "shape", ()))
    if len(shape) not in (2, 4) or shape[0] != count:
        got = f"of shape {shape}" if shape else f"a {type(features).__name__}"
        raise DeclarationError(
            f"The network {name!r} must map {count} images to features ({count}, D) or maps ({count}, D, height, "
            f"width), but gave {got}; change its forward."
        )
    return features if len(shape) == 2 else features.mean(dim=(2, 3))


def _fingerprint(module: nn.Module, facts: bytes = b"") -> str:
    """Return a digest of a module's weights and of what else its features depend on."""
    import torch

    digest = hashlib.sha256(facts)
    for key, value in module.state_dict().items():
        if not isinstance(value, torch.Tensor):  # what a module's own get_extra_state returns
            digest.update(f"{key} {value!r}".encode())
            continue
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]

"""Networks whose features stand for images: the standard Inception, segmentation encoders, and any other module.

A network carries the name that stands beside every number made with it, with the first digits of its weights' SHA-256;
only the standard weights may be called ``fid-inception``. No network is ever downloaded, or has random weights.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harness.errors import DeclarationError, HarnessError, WeightsError, nearest

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


def fid_network(mode: Mode = "clean", tap: int = 2048) -> FeatureNetwork:
    """Return the standard Inception network; taps other than 2048 are averaged over positions and named in the label.

    The weights are read when something is computed; ``WeightsError`` is raised then.
    """
    centre, scale = (128.0, 128.0) if mode == "clean" else (127.5, 127.5)  # pytorch-fid maps [0, 1] to [-1, 1]

    def load() -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
        from harness.weights.locate import fid_inception

        network = fid_inception()

        def extract(images: Tensor) -> Tensor:
            features = network((images - centre) / scale, tap)
            return features if features.ndim == 2 else features.mean(dim=(2, 3))

        return network, extract

    return FeatureNetwork("fid-inception" if tap == 2048 else f"fid-inception-{tap}", load)


def encoder_network(encoder: str, path: str | None = None) -> FeatureNetwork:
    """Return a pretrained segmentation encoder as a feature network: its deepest map averaged over positions, at 224
    px.

    Args:
        encoder: a name of segmentation-models-pytorch, such as ``resnet34`` or ``tu-tf_efficientnet_lite0``.
        path: a weights file, instead of the catalogue's ImageNet weights.

    Raises:
        WeightsError: its weights are not on this machine, or the file is of another network.
    """
    import segmentation_models_pytorch as smp

    from harness.weights.catalogue import name_for_encoder
    from harness.weights.encoders import encoder_weights
    from harness.weights.locate import required

    label = encoder
    if path is None:
        file = required(name_for_encoder(encoder), f"name a file of yours: {encoder}@FILE").path
    else:
        file, label = named_file(encoder, path)
    weights = encoder_weights(encoder, str(file))
    module = smp.encoders.get_encoder(encoder, weights=None)
    module.load_state_dict(weights.state_dict)

    def deepest(images: Tensor) -> Tensor:
        return module(images)[-1]

    return normalised_network(label, module, deepest, file, 224, weights.mean, weights.std)


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


def _refuse_standard_name(name: str) -> None:
    letters = (re.sub(r"[^a-z0-9]", "", part.lower()) for part in (name, name.rpartition(":")[2]))
    if any(part.startswith("fid") or "fidinception" in part for part in letters):
        raise DeclarationError(
            f"A network of your own cannot be called {name!r}, which reads like the standard Inception of the FID; "
            "rename it."
        )


def module_network(name: str, module: nn.Module, side: int = 299, code: bytes = b"") -> FeatureNetwork:
    """Return any module as a feature network under a name of its own.

    Args:
        name: anything that does not start with ``fid`` or contain ``fid-inception``.
        module: maps float32 (N, 3, side, side), values 0 to 255, to (N, D) or (N, D, h, w), which is averaged.
        side: of its input in pixels.
        code: the module's source, when features must not be taken for those of other code with the same weights.

    Raises:
        DeclarationError: the name would pass it off as the standard network.
    """
    import torch

    _refuse_standard_name(name)
    module.eval()

    def extract(images: Tensor) -> Tensor:
        try:
            features = module(images)
        except (HarnessError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            raise DeclarationError(
                f"The network {name!r} fails on images {tuple(images.shape)}: {type(error).__name__}: {error}."
            ) from error
        return _vectors(name, features, len(images))

    return FeatureNetwork(name, lambda: (module, extract), side, _fingerprint(module, code + str(side).encode()))


_OWN = re.compile(r"(.+\.py|[\w.]+):(\w+)")
_KINDS = (
    "fid-inception, fid-inception-64|192|768, a segmentation encoder such as resnet34, torchvision:NAME, timm:NAME "
    "(these three also with a weights file, as in resnet34@FILE), and path/to/file.py:Class or package.module:Class"
)


def network_named(name: str, mode: Mode = "clean") -> FeatureNetwork:
    """Return a network by its name.

    * ``fid-inception``, ``fid-inception-64|192|768``: the standard one and its earlier taps;
    * a segmentation encoder, ``torchvision:NAME``, ``timm:NAME``: pretrained, with weights that are on this machine;
      with ``@FILE`` behind the name, with the weights in that file;
    * ``path/to/file.py:Class``, ``package.module:Class``: a module of the user's, built without arguments, which maps
      float32 (N, 3, side, side), values 0 to 255, to (N, D) or (N, D, h, w); ``side`` is a class attribute, or 299.

    Raises:
        DeclarationError: there is no such network, or the user's own cannot be used.
        WeightsError: its weights are not on this machine, or are of another network.
    """
    tap = re.fullmatch(r"fid-inception(?:-(64|192|768))?", name)
    if tap:
        return fid_network(mode, int(tap[1] or 2048))
    library, _, network = name.partition(":")
    if library in ("torchvision", "timm"):
        from harness.metrics.features.timm_torchvision import timm_network, torchvision_network

        build = torchvision_network if library == "torchvision" else timm_network
        network, at, path = network.partition("@")
        return build(network, path if at else None)
    if _OWN.fullmatch(name):
        return _own_network(name)
    encoder, at, path = name.partition("@")
    if not _is_encoder(encoder):
        raise DeclarationError(f"There is no feature network {name!r}{_suggestion(encoder)}; there are: {_KINDS}.")
    return encoder_network(encoder, path if at else None)


def _is_encoder(name: str) -> bool:
    import segmentation_models_pytorch as smp
    import timm

    return name in smp.encoders.encoders or (name.startswith(("tu-", "timm-")) and timm.is_model(name.split("-", 1)[1]))


def _suggestion(name: str) -> str:
    """Return ``'; did you mean X?'``, where X is a network of any kind."""
    import segmentation_models_pytorch as smp

    from harness.metrics.features.timm_torchvision import timm_names, torchvision_names

    for library, names in (("torchvision", torchvision_names()), ("timm", timm_names())):
        if name in names:
            return f"; did you mean '{library}:{name}'?"
    taps = [f"fid-inception{tap}" for tap in ("", "-64", "-192", "-768")]
    return nearest(name, [*taps, *smp.encoders.encoders])


def _own_network(name: str) -> FeatureNetwork:
    """Return the user's own module, labelled with a digest of its code and weights.

    It is built twice: two builds with different weights would be random ones.
    """
    kind = _own_class(name)
    try:
        module, again = kind(), kind()
    except HarnessError:
        raise
    except Exception as error:
        raise DeclarationError(
            f"The network {name!r} cannot be built without arguments: {type(error).__name__}: {error}."
        ) from error
    if _fingerprint(module) != _fingerprint(again):
        raise DeclarationError(
            f"The network {name!r} has random weights: it is another one each time it is built; load its weights in "
            "its __init__."
        )
    side = getattr(module, "side", 299)
    if type(side) is not int or side < 1:
        raise DeclarationError(f"The network {name!r} has side = {side!r}; give a whole number of pixels.")
    network = module_network(name, module, side, Path(inspect.getfile(kind)).read_bytes())
    file_name = name.rpartition("/")[2]  # a label stands in reports, which name no folder of this machine
    return replace(network, name=f"{file_name} ({str(network.fingerprint)[:8]})")


def _own_class(name: str) -> type[nn.Module]:
    from torch import nn

    from harness.plugins.import_file import import_file

    _refuse_standard_name(name)
    where, _, attribute = name.rpartition(":")
    if where.endswith(".py") and not Path(where).is_file():
        raise DeclarationError(f"There is no file {where} with a network; write path/to/file.py:Class.")
    try:
        module = import_file(Path(where)) if where.endswith(".py") else importlib.import_module(where)
    except Exception as error:
        raise DeclarationError(
            f"The network {name!r} cannot be imported: {type(error).__name__}: {error}"
            f"{nearest(where, ('torchvision', 'timm'))}; there are: {_KINDS}."
        ) from error
    found = getattr(module, attribute, None)
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        offered = [key for key, kind in vars(module).items() if isinstance(kind, type) and issubclass(kind, nn.Module)]
        raise DeclarationError(
            f"{where} has no torch.nn.Module class {attribute!r}{nearest(attribute, offered)}; it has "
            f"{', '.join(offered) or 'none'}."
        )
    return found


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

"""Networks whose features stand for images: the standard Inception, segmentation encoders, and any other module.

A network carries the name that stands beside every number made with it, with the first digits of its weights' SHA-256;
only the standard weights may be called ``fid-inception``. No network is ever downloaded, or has random weights.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import DeclarationError, HarnessError, nearest

if TYPE_CHECKING:
    from torch import Tensor, nn

from harness.metrics.features.feature_network import (
    FeatureNetwork,
    Mode,
    _fingerprint,
    _vectors,
    named_file,
    normalised_network,
)


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

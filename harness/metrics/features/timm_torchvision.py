"""Classification networks of torchvision and timm as feature networks, with weights that are on this machine.

The features are what the network's own classifier reads; images come at the size and in the scale that the weights were
trained with. Neither library is asked for pretrained weights, which would download them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import DeclarationError, WeightsError, nearest
from harness.metrics.features.feature_network import FeatureNetwork, named_file, normalised_network
from harness.weights import encoders, locate, tensors

if TYPE_CHECKING:
    from torch import Tensor, nn

_AUXILIARY = ("AuxLogits", "aux1", "aux2")  # Inception's and GoogLeNet's classifiers for training
_TABLES = ("relative_position_index", "attn_mask")  # follow from the architecture; older files carry them


def torchvision_names() -> list[str]:
    """Return the names of torchvision's classification networks."""
    import torchvision

    return torchvision.models.list_models(module=torchvision.models)


def timm_names() -> list[str]:
    """Return the names of timm's networks, without the tags of their weights."""
    import timm

    return timm.list_models()


def torchvision_network(name: str, path: str | None = None) -> FeatureNetwork:
    """Return a classification network of torchvision.

    Args:
        name: such as ``resnet50``.
        path: a weights file of the user's; by default official ones in the torch hub's cache, the best first.

    Raises:
        DeclarationError: there is no such network.
        WeightsError: its weights are not on this machine, or the file is of another network.
    """
    import torchvision
    from torch import nn

    label = f"torchvision:{name}"
    if name not in (names := torchvision_names()):
        raise DeclarationError(
            f"torchvision has no classification network {name!r}{nearest(name, names)}; see "
            "torchvision.models.list_models()."
        )
    published = torchvision.models.get_model_weights(name)
    # some weights lack the classifier and what it reads: they name no categories
    choices = [known for known in dict.fromkeys([published.DEFAULT, *published]) if known.meta.get("categories")]
    if path is None:
        chosen, file = _in_torch_hub(label, choices)
    else:
        chosen, (file, label) = choices[0], named_file(label, path)
    preset = chosen.transforms()
    (side,) = preset.crop_size
    options: dict[str, Any] = {"image_size": side} if name.startswith("vit_") else {}
    if name in ("googlenet", "inception_v3"):
        options = {"transform_input": True, "aux_logits": False, "init_weights": False}
    module = torchvision.models.get_model(name, weights=None, **options)
    linear = [place for place, layer in module.named_modules() if isinstance(layer, nn.Linear)]
    if linear:
        module.set_submodule(linear[-1], nn.Identity())
        classifier = linear[-1].partition(".")[0]
    else:  # SqueezeNet classifies every position of its last map
        module.classifier = nn.AdaptiveAvgPool2d(1)
        classifier = "classifier"
    # DenseNet's files are older than the names of its layers
    state = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", key): tensor
        for key, tensor in tensors.read_state_dict(file).items()
    }
    _load(module, state, (classifier, *_AUXILIARY), file, label)
    return normalised_network(label, module, module, file, side, preset.mean, preset.std)


def _in_torch_hub(label: str, choices: Sequence[Any]) -> tuple[Any, Path]:
    """Return the first of torchvision's published weights that lie in the torch hub's cache, and their file.

    The file name of each one's address ends in the first digits of its SHA-256.
    """
    damaged: list[str] = []
    for known in choices:
        file = locate.torch_hub_folder() / known.url.rpartition("/")[2]
        if not locate.is_readable(file):
            continue
        if locate.sha256(file).startswith(file.stem.rpartition("-")[2]):
            return known, file
        damaged.append(file.name)
    broken = f" ({', '.join(damaged)} is there, but its SHA-256 is not the one in its name)" if damaged else ""
    names = " or ".join(known.url.rpartition("/")[2] for known in choices)
    raise WeightsError(
        f"The weights of {label} are not on this machine: there is no {names} in {locate.torch_hub_folder()}{broken}; "
        f"put {choices[0].url} there, or name a file of yours: {label}@FILE."
    )


def timm_network(name: str, path: str | None = None) -> FeatureNetwork:
    """Return a network of timm.

    Args:
        name: such as ``convnext_atto``, or with the tag of its weights, ``resnet50.a1_in1k``.
        path: a weights file of the user's; by default what ``harness weights`` and the model hub's cache have.

    Raises:
        DeclarationError: there is no such network.
        WeightsError: its weights are not on this machine, or the file is of another network.
    """
    import timm

    from harness.weights.catalogue import entry_named, name_for_encoder

    label = f"timm:{name}"
    known = locate.timm_configuration(name)
    if not timm.is_model(name) or ("." in name and known is None):
        offered = timm.list_pretrained(f"{name.partition('.')[0]}.*") or timm_names()
        raise DeclarationError(f"timm has no network {name!r}{nearest(name, offered)}; see timm.list_pretrained().")
    entry = entry_named(name_for_encoder(f"tu-{name}"))
    if path is None:
        file = locate.required(entry.name, f"name a file of yours: {label}@FILE").path
    else:
        file, label = named_file(label, path)
    module = timm.create_model(name, pretrained=False, num_classes=0)
    configuration: Any = module.pretrained_cfg
    classifier = configuration.get("classifier") or "head"
    classifiers = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    state = tensors.in_timms_order(name, tensors.read_state_dict(file))
    _load(module, state, tuple(place.partition(".")[0] for place in classifiers), file, label)
    mean, std = encoders.normalisation(entry, file)
    return normalised_network(label, module, module, file, configuration["input_size"][-1], mean, std)


def _load(module: nn.Module, state: Mapping[str, Tensor], classifiers: tuple[str, ...], file: Path, label: str) -> None:
    """Copy weights into a network without its classifier; the file may hold a classifier, and nothing else besides.

    Raises:
        WeightsError: a tensor is missing, of another shape, or of another network.
    """
    import torch

    own = module.state_dict()
    advice = "name a file of that network's"
    with torch.no_grad():
        for key, tensor in own.items():
            found = state.get(key)
            if found is None and key.endswith("num_batches_tracked"):
                continue  # files from before 2018 lack this counter, which changes nothing
            if found is None or found.shape != tensor.shape:
                got = "missing" if found is None else f"of shape {tuple(found.shape)}"
                raise WeightsError(
                    f"{file} does not hold the weights of {label}: {key} is {got}, expected {tuple(tensor.shape)}; "
                    f"{advice}."
                )
            tensor.copy_(found)
    for key in state:
        if key not in own and key.partition(".")[0] not in classifiers and key.rpartition(".")[2] not in _TABLES:
            raise WeightsError(
                f"{file} does not hold the weights of {label}, but of a larger network: {label} has no {key}; {advice}."
            )

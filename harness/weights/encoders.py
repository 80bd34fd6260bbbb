"""Pretrained weights of segmentation encoders, under the names that the network gives its own tensors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import WeightsError
from harness.weights.catalogue import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Colour,
    Weights,
    entry_named,
    name_for_encoder,
)

if TYPE_CHECKING:
    from torch import Tensor


from harness.weights.locate import required, sha256, timm_configuration
from harness.weights.tensors import read_state_dict, state_for_encoder


@dataclass(frozen=True)
class EncoderWeights:
    """Pretrained weights of a segmentation encoder.

    Attributes:
        state_dict: exactly the keys of the encoder's own ``state_dict()`` at its full depth; a shallower encoder takes
            the keys that it has.
        mean: to subtract from images in [0, 1].
        std: to divide by, after that.
        origin: a phrase for reports.
    """

    state_dict: dict[str, Tensor]
    mean: Colour
    std: Colour
    origin: str


def _colour(values: Sequence[float]) -> Colour:
    red, green, blue = values
    return float(red), float(green), float(blue)


def normalisation(entry: Weights, file: Path) -> tuple[Colour, Colour]:
    """Return the channel mean and deviation that weights were trained with: the model hub's, timm's, or ImageNet's."""
    configuration = file.with_name("config.json")
    if configuration.is_file() and file.name == "model.safetensors":
        written = json.loads(configuration.read_text())
        written = written.get("pretrained_cfg", written)
        if len(written.get("mean") or ()) == 3 and len(written.get("std") or ()) == 3:
            return _colour(written["mean"]), _colour(written["std"])
    if entry.encoder.startswith("tu-") and (entry.mean, entry.std) == (IMAGENET_MEAN, IMAGENET_STD):
        known = timm_configuration(entry.encoder[3:])
        if known is not None and known.mean and known.std:
            return _colour(known.mean), _colour(known.std)
    return entry.mean, entry.std


def encoder_weights(encoder: str, path: str | None = None) -> EncoderWeights:
    """Return pretrained weights of a segmentation-models-pytorch encoder. Never touches the network.

    Args:
        encoder: such as ``resnet34`` or ``tu-tf_efficientnet_lite0``.
        path: a weights file of the user's; by default the catalogue's ImageNet weights, wherever they are.

    Raises:
        WeightsError: they are not on this machine, or the file is of another network.
    """
    entry = entry_named(name_for_encoder(encoder))
    if path is not None:
        file = Path(path).expanduser()
        if not file.is_file():
            raise WeightsError(
                f"There is no encoder weights file {file}; correct the path or use encoder_weights: random."
            )
        origin = f"{file.name} (SHA-256 {sha256(file)[:12]}..., named in the study)"
    else:
        found = required(entry.name, "choose encoder_weights: random in the study")
        file, origin = found.path, found.origin
    mean, std = normalisation(entry, file)
    return EncoderWeights(state_for_encoder(encoder, read_state_dict(file), str(file)), mean, std, origin)

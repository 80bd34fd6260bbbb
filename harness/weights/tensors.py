"""Tensors out of weights files, without unpickling objects, under the names that a network gives its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read tensors from a safetensors or a torch file, without unpickling objects.

    Raises:
        WeightsError: the file is neither, or holds anything but tensors.
    """
    import pickle

    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, KeyError, EOFError, SafetensorError, pickle.UnpicklingError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightsError(f"{path} is not a safetensors or torch weights file: {reason}") from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not (isinstance(state, dict) and state and all(isinstance(value, torch.Tensor) for value in state.values())):
        raise WeightsError(f"{path} holds no state dict; save one with torch.save(model.state_dict(), PATH).")
    return state


def in_timms_order(name: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a published lite0 state dict under timm's names, and any other as it is.

    The published lite0 files name their tensors otherwise, in the same order as timm's network does.
    """
    import timm

    if "lite0" not in name or not {"_conv_stem.weight", "stem.0.weight"} & set(state):
        return state
    names = list(timm.create_model(name).state_dict())
    return dict(zip(names, state.values(), strict=True)) if len(names) == len(state) else state


def state_for_encoder(encoder: str, state: dict[str, Tensor], where: str) -> dict[str, Tensor]:
    """Return the tensors of ``state`` under the names of the encoder's own ``state_dict()``.

    Raises:
        WeightsError: there is no such encoder, or the tensors are of another network.
    """
    import segmentation_models_pytorch as smp
    import torch

    try:
        own = smp.encoders.get_encoder(encoder, weights=None).state_dict()
    except (KeyError, RuntimeError, ValueError) as error:
        raise WeightsError(f"There is no encoder {encoder!r} in segmentation-models-pytorch: {error}") from error
    state = in_timms_order(encoder.partition("-")[2], state)
    # timm flattens some containers (``stages.0`` to ``stages_0``) when it returns features of every stage.
    flat = {key.replace(".", "_"): tensor for key, tensor in state.items()}
    fitted: dict[str, Tensor] = {}
    for key, tensor in own.items():
        found = state.get(key, flat.get(key.removeprefix("model.").replace(".", "_")))
        if found is None and key.endswith("num_batches_tracked"):
            found = torch.zeros_like(tensor)  # files from before 2018 lack this counter, which changes nothing
        if found is None or found.shape != tensor.shape:
            got = "missing" if found is None else f"of shape {tuple(found.shape)}"
            raise WeightsError(
                f"{where} does not hold weights of the encoder {encoder!r}: {key} is {got}, expected "
                f"{tuple(tensor.shape)}; name a file of that encoder's."
            )
        fitted[key] = found
    return fitted

"""Checkpoints of CompVis' latent-diffusion: read without unpickling objects, and under diffusers' names."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.learning.pretrained import read_state_dict

#: What a first stage consists of. Its checkpoint holds its discriminator and perceptual network too.
_PARTS = ("encoder.", "decoder.", "quantize.", "quant_conv.", "post_quant_conv.")
#: Where a checkpoint of a latent diffusion model keeps its first stage.
_INSIDE = "first_stage_model."
_LEVELS = 3

#: CompVis' names and diffusers', in turn. Level 0 of CompVis' decoder is the largest, of diffusers' the smallest.
_NAMES = (
    (r"^encoder\.down\.(\d+)\.block\.", r"encoder.down_blocks.\1.resnets."),
    (r"^encoder\.down\.(\d+)\.downsample\.", r"encoder.down_blocks.\1.downsamplers.0."),
    (r"^decoder\.up\.(\d+)\.block\.", r"decoder.up_blocks.<\1>.resnets."),
    (r"^decoder\.up\.(\d+)\.upsample\.", r"decoder.up_blocks.<\1>.upsamplers.0."),
    (r"<(\d+)>", lambda found: str(_LEVELS - 1 - int(found[1]))),
    (r"\.mid\.block_(\d)\.", lambda found: f".mid_block.resnets.{int(found[1]) - 1}."),
    (r"\.mid\.attn_1\.norm\.", ".mid_block.attentions.0.group_norm."),
    (r"\.mid\.attn_1\.([qkv])\.", r".mid_block.attentions.0.to_\1."),
    (r"\.mid\.attn_1\.proj_out\.", ".mid_block.attentions.0.to_out.0."),
    (r"\.nin_shortcut\.", ".conv_shortcut."),
    (r"\.norm_out\.", ".conv_norm_out."),
)


class _Left:
    """Stands for an object in a checkpoint that is no tensor, and does nothing."""

    def __init__(self, *ignored: Any, **named: Any) -> None:
        """Take and forget whatever the object was made from."""

    def __setstate__(self, state: Any) -> None:
        """Forget the state."""


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a training checkpoint; of other objects in it, none is made or run.

    Checkpoints of Lightning name classes of the training (callbacks, numpy scalars), which the safe reader of torch
    refuses. Here an inert object stands in for each of them.

    Raises:
        WeightsError: it is no torch file, or holds no state dict.
    """
    try:
        named = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError):
        named = []  # an old file, or none of torch's, which the reader will say
    with torch.serialization.safe_globals([(_Left, name) for name in named]):
        return read_state_dict(path)


def first_stage_of(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of the first stage alone, by their names in it."""
    own = {name.removeprefix(_INSIDE): tensor for name, tensor in state.items() if name.startswith(_INSIDE)}
    return {name: tensor for name, tensor in (own or state).items() if name.startswith(_PARTS)}


def from_compvis(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a first stage's tensors under diffusers' names; those that have them already stay as they are.

    CompVis' attention has 1x1 convolutions where diffusers' has linear layers.
    """
    renamed: dict[str, Tensor] = {}
    for old, tensor in state.items():
        name = old
        for pattern, replacement in _NAMES:
            name = re.sub(pattern, replacement, name)
        linear = ".attentions.0.to_" in name and tensor.ndim == 4
        renamed[name] = tensor[:, :, 0, 0] if linear else tensor
    return renamed

"""The randomness of trainings, which comes from seeds and steps alone, and random flips of pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

#: Axes of (N, C, H, W) that a setting of flips reverses: 2 is upside down, 3 mirrors.
FLIP_AXES = {"none": (), "horizontal": (3,), "both": (2, 3)}


def seeded(*key: int) -> torch.Generator:
    """Return a CPU generator that depends on all integers of ``key``: the one source of randomness at a step."""
    words = np.random.SeedSequence([k % 2**64 for k in key]).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(words[0]) << 31 | int(words[1]) >> 1)


def draw_flips(count: int, axes: Sequence[int], randomness: torch.Generator) -> Tensor:
    """Draw which of ``count`` pictures are flipped, with probability one half: bool (axes, count)."""
    return torch.rand(len(axes), count, generator=randomness) < 0.5


def flip(pictures: Tensor, axes: Sequence[int], chosen: Tensor) -> Tensor:
    """Flip those of the pictures (N, C, H, W) that are ``chosen`` (axes, N), along each of ``axes``."""
    for axis, which in zip(axes, chosen, strict=True):
        pictures = torch.where(which[:, None, None, None], pictures.flip(axis), pictures)
    return pictures

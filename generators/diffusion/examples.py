"""What a diffusion model learns from: pictures in [-1, 1], and beside them the masks that they were made for."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from generators.diffusion.denoiser import coverage_of
from generators.randomness import FLIP_AXES, draw_flips, flip

#: Pictures encoded at once.
_CHUNK = 16


class Examples(Protocol):
    """Training examples on a device."""

    def __len__(self) -> int: ...

    def batch(self, positions: NDArray[np.intp], randomness: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Return pictures or latents float32 (N, C, S, S), flipped at random, and the coverage by their masks."""
        ...

    def to(self, device: torch.device) -> Examples:
        """Return the same examples on a device."""
        ...


class PixelExamples:
    """Pictures as bytes; batches are floats in [-1, 1]."""

    def __init__(self, pictures: Tensor, masks: Tensor | None, flips: str) -> None:
        """Keep them.

        Args:
            pictures: uint8 (N, C, S, S) on the device.
            masks: uint8 (N, 1, S, S) in {0, 1}, or None where no mask is given to the network.
            flips: ``none``, ``horizontal`` or ``both``.
        """
        self._channels = pictures.shape[1]
        self._pictures = pictures if masks is None else torch.cat([pictures, masks], dim=1)
        self._axes = FLIP_AXES[flips]
        self._conditional = masks is not None

    def __len__(self) -> int:
        return len(self._pictures)

    def batch(self, positions: NDArray[np.intp], randomness: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Return pictures and the coverage by their masks, flipped alike."""
        chosen = self._pictures[torch.from_numpy(positions).to(self._pictures.device)]
        flips = draw_flips(len(positions), self._axes, randomness).to(chosen.device)
        chosen = flip(chosen, self._axes, flips)
        pictures = chosen[:, : self._channels].float().div_(127.5).sub_(1)
        return pictures, chosen[:, self._channels :].float() if self._conditional else None

    def to(self, device: torch.device) -> PixelExamples:
        """Return the same examples on a device."""
        moved = copy.copy(self)
        moved._pictures = self._pictures.to(device)
        return moved


class LatentExamples:
    """Latents of a first stage, encoded once: of every picture, and of each of its flips."""

    def __init__(
        self, pictures: Tensor, masks: Tensor, flips: str, encode: Callable[[Tensor], Tensor], factor: int
    ) -> None:
        """Encode them.

        Args:
            pictures: uint8 (N, 3, S, S) on the device.
            masks: uint8 (N, 1, S, S) in {0, 1}.
            flips: ``none``, ``horizontal`` or ``both``.
            encode: maps float (n, 3, S, S) in [-1, 1] to latents.
            factor: pixels a side of a latent position.
        """
        made: list[Tensor]
        views: list[tuple[int, ...]] = [()]
        for axis in FLIP_AXES[flips]:
            views += [(*view, axis) for view in views]
        latents, coverage = [], []
        for view in views:
            made = []
            for start in range(0, len(pictures), _CHUNK):
                part = pictures[start : start + _CHUNK].float().div_(127.5).sub_(1).flip(view)
                with torch.no_grad():
                    made.append(encode(part).float())
            latents.append(torch.cat(made))
            coverage.append(coverage_of(masks.flip(view), factor))
        self._latents, self._coverage = torch.stack(latents), torch.stack(coverage)
        self.deviation = float(torch.stack([view.std() for view in self._latents]).mean())
        self.scale = 1.0

    def __len__(self) -> int:
        return self._latents.shape[1]

    def batch(self, positions: NDArray[np.intp], randomness: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Return latents times ``scale`` and the coverage by their masks, each of one of its flips."""
        views = torch.randint(0, len(self._latents), (len(positions),), generator=randomness)
        chosen = views.to(self._latents.device), torch.from_numpy(positions).to(self._latents.device)
        return self._latents[chosen] * self.scale, self._coverage[chosen]

    def to(self, device: torch.device) -> LatentExamples:
        """Return the same examples on a device."""
        moved = copy.copy(self)
        moved._latents, moved._coverage = self._latents.to(device), self._coverage.to(device)
        return moved

"""Making pairs from the models of a checkpoint, models of any number of images in one call."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor, nn

from generators.four_channel_gan.pictures import to_bytes
from generators.singan_seg.networks import CHANNELS, FrozenTrunk
from generators.singan_seg.pyramid import Pyramid
from generators.singan_seg.training import FinishedScale, draw_noise, through

_LAYERS = 5


class Models:
    """The models of a checkpoint; only those that are asked for are read."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        """Read what the checkpoint holds."""
        config = json.loads((folder / "config.json").read_text())
        self.device = device
        self.ids: list[str] = config["ids"]
        self._size: tuple[int, int] = (config["size"][0], config["size"][1])
        sizes = tuple((height, width) for height, width in config["sizes"])
        self._pyramid = Pyramid(self._size, sizes, config["ratio"], config["shrink"])
        self._truncate: bool = config["truncate"]
        self._per_file: int = config["per_file"]
        self._files = [safe_open(folder / name, "pt") for name in config["files"]]

    def _read(self, chosen: Sequence[int], name: str) -> Tensor:
        """Return a tensor of the chosen models, stacked."""
        each = [self._files[i // self._per_file].get_slice(name)[i % self._per_file] for i in chosen]
        return torch.stack(each).to(self.device)

    @torch.no_grad()
    def make(
        self, chosen: Sequence[int], seeds: NDArray[np.int64], slots: int, start_scale: int, threshold: float
    ) -> tuple[NDArray[np.uint8], ...]:
        """Make one pair by each chosen model; each is a group of channels, as in training.

        Args:
            chosen: positions of the models.
            seeds: of their noise.
            slots: models that are computed together, at least as many as chosen; the rest is thrown away.
            start_scale: first scale with fresh noise.
            threshold: of the mask.

        Returns:
            Images uint8 (N, H, W, 3) and masks uint8 (N, H, W) of the size of the real pairs.
        """
        count = len(chosen)
        chosen = [*chosen, *[chosen[0]] * (slots - count)]
        randomness = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
        randomness += [torch.Generator().manual_seed(0)] * (slots - count)
        finished, noise = [], []
        for scale, size in enumerate(self._pyramid.sizes):
            weights = [self._read(chosen, f"{scale}.weight.{layer}").flatten(0, 1) for layer in range(_LAYERS)]
            biases = [self._read(chosen, f"{scale}.bias.{layer}").flatten(0, 1) for layer in range(_LAYERS)]
            finished.append(
                FinishedScale(FrozenTrunk(weights, biases, slots), self._read(chosen, f"{scale}.amplitude"))
            )
            fresh = draw_noise(1, scale, size, randomness).to(self.device)
            if scale >= start_scale:
                noise.append(fresh)
            elif scale == 0:
                noise.append(self._read(chosen, "noise").expand(-1, CHANNELS, -1, -1).reshape(1, -1, *size))
            else:
                noise.append(torch.zeros_like(fresh))
        made = through(finished, self._pyramid, noise, truncate=self._truncate)
        pictures = made.view(slots, CHANNELS, *made.shape[2:])[:count]
        if pictures.shape[2:] != self._size:
            pictures = nn.functional.interpolate(pictures.clamp(-1, 1), self._size, mode="bicubic")
        return to_bytes(pictures, threshold, self._size[1], "bicubic")

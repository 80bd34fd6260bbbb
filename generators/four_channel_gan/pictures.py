"""Pairs as four-channel pictures: image and mask together, the mask last, floats in [-1, 1]."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from harness.learning import PairSet

CHANNELS = 4


class RealPictures:
    """All real pairs of a fit as one uint8 tensor on the device, of which steps take batches.

    A thousand pairs take 17 MB at 64 px and 262 MB at 256 px.
    """

    def __init__(
        self,
        pairs: PairSet,
        resolution: int,
        device: torch.device,
        *,
        antialias: bool = True,
        premultiplied: bool = False,
    ) -> None:
        """Pack the pairs, reduced to ``resolution`` pixels a side when they are larger.

        Args:
            pairs: square pairs.
            resolution: side in pixels, at most that of the pairs.
            device: where to keep them.
            antialias: average the pixels that become one; otherwise bilinear between the nearest four, as torchvision
                resized tensors until 2023. The mask is reduced likewise, so that its edges become soft.
            premultiplied: set images to black outside their mask. Pillow resizes RGBA pictures so: what has alpha 0
                loses its colour.
        """
        packed = torch.empty(
            (len(pairs), CHANNELS, resolution, resolution), dtype=torch.uint8, memory_format=torch.channels_last
        )
        for start in range(0, len(pairs), 64):
            part = slice(start, start + 64)
            images = torch.from_numpy(np.array(pairs.images[part])).permute(0, 3, 1, 2)
            masks = torch.from_numpy(np.array(pairs.masks[part]))[:, None]
            if premultiplied:
                images = images * masks
            pictures = torch.cat([images, masks * 255], dim=1)
            if resolution != pictures.shape[-1]:
                size = (resolution, resolution)
                pictures = nn.functional.interpolate(pictures.float(), size, mode="bilinear", antialias=antialias)
                pictures = pictures.round().clamp(0, 255)
            packed[part] = pictures
        self.pictures = packed.to(device)

    def __len__(self) -> int:
        return len(self.pictures)

    def batch(self, positions: Tensor) -> Tensor:
        """Return the pictures at ``positions``, int64 on their device: float (N, 4, H, W) in [-1, 1], channels last."""
        chosen = self.pictures[positions]
        return chosen.float().div_(127.5).sub_(1).contiguous(memory_format=torch.channels_last)


def random_windows(pictures: Tensor, top: Tensor, left: Tensor, height: int, width: int) -> Tensor:
    """Cut one window out of each picture.

    Args:
        pictures: (N, C, H, W).
        top: integers (N,) on the pictures' device, the first row of each window.
        left: integers (N,) there, its first column.
        height: of the windows, in pixels.
        width: likewise.

    Returns:
        (N, C, height, width), differentiable.
    """
    device = pictures.device
    rows = torch.arange(height, device=device) + top[:, None]
    columns = torch.arange(width, device=device) + left[:, None]
    item = torch.arange(len(pictures), device=device)[:, None, None]
    return pictures.permute(0, 2, 3, 1)[item, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _enlarged(side: int, times: float) -> int:
    """Return the side of an enlarged picture: a pixel more, as in paper B's code."""
    return round(side * times) + 1


def draw_crops(count: int, side: int, enlarged: float, randomness: torch.Generator) -> Tensor:
    """Draw the corners of the windows that :func:`crop` cuts out of ``count`` pictures: int64 (2, count)."""
    return torch.randint(0, _enlarged(side, enlarged) - side + 1, (2, count), generator=randomness)


def crop(pictures: Tensor, enlarged: float, corners: Tensor) -> Tensor:
    """Enlarge pictures (N, C, S, S) ``enlarged`` times and cut S x S out at ``corners`` (2, N), rows first."""
    side = pictures.shape[-1]
    larger = _enlarged(side, enlarged)
    pictures = nn.functional.interpolate(pictures, (larger, larger), mode="bilinear", antialias=True)
    return random_windows(pictures, corners[0], corners[1], side, side)


def to_bytes(pictures: Tensor, mask_threshold: float, size: int, enlarge: str) -> tuple[NDArray[np.uint8], ...]:
    """Turn pictures into images and masks.

    Args:
        pictures: float (N, 4, h, h); what lies outside [-1, 1] is cut.
        mask_threshold: in (0, 1); a mask pixel is polyp where the last channel, moved to [0, 1], is above it.
        size: side in pixels of what is returned, at least h.
        enlarge: ``bicubic`` or ``nearest``, when ``size`` is larger; the mask is thresholded afterwards.

    Returns:
        Images uint8 (N, size, size, 3) and masks uint8 (N, size, size) in {0, 1}.
    """
    pictures = pictures.float().clamp(-1, 1)
    if pictures.shape[-1] != size:
        pictures = nn.functional.interpolate(pictures, (size, size), mode=enlarge)
    images = ((pictures[:, :3] + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    masks = ((pictures[:, 3] + 1) / 2 > mask_threshold).to(torch.uint8)
    return images.permute(0, 2, 3, 1).contiguous().cpu().numpy(), masks.contiguous().cpu().numpy()

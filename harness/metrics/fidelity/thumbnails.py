"""Small averaged pictures: a description of images that needs no network and no weights."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from harness.metrics.features.extract import Images


def thumbnails(images: Images, side: int) -> NDArray[np.float32]:
    """Return each image averaged over ``side`` x ``side`` boxes, float32 (N, side, side, channels), 0 to 255.

    Args:
        images: uint8 (N, H, W, channels), or N arrays of any sizes; larger pictures are averaged, smaller ones
            repeated.
        side: in pixels.
    """
    from PIL import Image

    small: list[NDArray[np.float32]] = []
    for image in images:
        channels = [
            np.asarray(Image.fromarray(image[..., c].astype(np.float32)).resize((side, side), Image.Resampling.BOX))
            for c in range(image.shape[-1])
        ]
        small.append(np.stack(channels, axis=-1))
    return np.stack(small)

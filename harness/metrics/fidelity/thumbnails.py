"""Small averaged pictures: a description of images that needs no network and no weights, and the distance of such."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from harness.metrics.features.extract import Images
from harness.metrics.spec import FidelityMetric, Sets, Values


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


def _compute(sets: Sets) -> Values:
    from harness.metrics.fidelity.frechet import frechet_distance

    def describe(images: Images, masks: NDArray[np.uint8]) -> NDArray[np.float32]:
        small = thumbnails(np.asarray(masks)[..., None] * np.uint8(255), 8)
        both = np.concatenate([thumbnails(images, 8), small], axis=-1)
        return (both.reshape(len(both), -1) / 255).astype(np.float32)

    value = frechet_distance(
        describe(sets.real.images, sets.real.masks), describe(sets.synthetic.images, sets.synthetic.masks)
    )
    return {"thumbnail-distance": value, "network": "pixels-8"}


THUMBNAIL_DISTANCE = FidelityMetric(
    name="thumbnail-distance",
    label="Thumbnail distance",
    heading="Thumbnail\ndistance",
    on="pairs",
    better="lower",
    lower=0.0,
    digits=3,
    order=90,
    definition="Fréchet distance between image and mask averaged to 8x8 pixels; needs no weights and is no FID.",
    compute=_compute,
)

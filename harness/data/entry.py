"""One frame of a dataset as the index on disk has it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """One pair of a dataset, as its index knows it.

    Attributes:
        id: bare name, without the dataset.
        image: path of the image file, relative to the dataset's folder.
        mask: path of the mask file.
        width: native, in pixels.
        height: native, in pixels.
        polyp_fraction: share of the native mask that is polyp, 0 to 1.
        group: bare name; near-duplicates share one, and so do the images of a given group (patient, video).
        fingerprint: 64-bit perceptual hash, 16 hexadecimal digits.
        sha256: of the contents of image and mask.
    """

    id: str
    image: str
    mask: str
    width: int
    height: int
    polyp_fraction: float
    group: str
    fingerprint: str
    sha256: str

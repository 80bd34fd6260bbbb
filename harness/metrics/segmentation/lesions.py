"""Polyps found, one by one: detection rate and false positives.

A polyp is a connected piece of the true mask, corners touching. It is found when its IoU with the predicted pieces that
touch it, taken together, is at least 0.5: mask IoU as the localisation criterion, with its usual cut-off (Maier-Hein,
Reinke et al. 2024, Metrics reloaded, arXiv 2206.01653). Pieces are taken together so that a polyp that is predicted in
two halves is found. A prediction of the whole frame finds nothing, and one piece over two polyps finds none of them
unless one of them makes up half of it. A predicted piece that touches no polyp, not in one pixel, is a false positive.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.metrics.segmentation.mask_batch import MaskBatch
from harness.metrics.spec import Fraction, SegmentationMetric

#: Pixels that touch at a corner are connected.
CONNECTED = np.ones((3, 3), dtype=np.uint8)

#: IoU with what touches it from which a polyp is found.
FOUND = 0.5


class Lesions(NamedTuple):
    """Connected pieces in each of N images, float64 (N,) each.

    Attributes:
        there: polyps.
        found: polyps that are found.
        false: predicted pieces that touch no polyp.
    """

    there: NDArray[np.float64]
    found: NDArray[np.float64]
    false: NDArray[np.float64]


def count_lesions(predicted: NDArray[np.uint8], truth: NDArray[np.uint8]) -> Lesions:
    """Count polyps and predicted pieces, masks uint8 (N, H, W) in {0, 1} both."""
    counted = [_count(p, t) for p, t in zip(predicted, truth, strict=True)]
    return Lesions(*np.array(counted, dtype=np.float64).reshape(-1, 3).T)


def _count(predicted: NDArray[np.uint8], truth: NDArray[np.uint8]) -> tuple[int, int, int]:
    """Return how many polyps one image has, how many are found, and how many predicted pieces touch none."""
    from scipy.ndimage import label

    true_pieces, there = label(truth, structure=CONNECTED)
    pieces, predictions = label(predicted, structure=CONNECTED)
    if not there or not predictions:
        return there, 0, predictions
    shape = (there + 1, predictions + 1)
    # Pixels that each polyp shares with each predicted piece; row and column 0 are background.
    either = (truth | predicted) != 0
    pairs = np.ravel_multi_index((true_pieces[either], pieces[either]), shape)
    shared = np.bincount(pairs, minlength=shape[0] * shape[1]).reshape(shape)
    areas, predicted_areas = shared.sum(axis=1)[1:], shared.sum(axis=0)[1:]
    shared = shared[1:, 1:]
    intersections = shared.sum(axis=1)
    unions = areas + (shared > 0) @ predicted_areas - intersections
    return there, int((intersections >= FOUND * unions).sum()), int((~shared.any(axis=0)).sum())


def lesions(masks: MaskBatch) -> Lesions:
    """Return the connected pieces of a batch that are there, that are found, and that are predicted beside them."""
    return count_lesions(masks.predicted, masks.truth)


def _detection(masks: MaskBatch) -> Fraction:
    counted = masks.once(lesions)
    return Fraction(counted.found, counted.there)


def _false_positives(masks: MaskBatch) -> Fraction:
    return Fraction(masks.once(lesions).false, np.ones(len(masks)))


DETECTION_RATE = SegmentationMetric(
    name="detection-rate",
    label="Detection rate",
    heading="Polyps\nfound",
    better="higher",
    lower=0.0,
    upper=1.0,
    table="scores-clinical",
    order=70,
    by_size=True,
    definition="Share of polyps whose IoU with the predicted pieces that touch them is at least 0.5.",
    source="Maier-Hein, Reinke et al. 2024, Metrics reloaded, arXiv 2206.01653",
    note="Polyps found: share of the polyps (connected pieces) whose IoU with the predicted pieces that touch them is "
    "at least 0.5.",
    fraction=_detection,
    undefined="left-out",
    reduction="micro",
)

FALSE_POSITIVES = SegmentationMetric(
    name="false-positives",
    label="False positives an image",
    heading="False positives\nan image",
    better="lower",
    lower=0.0,
    table="scores-clinical",
    order=80,
    definition="Predicted pieces an image that touch no polyp.",
    note="False positives: predicted pieces that touch no polyp.",
    fraction=_false_positives,
    micro=False,
)

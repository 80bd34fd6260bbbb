"""Scores of the pixels that agree: IoU, F1 (Dice), accuracy, precision, recall, Dice loss.

The formulas are those of ``segmentation_models_pytorch.metrics`` (0.6.0).
"""

from __future__ import annotations

import numpy as np

from harness.metrics.segmentation.confusion import COLUMNS
from harness.metrics.segmentation.mask_batch import MaskBatch
from harness.metrics.spec import Fraction, SegmentationMetric


def _of_counts(masks: MaskBatch, above: tuple[int, int, int, int], below: tuple[int, int, int, int]) -> Fraction:
    """Return a fraction of weighted counts; the weights are those of tp, fp, fn, tn."""
    counts = masks.counts.astype(np.float64)
    assert counts.shape[1] == len(COLUMNS)
    return Fraction(counts @ np.array(above, np.float64), counts @ np.array(below, np.float64))


def _below_half(masks: MaskBatch) -> Fraction:
    """Count an image whose IoU is below 0.5; one where neither mask has a pixel has no IoU."""
    tp, fp, fn, _ = masks.counts.T
    return Fraction((2 * tp < tp + fp + fn).astype(np.float64), (tp + fp + fn > 0).astype(np.float64))


IOU = SegmentationMetric(
    name="iou",
    label="IoU",
    better="higher",
    lower=0.0,
    upper=1.0,
    order=10,
    by_size=True,
    definition="Intersection over union: tp / (tp + fp + fn).",
    source="Jaccard 1912",
    fraction=lambda masks: _of_counts(masks, (1, 0, 0, 0), (1, 1, 1, 0)),
)

F1 = SegmentationMetric(
    name="f1",
    label="F1",
    heading="F1\n(Dice)",
    aliases=("dice",),
    better="higher",
    lower=0.0,
    upper=1.0,
    order=20,
    by_size=True,
    definition="F1, which is Dice's coefficient: 2 tp / (2 tp + fp + fn).",
    source="Dice 1945",
    fraction=lambda masks: _of_counts(masks, (2, 0, 0, 0), (2, 1, 1, 0)),
)

ACCURACY = SegmentationMetric(
    name="accuracy",
    label="Accuracy",
    better="higher",
    lower=0.0,
    upper=1.0,
    order=30,
    definition="Share of pixels that are right: (tp + tn) / (tp + fp + fn + tn).",
    fraction=lambda masks: _of_counts(masks, (1, 0, 0, 1), (1, 1, 1, 1)),
)

PRECISION = SegmentationMetric(
    name="precision",
    label="Precision",
    better="higher",
    lower=0.0,
    upper=1.0,
    order=40,
    definition="Share of predicted pixels that are polyp: tp / (tp + fp).",
    fraction=lambda masks: _of_counts(masks, (1, 0, 0, 0), (1, 1, 0, 0)),
)

RECALL = SegmentationMetric(
    name="recall",
    label="Recall",
    better="higher",
    lower=0.0,
    upper=1.0,
    order=50,
    definition="Share of polyp pixels that are predicted: tp / (tp + fn).",
    fraction=lambda masks: _of_counts(masks, (1, 0, 0, 0), (1, 0, 1, 0)),
)

DICE_LOSS = SegmentationMetric(
    name="dice-loss",
    label="Dice loss",
    better="lower",
    lower=0.0,
    upper=1.0,
    order=60,
    definition="1 - F1: (fp + fn) / (2 tp + fp + fn).",
    fraction=lambda masks: _of_counts(masks, (0, 1, 1, 0), (2, 1, 1, 0)),
    undefined="one-minus-zero-division",
)

IOU_BELOW_HALF = SegmentationMetric(
    name="iou-below-half",
    label="IoU below 0.5",
    heading="IoU\nbelow 0.5",
    better="lower",
    lower=0.0,
    upper=1.0,
    table="scores-clinical",
    order=90,
    by_size=True,
    definition="Share of images with an IoU below 0.5.",
    fraction=_below_half,
    undefined="one-minus-zero-division",
    micro=False,
)

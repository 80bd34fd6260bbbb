"""Agreement: whether a synthetic image and its mask belong together.

A segmenter that was trained on real pairs predicts the synthetic images. How well it agrees with the synthetic masks
says whether the mask marks what the image shows: a segmenter that learns from masks that do not, learns nothing.
Judging synthetic data by a model trained on real data is known from classes as the GAN-test (Shmelkov, Schmid and
Alahari, How good is my GAN?, 2018); here it is done for masks.

The number needs two others beside it. *Chance* is what the same predictions score with the masks of other images:
large masks in the middle of the frame agree with each other, whatever the images show. The *ceiling* is what real pairs
that the segmenter was not trained on score.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.errors import DeclarationError
from harness.metrics.fidelity.masks import shows_masks
from harness.metrics.segmentation.confusion import confusion, intersection_over_union
from harness.metrics.spec import FidelityMetric, Quantity, Sets, Values

#: Pixels of masks that are multiplied at once as float32: 64 MiB a side.
_AT_ONCE = 2**24


@dataclass(frozen=True)
class Agreement:
    """How well predictions agree with the masks of their images, as IoU (0 to 1, higher is better).

    Attributes:
        value: mean over the pairs that count; NaN when none does.
        chance: the same over all predictions with the masks of all *other* images; NaN when none counts.
        pairs: how many pairs count: those of which the mask or the prediction is not empty.
    """

    value: float
    chance: float
    pairs: int


def agreement(predictions: NDArray[np.uint8], masks: NDArray[np.uint8]) -> Agreement:
    """Compare predictions with the masks that the images came with, and with those of all other images.

    A prediction and a mask that are both empty say nothing and are left out; when only one of them is, their IoU is 0.

    Args:
        predictions: uint8 (N, H, W) in {0, 1}.
        masks: uint8 (N, H, W) in {0, 1}, in the same order.

    Raises:
        ValueError: the shapes differ, or a value is neither 0 nor 1.
    """
    scores = intersection_over_union(confusion(predictions, masks), float("nan"))
    counted = scores[~np.isnan(scores)]
    value = float(counted.mean()) if len(counted) else float("nan")
    return Agreement(value, _chance(predictions, masks), len(counted))


def _chance(predictions: NDArray[np.uint8], masks: NDArray[np.uint8]) -> float:
    """Return the mean IoU of each prediction with the mask of each other image; NaN when all are empty.

    The pixels that both hold are one matrix product, exact in float32 for masks of fewer than 2**24 pixels.
    """
    left, right = (np.asarray(m).reshape(len(m), -1) for m in (predictions, masks))
    left_areas, right_areas = (m.sum(axis=1, dtype=np.int64) for m in (left, right))
    total, count = 0.0, 0
    for rows in _blocks(*left.shape):
        some = left[rows].astype(np.float32)
        for columns in _blocks(*right.shape):
            both = (some @ right[columns].astype(np.float32).T).astype(np.float64)
            either = left_areas[rows, None] + right_areas[None, columns] - both
            others = np.arange(len(left))[rows, None] != np.arange(len(right))[None, columns]
            says = (either > 0) & others
            total += float((both[says] / either[says]).sum())
            count += int(says.sum())
    return total / count if count else float("nan")


def _blocks(count: int, pixels: int) -> Iterator[slice]:
    """Yield slices of ``count`` masks that hold no more pixels than are multiplied at once."""
    step = max(1, _AT_ONCE // max(1, pixels))
    return (slice(start, start + step) for start in range(0, count, step))


def _compute(sets: Sets) -> Values:
    if sets.segmenter is None:
        raise DeclarationError("agreement asks a segmenter that was trained on real pairs, and none was given.")
    pairs, label = sets.synthetic, sets.segmenter.label
    if shows_masks(pairs):
        note = "The images are the masks as grey pictures, so that there is no telling whether they belong together."
        return {"agreement": float("nan"), "network": label, "notes": note}
    found = agreement(sets.segmenter(np.asarray(pairs.images)), pairs.masks)
    note = f"With the masks of other images the same predictions agree {found.chance:.4f} (chance)."
    if found.pairs < len(pairs):
        note += f" Pairs left out, since mask and prediction are empty: {len(pairs) - found.pairs}."
    if not found.pairs:
        note = "Every mask and every prediction is empty, so there is no value."
    beside: Values = {"agreement-chance": found.chance, "agreement-pairs": found.pairs}
    return {"agreement": found.value, **beside, "network": label, "notes": note}


AGREEMENT = FidelityMetric(
    name="agreement",
    label="Agreement",
    on="pairs",
    better="higher",
    lower=0.0,
    upper=1.0,
    digits=3,
    order=100,
    definition="Mean IoU of the synthetic masks with what a segmenter trained on real pairs predicts on their images.",
    source="after the GAN-test of Shmelkov, Schmid and Alahari 2018",
    note="Agreement: mean IoU of the masks with what a segmenter trained on real pairs ({networks}) predicts on their "
    "images; by chance: with the masks of other images. Images and masks belong together as far as the first is above "
    "the second; real images show how far that can be.",
    compute=_compute,
    needs_segmenter=True,
    beside=(
        Quantity(
            name="agreement-chance",
            label="Agreement by chance",
            heading="Agreement\nby chance",
            lower=0.0,
            upper=1.0,
            digits=3,
            table="fidelity",
        ),
        Quantity(name="agreement-pairs", label="Pairs that count for agreement", lower=0, digits=0),
        Quantity(name="agreement-lowest-mask", label="Agreement of the lowest mask", lower=0.0, upper=1.0, digits=3),
    ),
)

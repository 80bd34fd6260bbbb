"""Scores of the pixels that agree, against segmentation_models_pytorch, torchmetrics and closed forms."""

import math

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional import classification as tm

from harness.metrics.segmentation.confusion import confusion
from harness.metrics.segmentation.mask_batch import MaskBatch
from harness.metrics.segmentation.overlap import (
    ACCURACY,
    DICE_LOSS,
    F1,
    IOU,
    IOU_BELOW_HALF,
    PRECISION,
    RECALL,
)
from harness.metrics.segmentation.scores import fractions, image_scores, reduce, reduce_all
from tests.fixtures.random_masks import mask_batches

ALL = [IOU, F1, ACCURACY, PRECISION, RECALL, DICE_LOSS]
REFERENCE = {
    "iou": smp.metrics.iou_score,
    "f1": smp.metrics.f1_score,
    "accuracy": smp.metrics.accuracy,
    "precision": smp.metrics.precision,
    "recall": smp.metrics.recall,
}
ZERO_DIVISION = st.sampled_from([0.0, 1.0, math.nan])


def scored(masks, zero_division=1.0, metrics=ALL):
    return reduce_all(metrics, fractions(MaskBatch(*masks), metrics), zero_division)


@settings(max_examples=150, deadline=None)
@given(mask_batches(), ZERO_DIVISION)
def test_scores_equal_smp(masks, zero_division):
    sides = [torch.from_numpy(side).long()[:, None] for side in masks]
    stats = smp.metrics.get_stats(*sides, mode="binary")
    parts, scores = fractions(MaskBatch(*masks), ALL), scored(masks, zero_division)
    for metric in (IOU, F1, ACCURACY, PRECISION, RECALL):
        reference = REFERENCE[metric.name]
        each = reference(*stats, reduction=None, zero_division=zero_division).numpy()[:, 0]
        np.testing.assert_allclose(image_scores(metric, parts[metric.name], zero_division), each, atol=1e-6)
        expected_mean = each[~np.isnan(each)].mean() if not np.isnan(each).all() else math.nan
        found = scores[metric.name]
        assert found["micro-imagewise"] == pytest.approx(expected_mean, abs=1e-6, nan_ok=True)
        micro = reference(*stats, reduction="micro").item()
        # smp leaves an undefined micro score nan; ours is zero_division.
        expected_micro = zero_division if math.isnan(micro) else micro
        assert found["micro"] == pytest.approx(expected_micro, abs=1e-6, nan_ok=True)


@settings(max_examples=50, deadline=None)
@given(mask_batches())
def test_scores_equal_torchmetrics(masks):
    predicted, true = (torch.from_numpy(m) for m in masks)
    scores = scored(masks, zero_division=0.0)
    functions = {
        "iou": tm.binary_jaccard_index,
        "f1": tm.binary_f1_score,
        "accuracy": tm.binary_accuracy,
        "precision": tm.binary_precision,
        "recall": tm.binary_recall,
    }
    for name, function in functions.items():
        assert scores[name]["micro"] == pytest.approx(function(predicted, true).item(), abs=1e-6)


@settings(max_examples=100, deadline=None)
@given(mask_batches(), ZERO_DIVISION)
def test_each_image_has_the_quotient_of_its_counts_to_the_last_digit(masks, zero_division):
    parts = fractions(MaskBatch(*masks), ALL)
    for i, (tp, fp, fn, tn) in enumerate(confusion(*masks).tolist()):
        pairs = {
            "iou": (tp, tp + fp + fn),
            "f1": (2 * tp, 2 * tp + fp + fn),
            "accuracy": (tp + tn, tp + fp + fn + tn),
            "precision": (tp, tp + fp),
            "recall": (tp, tp + fn),
        }
        for metric in (IOU, F1, ACCURACY, PRECISION, RECALL):
            above, below = pairs[metric.name]
            expected = above / below if below else zero_division
            np.testing.assert_array_equal(image_scores(metric, parts[metric.name], zero_division)[i], expected)
        loss = image_scores(DICE_LOSS, parts["dice-loss"], zero_division)[i]
        f1 = image_scores(F1, parts["f1"], zero_division)[i]
        np.testing.assert_allclose(loss, 1 - f1, atol=1e-15)


@settings(max_examples=50, deadline=None)
@given(mask_batches(), st.sampled_from([0.0, 1.0]))
def test_relations_that_always_hold(masks, zero_division):
    scores = scored(masks, zero_division)
    assert list(scores) == [metric.name for metric in ALL]
    for metric in ALL:
        assert set(scores[metric.name]) == {"micro", "micro-imagewise"}
        assert all(metric.lower <= value <= metric.upper for value in scores[metric.name].values())
    iou = scores["iou"]["micro"]
    assert scores["f1"]["micro"] == pytest.approx(2 * iou / (1 + iou))
    for reduction in ("micro", "micro-imagewise"):
        assert scores["dice-loss"][reduction] == pytest.approx(1 - scores["f1"][reduction])
    shuffled = np.random.default_rng(0).permutation(len(masks[0]))
    assert scored([side[shuffled] for side in masks], zero_division)["iou"] == pytest.approx(scores["iou"])


def test_one_image_by_hand():
    true = np.array([[[1, 1, 0, 0], [1, 1, 0, 0]]], np.uint8)
    predicted = np.array([[[0, 1, 1, 0], [0, 1, 0, 0]]], np.uint8)
    values = {name: each["micro"] for name, each in scored((predicted, true)).items()}
    assert values == pytest.approx(
        {"iou": 2 / 5, "f1": 4 / 7, "accuracy": 5 / 8, "precision": 2 / 3, "recall": 2 / 4, "dice-loss": 3 / 7}
    )


@pytest.mark.parametrize(("zero_division", "expected"), [(1.0, 1.0), (0.0, 0.0), (math.nan, math.nan)])
def test_all_empty_set_scores_zero_division_in_both_reductions(zero_division, expected):
    nothing = np.zeros((3, 4, 4), np.uint8)
    scores = scored((nothing, nothing), zero_division)
    for name in ("iou", "f1", "precision", "recall"):
        for reduction in ("micro", "micro-imagewise"):
            assert scores[name][reduction] == pytest.approx(expected, nan_ok=True)
    assert scores["dice-loss"]["micro"] == pytest.approx(1 - expected, nan_ok=True)
    assert scores["dice-loss"]["micro-imagewise"] == pytest.approx(1 - expected, nan_ok=True)
    assert scores["accuracy"] == {"micro": 1.0, "micro-imagewise": 1.0}


@settings(max_examples=100, deadline=None)
@given(mask_batches(), ZERO_DIVISION)
def test_the_share_of_bad_images_is_that_of_ious_below_a_half(masks, zero_division):
    parts = fractions(MaskBatch(*masks), [IOU, IOU_BELOW_HALF])
    ious = image_scores(IOU, parts["iou"], zero_division)
    counted = ious[~np.isnan(ious)]
    expected = (counted < 0.5).mean() if len(counted) else math.nan
    found = reduce(IOU_BELOW_HALF, parts["iou-below-half"], zero_division)
    assert found == {"micro-imagewise": pytest.approx(expected, nan_ok=True)}


def test_an_iou_of_exactly_a_half_is_not_below_it():
    true = np.array([[[1, 1]]], np.uint8)
    predicted = np.array([[[1, 0]]], np.uint8)
    assert scored((predicted, true), metrics=[IOU_BELOW_HALF])["iou-below-half"]["micro-imagewise"] == 0

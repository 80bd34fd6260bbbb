"""Counts of pixels against segmentation_models_pytorch, and what is refused."""

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from hypothesis import given, settings

from harness.metrics.segmentation.confusion import confusion, intersection_over_union
from tests.fixtures.random_masks import mask_batches


@settings(max_examples=150, deadline=None)
@given(mask_batches())
def test_counts_equal_smp(masks):
    counts = confusion(*masks)
    assert counts.dtype == np.int64
    predicted, true = (torch.from_numpy(side).long()[:, None] for side in masks)
    np.testing.assert_array_equal(counts, torch.cat(smp.metrics.get_stats(predicted, true, mode="binary"), 1).numpy())
    assert (counts.sum(axis=1) == masks[0][0].size).all()


def test_one_image_by_hand():
    true = np.array([[[1, 1, 0, 0], [1, 1, 0, 0]]], np.uint8)
    predicted = np.array([[[0, 1, 1, 0], [0, 1, 0, 0]]], np.uint8)
    counts = confusion(predicted, true)
    assert counts.tolist() == [[2, 1, 2, 3]]
    assert intersection_over_union(counts, 1.0).tolist() == [2 / 5]


@pytest.mark.parametrize("empty", [1.0, 0.0, float("nan")])
def test_where_neither_mask_has_a_pixel_the_iou_is_what_is_asked(empty):
    nothing = np.zeros((1, 3, 3), np.uint8)
    np.testing.assert_array_equal(intersection_over_union(confusion(nothing, nothing), empty), [empty])


def test_wrong_masks_are_refused():
    ones = np.ones((1, 2, 2), np.uint8)
    with pytest.raises(ValueError, match=r"\(1, 2, 2\) and \(1, 2, 3\)"):
        confusion(ones, np.ones((1, 2, 3), np.uint8))
    with pytest.raises(ValueError, match="predicted must hold 0 and 1 only"):
        confusion(ones * 255, ones)


def test_counts_do_not_overflow_on_many_pixels():
    ones = np.ones((1, 600, 600), bool)
    assert confusion(ones, ones).tolist() == [[360_000, 0, 0, 0]]

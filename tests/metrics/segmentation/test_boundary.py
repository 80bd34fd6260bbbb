"""Outlines and their distances, against torchmetrics, all pairs of pixels, and closed forms."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.segmentation import hausdorff_distance
from torchmetrics.functional.segmentation.utils import edge_surface_distance

from harness.metrics.segmentation.boundary import (
    HAUSDORFF,
    SURFACE_DICE,
    compare_boundaries,
    in_pixels,
    outline_distances,
)
from harness.metrics.segmentation.mask_batch import MaskBatch
from harness.metrics.segmentation.scores import fractions, image_scores, reduce
from tests.fixtures.random_masks import mask_batches


def outline(mask):
    """Pixels (K, 2) that have a neighbour outside the mask, sharing a side; around the frame is outside."""
    padded = np.pad(mask, 1)
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return np.argwhere(mask & ~inside.astype(bool))


def all_pairs(one, other):
    """Distances of each pixel of an outline to the nearest one of the other."""
    a, b = outline(one), outline(other)
    if not len(b):
        return np.full(len(a), np.inf)
    return np.sqrt(((a[:, None] - b[None]) ** 2).sum(axis=2)).min(axis=1)


@settings(max_examples=150, deadline=None)
@given(mask_batches(most=3, side=12))
def test_distances_are_those_of_all_pairs_of_pixels(masks):
    for predicted, true in zip(*masks, strict=True):
        for found, (one, other) in zip(
            outline_distances(predicted, true), ((predicted, true), (true, predicted)), strict=True
        ):
            np.testing.assert_allclose(np.sort(found), np.sort(all_pairs(one, other)))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(6, 20), st.sampled_from([0.2, 0.6, 0.9]))
def test_distances_equal_torchmetrics(seed, side, level):
    """Of squares only: what torchmetrics 1.9 computes of other shapes is wrong."""
    draw = np.random.default_rng(seed)
    predicted, true = ((draw.random((side, side)) < level).astype(np.uint8) for _ in range(2))
    predicted[0, 0] = true[side // 2, 1] = 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sides = [torch.from_numpy(mask) for mask in (predicted, true)]
        theirs = edge_surface_distance(*sides, symmetric=True)
        largest = hausdorff_distance(*(side[None, None].long() for side in sides), num_classes=1)
    ours = outline_distances(predicted, true)
    for found, expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(np.sort(found), np.sort(expected.numpy()), atol=1e-5)
    assert max(one.max() for one in ours) == pytest.approx(float(largest.max()), abs=1e-5)


@settings(max_examples=100, deadline=None)
@given(mask_batches(most=4, side=12), st.floats(0, 4))
def test_scores_are_those_of_all_pairs_of_pixels(masks, tolerance):
    found = fractions(MaskBatch(*masks, tolerance), [HAUSDORFF, SURFACE_DICE])
    hausdorff = image_scores(HAUSDORFF, found["hausdorff-95"])
    dice = image_scores(SURFACE_DICE, found["surface-dice"], 0.0)
    for i, (predicted, true) in enumerate(zip(*masks, strict=True)):
        sides = all_pairs(predicted, true), all_pairs(true, predicted)
        if not predicted.any() and not true.any():
            expected = (math.nan, 0.0)
        elif not predicted.any() or not true.any():
            expected = (math.hypot(*true.shape), 0.0)
        else:
            within = sum(int((side <= tolerance).sum()) for side in sides)
            expected = (max(np.percentile(side, 95) for side in sides), within / sum(map(len, sides)))
        np.testing.assert_allclose([hausdorff[i], dice[i]], expected)


def square(y, x, side, size=40):
    mask = np.zeros((1, size, size), np.uint8)
    mask[0, y : y + side, x : x + side] = 1
    return mask


def test_a_square_moved_by_three_pixels():
    one, other = square(10, 10, 12), square(10, 13, 12)
    found = compare_boundaries(one, other, 2.0)
    assert found.hausdorff.tolist() == [3.0]
    assert found.length.tolist() == [2 * 44]
    for tolerance, share in ((3.0, 1.0), (0.0, 9 * 2 * 2 / 88)):
        parts = fractions(MaskBatch(one, other, tolerance), [SURFACE_DICE])
        assert image_scores(SURFACE_DICE, parts["surface-dice"])[0] == pytest.approx(share)


def test_one_far_speck_moves_the_largest_distance_and_not_its_95th_percentile():
    true, predicted = square(5, 5, 12), square(5, 5, 12)
    predicted[0, 38, 38] = 1
    distances = outline_distances(predicted[0], true[0])
    assert max(one.max() for one in distances) > 30
    assert compare_boundaries(predicted, true, 1.0).hausdorff.tolist() == [0.0]


def test_what_stands_when_masks_are_empty():
    nothing, some = np.zeros((1, 30, 40), np.uint8), np.zeros((1, 30, 40), np.uint8)
    some[0, 3:9, 4:9] = 1
    masks = MaskBatch(np.concatenate([nothing, some, nothing]), np.concatenate([some, nothing, nothing]))
    parts = fractions(masks, [HAUSDORFF, SURFACE_DICE])
    np.testing.assert_array_equal(image_scores(HAUSDORFF, parts["hausdorff-95"], 1.0), [50.0, 50.0, np.nan])
    assert reduce(HAUSDORFF, parts["hausdorff-95"])["micro-imagewise"] == 50.0
    assert image_scores(SURFACE_DICE, parts["surface-dice"], 1.0).tolist() == [0.0, 0.0, 1.0]


def test_where_the_masks_lie_in_the_frame_changes_nothing():
    draw = np.random.default_rng(5)
    masks = (draw.random((2, 9, 14)) < 0.6).astype(np.uint8)
    expected = [np.sort(side) for side in outline_distances(*masks)]
    for before in ((0, 0), (30, 0), (0, 50), (7, 11)):
        moved = [np.pad(mask, ((before[0], 60), (before[1], 3))) for mask in masks]
        for found, side in zip(outline_distances(*moved), expected, strict=True):
            np.testing.assert_allclose(np.sort(found), side)


def test_a_tolerance_below_one_is_a_share_of_the_longer_side():
    assert in_pixels(0.02, (100, 250)) == 5.0
    assert in_pixels(1, (100, 250)) == 1.0
    assert in_pixels(3.5, (64, 64)) == 3.5
    assert in_pixels(0.0, (64, 64)) == 0.0

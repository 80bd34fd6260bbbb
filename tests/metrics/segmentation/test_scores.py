"""How images become one number: sums, means, sizes of polyps, and what has nothing to divide by."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.metrics.segmentation.mask_batch import MaskBatch
from harness.metrics.segmentation.overlap import DICE_LOSS, IOU
from harness.metrics.segmentation.scores import (
    REDUCTIONS,
    SIZES,
    fractions,
    fractions_of_any_size,
    reduce,
    reductions_of,
    size_limits,
    size_of,
    sizes,
)
from harness.metrics.spec import Fraction, SegmentationMetric, segmentation_metrics


def fraction(*pairs):
    above, below = zip(*pairs, strict=True)
    return Fraction(np.array(above, float), np.array(below, float))


def test_micro_weighs_pixels_and_imagewise_weighs_images():
    found = reduce(IOU, fraction((90, 100), (0, 1)))
    assert found == pytest.approx({"micro": 90 / 101, "micro-imagewise": (0.9 + 0) / 2})


def test_nan_leaves_undefined_images_out_of_the_mean():
    parts = fraction((0, 0), (4, 8))
    assert reduce(IOU, parts, math.nan)["micro-imagewise"] == 0.5
    assert reduce(IOU, parts, 1.0)["micro-imagewise"] == 0.75
    assert reduce(DICE_LOSS, parts, 1.0)["micro-imagewise"] == 0.25
    assert reduce(DICE_LOSS, parts, 0.0)["micro-imagewise"] == 0.75


def test_a_score_that_leaves_images_out_does_so_whatever_zero_division():
    metric = SegmentationMetric(
        name="one", label="One", definition="", fraction=lambda masks: fraction((1, 1)), undefined="left-out"
    )
    for zero_division in (0.0, 1.0, math.nan):
        assert reduce(metric, fraction((0, 0), (1, 4)), zero_division)["micro-imagewise"] == 0.25
        assert math.isnan(reduce(metric, fraction((0, 0)), zero_division)["micro"])


def test_each_size_is_the_mean_over_its_images():
    parts = fraction((1, 10), (2, 10), (3, 10), (4, 10), (5, 10))
    found = reduce(IOU, parts, 1.0, ["small", "large", "", "small", "large"])
    assert found == pytest.approx(
        {"micro": 0.3, "micro-imagewise": 0.3, "micro-imagewise-small": 0.25, "micro-imagewise-medium": math.nan,
         "micro-imagewise-large": 0.35},
        nan_ok=True,
    )  # fmt: skip


def test_terciles_part_the_polyps_of_the_fit_role_into_thirds_and_leave_empty_masks_out():
    areas = np.random.default_rng(0).permutation(np.r_[np.zeros(7), np.arange(1, 301) / 1000])
    found = sizes(areas, size_limits(areas))
    assert [found.count(size) for size in (*SIZES, "")] == [100, 100, 100, 7]
    by_size = [areas[np.array(found) == size] for size in SIZES]
    assert by_size[0].max() < by_size[1].min() <= by_size[1].max() < by_size[2].min()
    assert set(areas[np.array(found) == ""]) == {0.0}


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.lists(st.floats(0, 1), max_size=30))
def test_every_polyp_has_one_size_and_only_polyps_have(areas, fit):
    found = sizes(np.array(areas), size_limits(np.array(fit)))
    assert all((size in SIZES) == (area > 0) for size, area in zip(found, areas, strict=True))
    order = [SIZES.index(size) for _, size in sorted(zip(areas, found, strict=True)) if size]
    assert order == sorted(order)


def test_names_of_reductions_lead_back_to_their_sizes():
    assert [size_of(name) for name in REDUCTIONS] == ["", "", *SIZES]
    assert reductions_of(IOU) == list(REDUCTIONS)
    without = [metric for metric in segmentation_metrics().values() if not metric.micro]
    assert all(reductions_of(metric) == [name for name in REDUCTIONS if name != "micro"] for metric in without)
    assert all(metric.reduction in reductions_of(metric) for metric in segmentation_metrics().values())


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match=r"1, 0 or nan, got 0\.5"):
        reduce(IOU, fraction((1, 2)), 0.5)
    with pytest.raises(ValueError, match="at least one image"):
        reduce(IOU, Fraction(np.zeros(0), np.zeros(0)))
    ones = np.ones((3, 2, 2), np.uint8)
    odd = SegmentationMetric(name="odd", label="Odd", definition="", fraction=lambda masks: fraction((1, 1)))
    with pytest.raises(ValueError, match=r"odd must return a numerator and a denominator for each of 3 images"):
        fractions(MaskBatch(ones, ones), [odd])


def test_masks_of_several_sizes_score_as_they_do_size_by_size():
    draw = np.random.default_rng(3)
    shapes = [(8, 8), (9, 12), (8, 8), (20, 6)]
    predicted, true = ([(draw.random(shape) < 0.4).astype(np.uint8) for shape in shapes] for _ in range(2))
    metrics = list(segmentation_metrics().values())
    found = fractions_of_any_size(predicted, true, metrics, 0.1)
    for metric in metrics:
        alone = [
            fractions(MaskBatch(p[None], t[None], 0.1 * max(t.shape)), [metric])[metric.name]
            for p, t in zip(predicted, true, strict=True)
        ]
        together = reduce(metric, found[metric.name])
        joined = Fraction(*(np.concatenate(parts) for parts in zip(*alone, strict=True)))
        assert together == pytest.approx(reduce(metric, joined), nan_ok=True)

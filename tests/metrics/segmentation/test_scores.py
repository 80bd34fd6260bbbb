"""Segmentation scores against segmentation_models_pytorch, torchmetrics and closed forms."""

import io
import math
import zipfile

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchmetrics.functional import classification as tm

from harness.errors import DataError
from harness.metrics.segmentation.scores import (
    METRICS,
    compare_folders,
    confusion,
    describe_zero_division,
    per_image_scores,
    segmentation_scores,
)

REFERENCE = {
    "iou": smp.metrics.iou_score,
    "f1": smp.metrics.f1_score,
    "accuracy": smp.metrics.accuracy,
    "precision": smp.metrics.precision,
    "recall": smp.metrics.recall,
}


@st.composite
def mask_batches(draw):
    """Random masks, from empty to full, so that every division by zero happens."""
    n, h, w = draw(st.integers(1, 6)), draw(st.integers(1, 9)), draw(st.integers(1, 9))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    levels = st.lists(st.sampled_from([0.0, 0.1, 0.5, 1.0]), min_size=n, max_size=n)
    return tuple(
        (rng.random((n, h, w)) < np.array(draw(levels))[:, None, None]).astype(np.uint8) for _ in ("predicted", "true")
    )


def reference_stats(predicted, true):
    return smp.metrics.get_stats(
        torch.from_numpy(predicted).long()[:, None], torch.from_numpy(true).long()[:, None], mode="binary"
    )


@settings(max_examples=150, deadline=None)
@given(mask_batches())
def test_counts_equal_smp(masks):
    counts = confusion(*masks)
    assert counts.dtype == np.int64
    np.testing.assert_array_equal(counts, torch.cat(reference_stats(*masks), dim=1).numpy())


@settings(max_examples=150, deadline=None)
@given(mask_batches(), st.sampled_from([0.0, 1.0, math.nan]))
def test_scores_equal_smp(masks, zero_division):
    counts = confusion(*masks)
    stats = reference_stats(*masks)
    images, scores = per_image_scores(counts, zero_division), segmentation_scores(counts, zero_division)
    for name, reference in REFERENCE.items():
        each = reference(*stats, reduction=None, zero_division=zero_division).numpy()[:, 0]
        np.testing.assert_allclose(images[name], each, atol=1e-6)
        expected_mean = each[~np.isnan(each)].mean() if not np.isnan(each).all() else math.nan
        assert scores[name]["micro-imagewise"] == pytest.approx(expected_mean, abs=1e-6, nan_ok=True)
        micro = reference(*stats, reduction="micro").item()
        # smp leaves an undefined micro score nan; ours is zero_division.
        expected_micro = zero_division if math.isnan(micro) else micro
        assert scores[name]["micro"] == pytest.approx(expected_micro, abs=1e-6, nan_ok=True)


@settings(max_examples=50, deadline=None)
@given(mask_batches())
def test_scores_equal_torchmetrics(masks):
    predicted, true = (torch.from_numpy(m) for m in masks)
    scores = segmentation_scores(confusion(*masks), zero_division=0.0)
    functions = {
        "iou": tm.binary_jaccard_index,
        "f1": tm.binary_f1_score,
        "accuracy": tm.binary_accuracy,
        "precision": tm.binary_precision,
        "recall": tm.binary_recall,
    }
    for name, function in functions.items():
        assert scores[name]["micro"] == pytest.approx(function(predicted, true).item(), abs=1e-6)


@settings(max_examples=50, deadline=None)
@given(mask_batches(), st.sampled_from([0.0, 1.0]))
def test_relations_that_always_hold(masks, zero_division):
    counts = confusion(*masks)
    assert (counts.sum(axis=1) == masks[0][0].size).all()
    scores = segmentation_scores(counts, zero_division)
    assert list(scores) == list(METRICS) == ["iou", "f1", "accuracy", "precision", "recall", "dice-loss"]
    for name, metric in METRICS.items():
        assert set(scores[name]) == {"micro", "micro-imagewise"}
        assert all(metric.lower <= value <= metric.upper for value in scores[name].values())
    iou = scores["iou"]["micro"]
    assert scores["f1"]["micro"] == pytest.approx(2 * iou / (1 + iou))
    for reduction in ("micro", "micro-imagewise"):
        assert scores["dice-loss"][reduction] == pytest.approx(1 - scores["f1"][reduction])
    shuffled = np.random.default_rng(0).permutation(len(counts))
    reordered = segmentation_scores(counts[shuffled], zero_division)
    assert reordered["iou"] == pytest.approx(scores["iou"])


def test_one_image_by_hand():
    true = np.array([[[1, 1, 0, 0], [1, 1, 0, 0]]], np.uint8)
    predicted = np.array([[[0, 1, 1, 0], [0, 1, 0, 0]]], np.uint8)
    counts = confusion(predicted, true)
    assert counts.tolist() == [[2, 1, 2, 3]]
    values = {name: each["micro"] for name, each in segmentation_scores(counts).items()}
    assert values == pytest.approx(
        {"iou": 2 / 5, "f1": 4 / 7, "accuracy": 5 / 8, "precision": 2 / 3, "recall": 2 / 4, "dice-loss": 3 / 7}
    )


def test_micro_weighs_pixels_and_imagewise_weighs_images():
    counts = np.array([[90, 10, 0, 0], [0, 1, 0, 99]])
    iou = segmentation_scores(counts)["iou"]
    assert iou["micro"] == pytest.approx(90 / 101)
    assert iou["micro-imagewise"] == pytest.approx((0.9 + 0) / 2)


@pytest.mark.parametrize(("zero_division", "expected"), [(1.0, 1.0), (0.0, 0.0), (math.nan, math.nan)])
def test_all_empty_set_scores_zero_division_in_both_reductions(zero_division, expected):
    counts = confusion(np.zeros((3, 4, 4), np.uint8), np.zeros((3, 4, 4), np.uint8))
    scores = segmentation_scores(counts, zero_division)
    for name in ("iou", "f1", "precision", "recall"):
        for reduction in ("micro", "micro-imagewise"):
            assert scores[name][reduction] == pytest.approx(expected, nan_ok=True)
    assert scores["dice-loss"]["micro"] == pytest.approx(1 - expected, nan_ok=True)
    assert scores["accuracy"] == {"micro": 1.0, "micro-imagewise": 1.0}


def test_nan_leaves_undefined_images_out_of_the_mean():
    counts = np.array([[0, 0, 0, 16], [4, 4, 0, 8]])
    assert segmentation_scores(counts, math.nan)["iou"]["micro-imagewise"] == 0.5
    assert segmentation_scores(counts, 1.0)["iou"]["micro-imagewise"] == 0.75
    assert "left out" in describe_zero_division(math.nan)
    assert "counts as 1" in describe_zero_division(1.0)


def test_wrong_arguments_are_refused():
    ones = np.ones((1, 2, 2), np.uint8)
    with pytest.raises(ValueError, match=r"\(1, 2, 2\) and \(1, 2, 3\)"):
        confusion(ones, np.ones((1, 2, 3), np.uint8))
    with pytest.raises(ValueError, match="predicted must hold 0 and 1 only"):
        confusion(ones * 255, ones)
    with pytest.raises(ValueError, match=r"1, 0 or nan, got 0\.5"):
        per_image_scores(confusion(ones, ones), 0.5)
    with pytest.raises(ValueError, match="at least one image"):
        segmentation_scores(np.zeros((0, 4), np.int64))


def test_counts_do_not_overflow_on_many_pixels():
    ones = np.ones((1, 600, 600), bool)
    assert confusion(ones, ones).tolist() == [[360_000, 0, 0, 0]]


@pytest.fixture
def masks():
    rng = np.random.default_rng(1)
    return {f"frame-{i}": (rng.random((12, 10)) < 0.4) for i in range(4)}


def write(folder, masks, suffix=".png", high=255, low=0):
    folder.mkdir()
    for name, mask in masks.items():
        Image.fromarray(np.where(mask, high, low).astype(np.uint8)).save(folder / f"{name}{suffix}")
    return folder


def test_folders_score_as_their_arrays_do(tmp_path, masks):
    predicted = {name: np.roll(mask, 1, axis=0) for name, mask in masks.items()}
    expected = segmentation_scores(confusion(np.stack(list(predicted.values())), np.stack(list(masks.values()))))
    # Any two values, any format, any order of files.
    found = compare_folders(
        write(tmp_path / "p", predicted, ".bmp", 1),
        write(tmp_path / "t", dict(reversed(masks.items())), high=200, low=50),
    )
    assert found == expected


def test_zip_and_jpeg_and_colour_are_read(tmp_path, masks):
    smooth = {"a": np.pad(np.ones((16, 16), bool), 24), "b": np.zeros((64, 64), bool)}
    with zipfile.ZipFile(tmp_path / "true.zip", "w") as archive:
        for name, mask in smooth.items():
            stream = io.BytesIO()
            Image.fromarray(np.repeat(np.uint8(mask)[..., None] * 255, 3, axis=2)).save(stream, "JPEG", quality=85)
            archive.writestr(f"masks/{name}.jpg", stream.getvalue())
            archive.writestr(f"__MACOSX/masks/._{name}.jpg", b"not an image")
    scores = compare_folders(write(tmp_path / "p", smooth), tmp_path / "true.zip")
    assert scores["iou"] == {"micro": 1.0, "micro-imagewise": 1.0}


def test_every_problem_is_named_at_once(tmp_path, masks):
    predicted, true = write(tmp_path / "p", masks), write(tmp_path / "t", masks)
    (predicted / "frame-0.png").rename(predicted / "frame-O.png")
    Image.fromarray(np.zeros((5, 10), np.uint8)).save(predicted / "frame-1.png")
    Image.fromarray(np.arange(120, dtype=np.uint8).reshape(12, 10) * 2).save(predicted / "frame-2.png")
    (predicted / "frame-3.png").write_bytes(b"broken")
    with pytest.raises(DataError) as caught:
        compare_folders(predicted, true)
    text = "\n".join(caught.value.problems)
    assert len(caught.value.problems) == 5
    assert f"frame-0: {predicted} has no prediction of that name; did you mean 'frame-O'?" in text
    assert f"frame-O: {true} has no true mask of that name; did you mean 'frame-0'?" in text
    assert "frame-1: the predicted mask is 10x5 pixels and the true one 10x12" in text
    assert "frame-2.png is not a mask: it has 120 grey values" in text
    assert "frame-3.png is not an image that can be read" in text


def test_missing_and_empty_places_and_equal_names(tmp_path, masks):
    full = write(tmp_path / "full", masks)
    with pytest.raises(DataError, match="does not exist"):
        compare_folders(tmp_path / "absent", full)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no masks"):
        compare_folders(tmp_path / "empty", full)
    (full / "again").mkdir()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(full / "again" / "frame-0.png")
    with pytest.raises(DataError, match="have the same name 'frame-0'"):
        compare_folders(full, full)

"""What trivial predictions score, and what trainings say of themselves, from a run to its results."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.engine.stages.train import last_rise
from harness.engine.stages.trivial import mean_mask


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
def test_the_mean_mask_is_cut_where_it_agrees_best(seed: int, count: int) -> None:
    draw = np.random.default_rng(seed)
    masks = (draw.random((count, 5, 6)) < draw.random((5, 6))).astype(np.uint8)
    masks[0, 0, 0] = 1  # some polyp somewhere
    mask, threshold = mean_mask(masks)
    mean = masks.mean(axis=0)
    candidates = [np.uint8(mean >= share) for share in np.unique(mean)]
    best = max(np.mean([iou(candidate, true) for true in masks]) for candidate in candidates)
    assert np.mean([iou(mask, true) for true in masks]) == pytest.approx(best)
    assert mask.dtype == np.uint8
    assert np.array_equal(mask, mean >= threshold)


def test_equal_masks_have_themselves_for_a_mean_and_no_masks_have_none() -> None:
    one = np.zeros((4, 4), np.uint8)
    one[1:3, 1:] = 1
    mask, threshold = mean_mask(np.stack([one] * 3))
    assert np.array_equal(mask, one)
    assert threshold == 1
    assert not mean_mask(np.zeros((0, 4, 4), np.uint8))[0].any()


def test_the_last_rise_is_over_the_best_before() -> None:
    assert last_rise([0.1, 0.4, 0.3, 0.45]) == pytest.approx(0.05)
    assert last_rise([0.1, 0.4, 0.3]) == pytest.approx(-0.1)
    assert last_rise([0.1]) is None
    assert last_rise([]) is None


def rows_of(study, **wanted):
    with study.results.open() as file:
        return [row for row in csv.DictReader(file) if all(row[name] == value for name, value in wanted.items())]


def test_a_study_scores_trivial_predictions_as_it_scores_segmenters(finished_study) -> None:
    from harness.data.datasets import open_dataset
    from harness.metrics.segmentation.confusion import confusion, intersection_over_union

    (folder,) = (finished_study.project / ".harness").rglob("results/dataset/*/split.json")
    split = json.loads(folder.read_text())
    pairs = open_dataset("twelve").decode(32, "squash")

    def masks(role: str) -> np.ndarray:
        return np.asarray(pairs.select([f"twelve/{name}" for name in split["roles"][role]]).masks)

    truth = masks("report")
    fixed = {
        "all polyp": np.ones_like(truth[0]),
        "none": np.zeros_like(truth[0]),
        "mean mask": mean_mask(masks("fit"))[0],
    }
    found = rows_of(finished_study, kind="trivial", metric="iou", reduction="micro-imagewise")
    assert [row["cell"] for row in found] == list(fixed)
    for row in found:
        predicted = np.repeat(fixed[row["cell"]][None], len(truth), axis=0)
        expected = intersection_over_union(confusion(predicted, truth), empty=1.0).mean()
        assert float(row["value"]) == pytest.approx(expected)
        assert row["images"] == str(len(truth))
        assert (row["role"], row["status"]) == ("report", "done")


def test_every_training_says_whether_it_had_finished_and_looks_at_images(finished_study) -> None:
    rises = rows_of(finished_study, kind="training", metric="last-rise")
    constants = rows_of(finished_study, kind="training", metric="constant")
    cells = rows_of(finished_study, kind="segmentation", metric="iou", reduction="micro")
    assert len(rises) == len(constants) == len(cells)
    assert all(-1 <= float(row["value"]) <= 1 for row in rises)
    assert {row["value"] for row in constants} <= {"0", "1"}


def test_a_segmenter_that_predicts_one_mask_is_seen(temp_study) -> None:
    # Without learning, with all weights 0, it predicts one thing for every image.
    still = temp_study.plugins.read_text().replace("self(images)", "0 * self(images)")
    still = still.replace("return self.layer(images - 0.5)", "return 0 * self.layer(images - 0.5) - 1")
    temp_study.plugins.write_text(still)
    assert temp_study.run("--set", "controls=[]").code == 0
    assert {row["value"] for row in rows_of(temp_study, kind="training", metric="constant")} == {"1"}
    report = (temp_study.results.parent / "report.md").read_text()
    assert "Does synthetic data help? Cannot be said." in report
    assert "the segmenters did not learn" in report
    assert "would have been found" not in report.split("## Verdicts")[0]

import numpy as np
import pytest

from harness.metrics.fidelity import masks


def squares(*sides, size=10):
    found = np.zeros((len(sides), size, size), np.uint8)
    for mask, side in zip(found, sides, strict=True):
        mask[:side, :side] = 1
    return found


def test_areas_and_their_histogram():
    made = squares(0, 5, 10)
    np.testing.assert_allclose(masks.areas(made), [0, 0.25, 1])
    histogram = masks.area_histogram(made, bins=4)
    assert histogram.tolist() == [1, 1, 0, 1]
    assert len(masks.area_histogram(made)) == 20


def test_area_distance_is_the_mean_shift_between_sorted_areas():
    assert masks.area_distance(squares(2, 4), squares(4, 2)) == pytest.approx(0)
    assert masks.area_distance(squares(0, 0), squares(10, 10)) == pytest.approx(1)
    assert masks.area_distance(squares(1, 5), squares(3, 6)) == pytest.approx(((0.09 - 0.01) + (0.36 - 0.25)) / 2)


def test_components_touch_at_corners():
    mask = np.zeros((1, 6, 6), np.uint8)
    mask[0, 0, 0] = mask[0, 1, 1] = mask[0, 5, 5] = 1
    assert masks.components(mask).tolist() == [2]
    assert masks.components(np.zeros((1, 4, 4), np.uint8)).tolist() == [0]


def test_mean_and_deviation_masks_of_each_source():
    made = squares(2, 4, 6)
    lineage = [frozenset({"a"}), frozenset({"a"}), frozenset({"a", "b"})]
    found = masks.positions_by_source(lineage)
    assert found == {"a": [0, 1]}
    mean, deviation = masks.mean_and_deviation(made[found["a"]])
    assert (mean[0, 0], mean[3, 3], mean[5, 5]) == (1, 0.5, 0)
    assert (deviation[0, 0], deviation[3, 3]) == (0, 0.5)


MASKS = (np.random.default_rng(0).random((7, 5, 6)) < 0.4).astype(np.uint8)


def test_only_real_masks_with_several_synthetic_ones_are_shown_those_with_most_first():
    lineage = [frozenset(names) for names in ("a", "b", "b", "c", "ab", "b", "c")]
    real = dict(zip("abc", MASKS, strict=False))
    found = masks.diversity(real, MASKS, lineage)
    assert found["ids"].tolist() == ["b", "c"]
    assert found["count"].tolist() == [3, 2]
    np.testing.assert_array_equal(found["real"], MASKS[[1, 2]])
    np.testing.assert_allclose(found["mean"][0], MASKS[[1, 2, 5]].mean(axis=0))
    np.testing.assert_allclose(found["deviation"][1], MASKS[[3, 6]].std(axis=0))
    assert masks.diversity(real, MASKS, lineage, count=1)["ids"].tolist() == ["b"]


@pytest.mark.parametrize("lineage", [["a", "b", "c"], ["ab", "ab", "ab"], ["z", "z", "z"]])
def test_no_several_masks_of_one_are_nothing(lineage):
    real = dict(zip("abc", MASKS, strict=False))
    assert masks.diversity(real, MASKS[:3], [frozenset(names) for names in lineage]) is None

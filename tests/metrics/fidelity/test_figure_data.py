import numpy as np
import pytest

from harness.metrics.fidelity import figure_data

MASKS = (np.random.default_rng(0).random((7, 5, 6)) < 0.4).astype(np.uint8)


def test_only_real_masks_with_several_synthetic_ones_are_shown_those_with_most_first():
    lineage = [frozenset(names) for names in ("a", "b", "b", "c", "ab", "b", "c")]
    real = dict(zip("abc", MASKS, strict=False))
    found = figure_data.diversity(real, MASKS, lineage)
    assert found["ids"].tolist() == ["b", "c"]
    assert found["count"].tolist() == [3, 2]
    np.testing.assert_array_equal(found["real"], MASKS[[1, 2]])
    np.testing.assert_allclose(found["mean"][0], MASKS[[1, 2, 5]].mean(axis=0))
    np.testing.assert_allclose(found["deviation"][1], MASKS[[3, 6]].std(axis=0))
    assert figure_data.diversity(real, MASKS, lineage, count=1)["ids"].tolist() == ["b"]


@pytest.mark.parametrize("lineage", [["a", "b", "c"], ["ab", "ab", "ab"], ["z", "z", "z"]])
def test_no_several_masks_of_one_are_nothing(lineage):
    real = dict(zip("abc", MASKS, strict=False))
    assert figure_data.diversity(real, MASKS[:3], [frozenset(names) for names in lineage]) is None


def test_the_closest_pairs_come_with_their_names_and_pictures():
    made, training = (
        np.arange(4)[:, None, None, None] + np.zeros((4, 2, 2, 3), np.uint8),
        np.zeros((3, 2, 2, 3), np.uint8),
    )
    training[1] = 9
    found = figure_data.closest(
        np.array([3.0, 1.0, 2.0, 0.5]),
        np.array([0, 1, 2, 1]),
        (("p", "q", "r", "s"), lambda at: made[at]),
        (("x", "y", "z"), lambda at: training[at]),
        count=2,
    )
    assert found["distance"].tolist() == [0.5, 1.0]
    assert found["synthetic_ids"].tolist() == ["s", "q"]
    assert found["real_ids"].tolist() == ["y", "y"]
    assert found["synthetic"][:, 0, 0, 0].tolist() == [3, 1]
    assert found["real"][:, 0, 0, 0].tolist() == [9, 9]


def test_what_is_saved_is_read_without_unpickling(tmp_path):
    figure_data.save(tmp_path / "a.npz", {"ids": np.array(["one", "three"]), "x": np.arange(3)})
    with np.load(tmp_path / "a.npz", allow_pickle=False) as read:
        assert read["ids"].tolist() == ["one", "three"]
        assert read["x"].tolist() == [0, 1, 2]

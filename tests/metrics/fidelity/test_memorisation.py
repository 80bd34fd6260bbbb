import itertools

import numpy as np
import pytest
import torch

from harness.data.pairs import PairSet
from harness.errors import DataError
from harness.metrics.fidelity.memorisation import (
    _chance,
    closest,
    describe,
    memorisation,
    nearest_neighbours,
    squared_distances,
)
from harness.metrics.inputs.pictures import Pictures
from harness.metrics.spec import Sets


def images(count, seed):
    """Smooth random pictures, so that averaging keeps their differences."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    return coarse.repeat(12, axis=1).repeat(12, axis=2)


def pictures(images, kind):
    masks = np.zeros(images.shape[:3], np.uint8)
    return PairSet.real(images, masks, [f"{kind}{i}" for i in range(len(images))])


TRAINING, HELD_OUT, FRESH = images(60, 0), images(60, 1), images(60, 2)


def measure(synthetic, held_out=HELD_OUT):
    return memorisation(describe(TRAINING), describe(synthetic), None if held_out is None else describe(held_out))


def test_planted_copies_are_flagged_and_named():
    planted = FRESH.copy()
    planted[7], planted[30] = TRAINING[3], TRAINING[11]
    planted[:7] = np.clip(TRAINING[20:27].astype(int) + 3, 0, 255)
    found = measure(planted)
    assert found.copies
    assert found.p_value < 0.05
    assert found.copied >= 9 / 60
    assert found.exact == 2
    pairs = [pictures(images, kind) for images, kind in ((TRAINING, "t"), (planted, "s"))]
    nearest = closest(Sets(*pairs, torch.device("cpu")), 9)
    named = list(zip(nearest["synthetic_ids"].tolist(), nearest["real_ids"].tolist(), strict=True))
    assert set(named[:2]) == {("s7", "t3"), ("s30", "t11")}
    assert set(named) >= {(f"s{i}", f"t{20 + i}") for i in range(7)}
    assert nearest["distance"][:2].tolist() == [0.0, 0.0]
    assert (np.diff(nearest["distance"]) >= 0).all()
    np.testing.assert_array_equal(nearest["synthetic"][0], nearest["real"][0])


@pytest.mark.parametrize("held_out", [HELD_OUT, None])
def test_new_images_are_not_flagged(held_out):
    found = measure(FRESH, held_out)
    assert not found.copies
    assert found.exact == 0
    assert 0.35 < found.closer < 0.65
    assert found.reference == ("leave-one-out" if held_out is None else "held-out")


def test_the_flag_rings_falsely_as_rarely_as_it_says():
    draw = np.random.default_rng(0)
    flags = [
        memorisation(draw.normal(size=(40, 4)), draw.normal(size=(30, 4)), draw.normal(size=(30, 4))).copies
        for _ in range(400)
    ]
    assert np.mean(flags) <= 0.025  # 0.01 and three standard errors


def test_near_copies_among_many_are_noticed_without_any_exact_one():
    draw = np.random.default_rng(1)
    training = draw.normal(size=(100, 8))
    synthetic = draw.normal(size=(100, 8))
    synthetic[:15] = training[:15] + 0.05 * draw.normal(size=(15, 8))
    found = memorisation(training, synthetic, draw.normal(size=(100, 8)))
    assert found.exact == 0
    assert found.copies
    assert found.p_value < 0.001


@pytest.mark.parametrize("held_out", [HELD_OUT, None])
def test_a_generator_that_only_copies_scores_one(held_out):
    found = measure(TRAINING[:20], held_out)
    assert (found.closer, found.copied, found.exact) == (1.0, 1.0, 20)


def test_held_out_against_itself_is_a_coin_toss():
    assert measure(HELD_OUT).closer == pytest.approx(0.5)


def test_nearest_neighbours_equal_brute_force():
    draw = np.random.default_rng(0)
    a, b = draw.normal(size=(15, 6)), draw.normal(size=(11, 6))
    table = np.sqrt(((a[:, None] - b[None]) ** 2).sum(axis=2))
    distances, which = nearest_neighbours(a, b)
    np.testing.assert_allclose(distances, table.min(axis=1))
    np.testing.assert_array_equal(which, table.argmin(axis=1))


def test_distances_are_root_mean_square_grey_levels():
    dark, light = np.full((1, 40, 50, 3), 100, np.uint8), np.full((1, 40, 50, 3), 107, np.uint8)
    distances, _ = nearest_neighbours(describe(dark), describe(light))
    assert distances[0] == pytest.approx(7)


def test_too_few_images():
    with pytest.raises(DataError, match="got 1 training, 3 synthetic"):
        memorisation(np.eye(3)[:1], np.eye(3))


@pytest.mark.parametrize(("synthetic", "reference", "closer_than"), [(4, 5, 1), (4, 5, 2), (3, 6, 4)])
def test_the_p_value_counts_the_orders_in_which_it_happens(synthetic, reference, closer_than):
    orders = list(itertools.combinations(range(synthetic + reference), synthetic))  # the places of the synthetic ones
    for count in range(synthetic + 1):
        happens = 0
        for places in orders:
            threshold = sorted(set(range(synthetic + reference)) - set(places))[closer_than - 1]
            happens += sum(place < threshold for place in places) >= count
        assert _chance(count, synthetic, closer_than, reference) == pytest.approx(happens / len(orders))


def test_the_closest_of_what_the_generator_was_fitted_on_are_shown_where_that_is_said():
    other = pictures(HELD_OUT[:5], "o")
    made = pictures(np.concatenate([HELD_OUT[3:4], FRESH[:3]]), "s")
    found = closest(Sets(pictures(TRAINING, "t"), made, torch.device("cpu"), fitted=other), 1)
    assert (found["synthetic_ids"].tolist(), found["real_ids"].tolist()) == (["s0"], ["o3"])


def test_pictures_of_several_sizes_are_shown_at_one():
    small, large = FRESH[:2], FRESH[2:4].repeat(2, axis=1).repeat(2, axis=2)
    mixed = Pictures(("a", "b", "c", "d"), [*small, *large])
    found = closest(Sets(pictures(TRAINING, "t"), mixed, torch.device("cpu")), 4)
    assert found["synthetic"].shape == (4, 128, 128, 3)
    assert sorted(found["synthetic_ids"].tolist()) == ["a", "b", "c", "d"]


def test_distances_keep_their_digits_far_from_the_origin():
    draw = np.random.default_rng(2)
    a, b = draw.normal(size=(5, 8)), draw.normal(size=(6, 8))
    direct = ((a[:, None] - b[None]) ** 2).sum(axis=2)
    np.testing.assert_allclose(squared_distances(a + 1e6, b + 1e6), direct, rtol=1e-6)

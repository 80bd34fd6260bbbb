"""What a sweep says as a whole, and how many real images synthetic ones are worth: on sweeps with a known truth."""

from __future__ import annotations

import numpy as np
import pytest

from harness.stats import Block, Components
from harness.stats.sweep import adjust, curve, equivalent, trend

COUNTS = {"none": 0, "100": 100, "200": 200, "400": 400, "800": 800}


def made(means, *, runs=5, images=150, run=0.004, noise=0.05, seed=0) -> Components:
    """Components of arms with true mean scores."""
    rng = np.random.default_rng(seed)
    level = np.array(list(means.values()))[:, None, None]
    scores = level + rng.normal(0, 0.1, images) + rng.normal(0, run, (len(means), runs, 1))
    scores = scores + rng.normal(0, noise, (len(means), runs, images))
    ones = np.ones_like(scores)
    names = tuple(f"i{i}" for i in range(images)), tuple(f"r{r}" for r in range(runs))
    return Components(
        Block(tuple(means), names[1], np.arange(runs), names[0], scores, ones, np.ones((runs, images), bool))
    )


def saturating(gain, tau, base=0.6):
    return {arm: base + gain * (1 - np.exp(-n / tau)) for arm, n in COUNTS.items()}


def test_a_trend_that_no_single_point_shows_is_found():
    """Each step is small; together they are a slope."""
    found = [trend(made({a: 0.6 + 0.012 * i for i, a in enumerate(COUNTS)}, seed=s), COUNTS) for s in range(40)]
    assert np.mean([one.estimate.value > 0 and one.p <= 0.05 for one in found]) > 0.9


def test_without_a_trend_one_in_twenty_is_said_to_be_one():
    found = [trend(made(dict.fromkeys(COUNTS, 0.6), seed=s), COUNTS).p for s in range(200)]
    assert np.mean(np.array(found) <= 0.05) <= 0.09


def test_the_order_of_arms_is_that_of_counts_and_falling_scores_are_negative():
    shuffled = {arm: COUNTS[arm] for arm in ("400", "none", "800", "100", "200")}
    found = trend(made(saturating(-0.1, 150)), shuffled)
    assert found.counts == (0, 100, 200, 400, 800)
    assert found.estimate.value < 0
    with pytest.raises(ValueError, match="three or more different counts"):
        trend(made(saturating(0.1, 150)), {"none": 0, "100": 100})


def test_trends_are_adjusted_for_each_other():
    one = trend(made(saturating(0.1, 150)), COUNTS)
    both = adjust([one, trend(made(dict.fromkeys(COUNTS, 0.6)), COUNTS)])
    assert both[0].p_adjusted == pytest.approx(2 * one.p)
    assert both[0].found
    assert not adjust([one], level=one.p / 2)[0].found
    assert not both[1].found


def test_the_band_holds_the_true_curve_and_its_gain():
    held = []
    for seed in range(60):
        found = curve(made(saturating(0.08, 150), seed=seed), COUNTS)
        low, high = found.gain[1:]
        held.append(low <= 0.08 * (1 - np.exp(-800 / 150)) <= high)
        assert found.low[0] <= found.scores[0] <= found.high[0]
    assert np.mean(held) >= 0.88


def test_enough_is_where_what_is_left_is_less_than_the_margin():
    truth = saturating(0.10, 120)
    found = curve(made(truth, noise=0.01, run=0.0005, images=400), COUNTS, margin=0.01)
    assert found.enough[0] == pytest.approx(120 * np.log(10), rel=0.15)
    assert found.enough[1] <= found.enough[0] <= found.enough[2]
    ninety_five = curve(made(truth, noise=0.01, run=0.0005, images=400), COUNTS)
    assert ninety_five.enough[0] == pytest.approx(120 * np.log(20), rel=0.15)


def test_a_curve_that_still_rises_says_no_less_than_all_of_it():
    found = curve(made({arm: 0.6 + n / 8000 for arm, n in COUNTS.items()}, noise=0.01, run=0.0005), COUNTS)
    assert found.enough[0] == 800


REAL = {"r50": 50, "r100": 100, "r200": 200}


def learned(n):
    """A learning curve that is straight over the logarithm."""
    return 0.5 + 0.05 * np.log2(n / 50)


def test_an_arm_is_worth_the_real_images_that_score_as_it_does():
    held, points = [], []
    for seed in range(60):
        scores = {arm: learned(n) for arm, n in REAL.items()} | {"both": learned(140)}
        found = equivalent(made(scores, seed=seed), "both", 100, REAL)
        points.append(found.extra[0])
        held.append(found.extra[1] <= 40 <= found.extra[2])
    assert np.median(points) == pytest.approx(40, abs=12)
    assert np.mean(held) >= 0.9


def test_images_that_harm_are_worth_fewer():
    scores = {arm: learned(n) for arm, n in REAL.items()} | {"both": learned(70)}
    found = equivalent(made(scores, noise=0.01, run=0.001), "both", 100, REAL)
    assert found.extra[0] == pytest.approx(-30, abs=6)
    assert found.open == (False, False, False)


def test_more_than_all_there_are_is_a_bound_and_no_number():
    scores = {arm: learned(n) for arm, n in REAL.items()} | {"both": learned(400)}
    found = equivalent(made(scores, noise=0.01, run=0.001), "both", 100, REAL)
    assert found.open == (True, False, True)
    assert found.extra == pytest.approx((100, 100, 100))


def test_a_flat_learning_curve_says_nothing():
    flat = dict.fromkeys(REAL, 0.6)
    assert equivalent(made(flat | {"r200": 0.5} | {"both": 0.6}, noise=0.01), "both", 100, REAL) is None

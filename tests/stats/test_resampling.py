"""The arithmetic of intervals and tests, against closed forms, scipy and simulated studies with a known truth."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from harness.stats import Estimate, Fold, estimate, holm, smallest_detectable, swap_test


def fold(scores: np.ndarray, prefix: str = "g") -> Fold:
    """One fold from per-image scores (S, I), every image a group of its own."""
    seeds, images = scores.shape
    return Fold(tuple(range(seeds)), tuple(f"{prefix}{i}" for i in range(images)), scores, np.ones_like(scores))


def paired_study(rng, seeds, images, *, effect=0.0, run=0.01, image=0.1, rest=0.1, folds=1):
    """Two arms whose paired differences follow the crossed model with known variance components."""
    arm, baseline = [], []
    for number in range(folds):
        base = rng.normal(0.7, 0.1, (seeds, images))
        shift = (
            effect
            + rng.normal(0, run, (seeds, 1))
            + rng.normal(0, image, images)
            + rng.normal(0, rest, (seeds, images))
        )
        arm.append(fold(base + shift, f"{number}-"))
        baseline.append(fold(base, f"{number}-"))
    return arm, baseline


def test_estimate_is_the_mean_of_run_scores():
    scores = np.array([[0.2, 0.4], [0.6, 1.0]])
    assert estimate([fold(scores)], draws=50).value == pytest.approx((0.3 + 0.8) / 2)


def test_folds_weigh_alike_however_many_images_they_have():
    many, few = np.full((2, 30), 0.5), np.full((2, 10), 0.9)
    assert estimate([fold(many, "a"), fold(few, "b")], draws=50).value == pytest.approx(0.7)


def test_micro_is_the_ratio_of_summed_counts():
    counts = Fold((0,), ("a", "b"), np.array([[10.0, 1.0]]), np.array([[20.0, 100.0]]))
    assert estimate([counts], draws=50).value == pytest.approx(11 / 120)


def test_an_arm_with_nothing_to_divide_by_scores_zero_division():
    nothing = Fold((0,), ("a", "b"), np.zeros((1, 2)), np.zeros((1, 2)), empty=1.0)
    measured = estimate([nothing], draws=50)
    assert measured.value == 1.0
    assert measured.low == measured.high == 1.0


def test_one_run_has_the_textbook_error_of_a_mean():
    scores = np.random.default_rng(0).beta(5, 2, (1, 300))
    measured = estimate([fold(scores)])
    assert measured.standard_error == pytest.approx(stats.sem(scores[0]), rel=1e-9)
    low, high = stats.t.interval(0.95, 299, scores.mean(), stats.sem(scores[0]))
    assert measured.low == pytest.approx(low, abs=0.002)
    assert measured.high == pytest.approx(high, abs=0.002)
    assert np.isnan(measured.run_error)


def test_interval_of_few_images_is_as_wide_as_students():
    scores = np.random.default_rng(1).normal(0.5, 0.1, (1, 8))
    measured = estimate([fold(scores)], draws=50_000)
    low, high = stats.t.interval(0.95, 7, scores.mean(), stats.sem(scores[0]))
    assert measured.high - measured.low == pytest.approx(high - low, rel=0.08)


def test_error_follows_the_variance_components_of_the_crossed_model():
    """Independent derivation: the classical two-way analysis of variance without replication."""
    scores = np.random.default_rng(2).normal(0, 0.1, (4, 50)) + np.array([[0.0], [0.3], [0.6], [0.1]])
    seeds, images = scores.shape
    rest = scores - scores.mean(0) - scores.mean(1, keepdims=True) + scores.mean()
    ms_rest = (rest**2).sum() / ((seeds - 1) * (images - 1))
    ms_run = images * scores.mean(1).var(ddof=1)
    ms_image = seeds * scores.mean(0).var(ddof=1)
    expected = (ms_run + ms_image - ms_rest) / (seeds * images)
    assert estimate([fold(scores)], draws=50).standard_error ** 2 == pytest.approx(expected, rel=1e-9)


def test_runs_that_agree_add_no_error():
    row = np.random.default_rng(3).normal(0.5, 0.1, 40)
    assert estimate([fold(np.stack([row, row, row]))], draws=50).run_error == pytest.approx(0, abs=1e-12)


def test_clustered_images_widen_the_interval():
    rng = np.random.default_rng(4)
    by_group = rng.normal(0.6, 0.1, (1, 30))
    alone = fold(np.repeat(by_group, 5, axis=1))
    together = Fold((0,), tuple(f"g{i}" for i in range(30)), by_group * 5, np.full((1, 30), 5.0))
    assert estimate([together]).standard_error > 2 * estimate([alone]).standard_error


def test_linearised_micro_error_agrees_with_resampling():
    rng = np.random.default_rng(5)
    size = rng.integers(200, 2000, 120).astype(float)
    hits = size * rng.beta(6, 3, 120)
    measured = estimate([Fold((0,), tuple(map(str, range(120))), hits[None], size[None])], draws=20_000)
    chosen = rng.integers(0, 120, (5000, 120))
    bootstrap = (hits[chosen].sum(1) / size[chosen].sum(1)).std()
    assert measured.standard_error == pytest.approx(bootstrap, rel=0.06)
    assert (measured.high - measured.low) / (2 * 1.96) == pytest.approx(bootstrap, rel=0.06)


def test_equal_input_gives_equal_output():
    arm, baseline = paired_study(np.random.default_rng(6), 3, 50)
    assert estimate(arm, baseline) == estimate(arm, baseline)
    assert swap_test(arm, baseline) == swap_test(arm, baseline)


def test_unpaired_arms_are_refused():
    one, other = fold(np.zeros((2, 5))), fold(np.zeros((3, 5)))
    for function in (estimate, swap_test):
        with pytest.raises(ValueError, match="same folds, seeds and groups"):
            function([one], [other])


def test_one_group_has_no_interval():
    assert np.isnan(estimate([fold(np.array([[0.5], [0.6]]))]).low)


@pytest.mark.parametrize(
    ("seeds", "run", "image", "rest"),
    [(3, 0.02, 0.1, 0.1), (5, 0.0, 0.1, 0.1), (5, 0.02, 0.1, 0.1), (5, 0.02, 0.0, 0.15)],
)
def test_coverage_and_type_one_error_under_a_known_model(seeds, run, image, rest):
    covered = rejected = 0
    repetitions = 300
    for number in range(repetitions):
        arm, baseline = paired_study(np.random.default_rng(number), seeds, 100, run=run, image=image, rest=rest)
        measured = estimate(arm, baseline, draws=1000)
        covered += measured.low <= 0 <= measured.high
        rejected += swap_test(arm, baseline, draws=1000) <= 0.05
    assert 0.915 <= covered / repetitions <= 0.985
    assert rejected / repetitions <= 0.08


def test_ignoring_runs_would_mislead():
    """The reason for it all: with one run the same noise makes significant differences out of nothing."""
    rejected = 0
    for number in range(100):
        arm, baseline = paired_study(np.random.default_rng(number), 1, 100, run=0.04)
        rejected += swap_test(arm, baseline, draws=1000) <= 0.05
    assert rejected > 25


def test_coverage_with_folds():
    covered = 0
    for number in range(200):
        arm, baseline = paired_study(np.random.default_rng(number), 2, 40, run=0.02, folds=3)
        measured = estimate(arm, baseline, draws=1000)
        covered += measured.low <= 0 <= measured.high
    assert covered / 200 >= 0.91


def test_power_at_the_smallest_detectable_effect_is_eighty_percent():
    detectable = np.median(
        [smallest_detectable(estimate(*paired_study(np.random.default_rng(n), 5, 100), draws=100)) for n in range(60)]
    )
    found = [
        swap_test(*paired_study(np.random.default_rng(1000 + n), 5, 100, effect=detectable), draws=1000) <= 0.05
        for n in range(400)
    ]
    assert 0.70 <= np.mean(found) <= 0.88


def test_a_large_effect_is_found():
    arm, baseline = paired_study(np.random.default_rng(7), 3, 100, effect=0.15)
    assert swap_test(arm, baseline) < 0.01
    assert estimate(arm, baseline).low > 0


def test_swap_test_equals_scipy_on_an_exact_case():
    rng = np.random.default_rng(8)
    one, other = rng.normal(0.6, 0.1, (1, 10)), rng.normal(0.52, 0.1, (1, 10))
    expected = stats.permutation_test(
        (one[0], other[0]), lambda a, b: np.mean(a - b), permutation_type="samples", n_resamples=np.inf
    )
    assert swap_test([fold(one)], [fold(other)]) == pytest.approx(expected.pvalue, abs=1e-12)


def test_swap_test_of_micro_scores_exchanges_counts():
    """Against every exchange of two arms' counts, written out."""
    rng = np.random.default_rng(9)
    up, down = rng.integers(1, 50, (2, 1, 6)).astype(float), rng.integers(50, 90, (2, 1, 6)).astype(float)
    names = tuple("abcdef")
    arms = [Fold((0,), names, up[i], down[i]) for i in range(2)]
    observed = abs(up[0].sum() / down[0].sum() - up[1].sum() / down[1].sum())
    extreme = 0
    for swap in itertools.product([0, 1], repeat=6):
        first = np.array(swap)
        sums = [
            sum(up[k, 0, g] for g, k in enumerate(side)) / sum(down[k, 0, g] for g, k in enumerate(side))
            for side in (first, 1 - first)
        ]
        extreme += abs(sums[0] - sums[1]) >= observed - 1e-12
    assert swap_test([arms[0]], [arms[1]]) == pytest.approx(extreme / 64)


def test_monte_carlo_p_value_is_never_zero():
    one = np.random.default_rng(10).normal(0.9, 0.01, (1, 50))
    assert swap_test([fold(one)], [fold(one - 0.5)], draws=999) == pytest.approx(1 / 1000)


def test_runs_that_disagree_weaken_the_evidence():
    rng = np.random.default_rng(11)
    baseline = rng.normal(0.6, 0.05, (3, 60))
    steady = baseline + 0.04 + rng.normal(0, 0.05, 60)
    unsteady = steady + np.array([[0.05], [0.0], [-0.05]])
    assert swap_test([fold(unsteady)], [fold(baseline)]) > 5 * swap_test([fold(steady)], [fold(baseline)])


def test_holm_by_hand():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])


def test_holm_leaves_nan_out_of_the_family():
    adjusted = holm([0.02, float("nan"), 0.5])
    np.testing.assert_allclose(adjusted[[0, 2]], [0.04, 0.5])
    assert np.isnan(adjusted[1])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
@settings(max_examples=60, deadline=None)
def test_holm_lies_between_raw_and_bonferroni_and_rejects_as_the_step_down_procedure(p):
    adjusted = holm(p)
    raw = np.array(p)
    assert np.all(adjusted >= raw - 1e-15)
    assert np.all(adjusted <= np.minimum(raw * len(p), 1) + 1e-15)
    rejected = np.zeros(len(p), bool)
    for step, index in enumerate(np.argsort(raw, kind="stable")):
        if raw[index] * (len(p) - step) > 0.05:
            break
        rejected[index] = True
    np.testing.assert_array_equal(adjusted <= 0.05, rejected)


def test_smallest_detectable_effect_of_many_images_is_the_textbook_one():
    known = Estimate(0.0, 0.0, 0.0, 0.01, 1e9, 0.01, 0.0, groups=10**9, run_degrees=10**9)
    assert smallest_detectable(known) == pytest.approx((1.959964 + 0.841621) * 0.01, rel=1e-5)
    assert smallest_detectable(known, family=10) == pytest.approx((2.807034 + 0.841621) * 0.01, rel=1e-5)

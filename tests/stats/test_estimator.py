"""The arithmetic of intervals and tests, against closed forms, analyses of variance written out, and simulations."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from harness.stats import Block, Components, Estimate
from harness.stats.estimator import adjusted


def block(scores, *, units=None, groups=None, scored=None, **changes) -> Block:
    """A block of per-image scores (A, R, I), every image a group of its own."""
    arms, runs, images = scores.shape
    present = np.ones((runs, images), bool) if scored is None else scored
    return Block(
        tuple(f"arm{a}" for a in range(arms)),
        tuple(f"run{r}" for r in range(runs)),
        np.arange(runs) if units is None else np.asarray(units),
        groups or tuple(f"g{i}" for i in range(images)),
        np.where(present, scores, 0.0),
        np.broadcast_to(present, scores.shape).astype(float),
        present,
        **changes,
    )


def drawn(rng, arms=4, runs=3, images=100, *, run=0.01, image=0.1, rest=0.1, effect=0.0) -> Block:
    """Arms that differ from each other by run, image and rest with known deviations; the last by ``effect`` too."""
    scores = (
        rng.normal(0.7, 0.1, images)
        + rng.normal(0, image, (arms, 1, images))
        + rng.normal(0, run, (arms, runs, 1))
        + rng.normal(0, rest, (arms, runs, images))
    )
    scores[-1] += effect
    return block(scores)


def test_a_difference_is_that_of_the_mean_scores():
    found = Components(block(np.array([[[0.2, 0.4], [0.6, 1.0]], [[0.1, 0.1], [0.2, 0.4]]]))).difference("arm0", "arm1")
    assert found.value == pytest.approx((0.3 + 0.8) / 2 - (0.1 + 0.3) / 2)


def test_one_run_has_the_textbook_error_of_a_paired_mean():
    rng = np.random.default_rng(0)
    scores = rng.beta(5, 2, (2, 1, 300))
    found = Components(block(scores)).difference("arm0", "arm1")
    paired = stats.ttest_rel(scores[0, 0], scores[1, 0])
    assert found.p() == pytest.approx(paired.pvalue, rel=1e-9)
    assert found.interval() == pytest.approx(tuple(paired.confidence_interval(0.95)), rel=1e-9)
    assert np.isnan(found.run_error)


def two_way(scores):
    """Mean squares of the three-way layout arm x run x image with images and runs random, written out by numpy."""
    arms, runs, images = scores.shape
    means = scores.mean(axis=2)
    left = means - means.mean(0) - means.mean(1, keepdims=True) + means.mean()
    arm_by_run = images * (left**2).sum() / ((arms - 1) * (runs - 1))
    rest = scores - scores.mean(axis=2, keepdims=True) - (scores.mean(axis=0) - scores.mean(axis=(0, 2))[:, None])
    rest = rest - (scores.mean(axis=1) - scores.mean(axis=(1, 2))[:, None])[:, None, :]
    rest = rest + (scores.mean(axis=(0, 1)) - scores.mean())
    three = (rest**2).sum() / ((arms - 1) * (runs - 1) * (images - 1))
    by_image = scores.mean(axis=1)
    left = by_image - by_image.mean(0) - by_image.mean(1, keepdims=True) + by_image.mean()
    arm_by_image = runs * (left**2).sum() / ((arms - 1) * (images - 1))
    return arm_by_run, arm_by_image, three


def test_the_error_is_that_of_the_three_way_analysis_of_variance():
    """Dorfman, Berbaum and Metz (1992): 2 / (R I) times (arm-by-run + arm-by-image - rest), for two arms."""
    scores = np.random.default_rng(2).normal(0.5, 0.1, (2, 4, 50)) + np.array([[0.0], [0.3], [0.6], [0.1]])
    scores += np.random.default_rng(3).normal(0, 0.05, (2, 1, 50))
    arm_by_run, arm_by_image, rest = two_way(scores)
    found = Components(block(scores)).difference("arm0", "arm1")
    assert found.error**2 == pytest.approx(2 * (arm_by_run + arm_by_image - rest) / (4 * 50), rel=1e-9)


def test_degrees_of_freedom_are_hillis_s():
    """Against the formula written out from what the estimate itself reports."""
    scores = drawn(np.random.default_rng(4), arms=5, runs=3, images=80)
    components = Components(scores)
    found = components.difference("arm0", "arm3")
    moved = (components.influence[0] - components.influence[3]).mean(axis=0)
    image_variance = (moved**2).sum()
    runs = max(2 * components.run_square, components.own_squares[0] + components.own_squares[3]) / 3
    expected = found.error**4 / (image_variance**2 / 79 + runs**2 / (4 * 2))
    assert found.degrees == pytest.approx(expected, rel=1e-9)
    assert components.run_degrees == 8


def test_arms_that_vary_more_than_pooled_keep_their_own_deviation():
    rng = np.random.default_rng(14)
    scores = 0.6 + rng.normal(0, 0.002, (8, 5, 1)) + rng.normal(0, 0.01, (8, 5, 60))
    scores[0] += np.array([[0.05], [-0.05], [0.02], [-0.02], [0.0]])
    components = Components(block(scores))
    unsteady, steady = components.difference("arm0", "arm1"), components.difference("arm2", "arm1")
    own = components.scores[0].var(ddof=1)
    assert unsteady.run_error**2 == pytest.approx((own + components.scores[1].var(ddof=1)) / 5, rel=0.2)
    assert steady.run_error**2 == pytest.approx(2 * components.run_square / 5)
    assert components.own_squares.mean() == pytest.approx(components.run_square)


def test_runs_are_pooled_over_arms_and_never_dropped():
    """Two arms whose own runs agree by accident keep the error that the other arms show."""
    rng = np.random.default_rng(5)
    row = rng.normal(0.5, 0.1, (1, 1, 60))
    scores = np.repeat(np.repeat(row, 6, axis=0), 2, axis=1)
    scores[2:] += rng.normal(0, 0.03, (4, 2, 1))
    found = Components(block(scores)).difference("arm0", "arm1")
    assert found.run_error > 0.01
    assert found.error >= found.run_error


def test_interval_p_and_margin_never_contradict_each_other():
    rng = np.random.default_rng(6)
    for _ in range(60):
        found = Components(drawn(rng, effect=rng.normal(0, 0.03))).difference("arm3", "arm0")
        for family in (1, 14):
            low, high = found.interval(family=family)
            assert (adjusted(found.p(), family) <= 0.05) == (not low <= 0 <= high)
            outer = found.interval(0.1, family)
            assert found.within(0.02, family=family) == (outer[0] > -0.02 and outer[1] < 0.02)


@pytest.mark.parametrize("degrees", [2.0, 7.0, 30.0, 1e6])
@pytest.mark.parametrize("family", [1, 14])
def test_detectable_is_where_the_noncentral_t_has_its_power(degrees, family):
    """Divided by the median of the error's own distribution; both against scipy."""
    found = Estimate(0.0, 0.01, degrees, 0.0, 0.01, 3, 100)
    median = np.sqrt(stats.chi2.median(degrees) / degrees)
    critical = stats.t.ppf(1 - 0.05 / (2 * family), degrees)
    power = stats.nct.sf(critical, degrees, found.detectable(family=family) * median / 0.01)
    assert power == pytest.approx(0.8, abs=0.02)


def test_the_smallest_detectable_effect_of_many_images_and_runs_is_the_textbook_one():
    found = Estimate(0.0, 0.01, 1e9, 0.01, 0.0, 3, 100)
    assert found.detectable() == pytest.approx((1.959964 + 0.841621) * 0.01, rel=1e-5)
    assert found.detectable(family=10) == pytest.approx((2.807034 + 0.841621) * 0.01, rel=1e-5)


def test_when_nothing_varies_nothing_is_said():
    scores = np.full((2, 3, 10), 0.5)
    assert Components(block(scores)).difference("arm0", "arm1").p() == 1.0
    scores[1] = 0.7
    assert np.isnan(Components(block(scores)).difference("arm1", "arm0").p())


def test_one_group_has_no_error():
    found = Components(block(np.array([[[0.5], [0.6]], [[0.7], [0.6]]]))).difference("arm0", "arm1")
    assert np.isnan(found.error)
    assert np.isnan(found.p())


def test_micro_is_the_ratio_of_summed_counts_with_the_error_of_resampling():
    rng = np.random.default_rng(7)
    size = rng.integers(200, 2000, 120).astype(float)
    hits = size * rng.beta(6, 3, (2, 120))
    counts = block(np.zeros((2, 1, 120)))
    counts = Block(
        counts.arms, counts.runs, counts.units, counts.groups, hits[:, None], np.stack([size, size])[:, None],
        counts.scored,
    )  # fmt: skip
    found = Components(counts).difference("arm0", "arm1")
    assert found.value == pytest.approx((hits[0] - hits[1]).sum() / size.sum())
    chosen = rng.integers(0, 120, (5000, 120))
    resampled = (hits[0] - hits[1])[chosen].sum(1) / size[chosen].sum(1)
    assert found.error == pytest.approx(resampled.std(), rel=0.06)


def test_a_run_with_nothing_to_divide_by_scores_zero_division():
    nothing = block(np.zeros((2, 2, 3)), empty=1.0)
    nothing = Block(
        nothing.arms, nothing.runs, nothing.units, nothing.groups, np.zeros((2, 2, 3)), np.zeros((2, 2, 3)),
        nothing.scored, 1.0,
    )  # fmt: skip
    np.testing.assert_array_equal(nothing.scores(), 1.0)


def test_clustered_images_widen_the_interval():
    rng = np.random.default_rng(8)
    by_group = rng.normal(0.6, 0.1, (2, 1, 30))
    alone = Components(block(np.repeat(by_group, 5, axis=2))).difference("arm0", "arm1")
    together = Components(
        Block(
            ("arm0", "arm1"), ("r",), np.zeros(1, np.intp), tuple(map(str, range(30))), by_group * 5,
            np.full((2, 1, 30), 5.0), np.ones((1, 30), bool),
        )
    ).difference("arm0", "arm1")  # fmt: skip
    assert together.error > 2 * alone.error


def folded(rng, arms, folds, images, *, fold=0.0, rest=0.1):
    """Arms scored by one run a fold, each on images of its own; ``fold`` is how folds move arms."""
    scored = np.kron(np.eye(folds, dtype=bool), np.ones(images, bool))
    scores = rng.normal(0.6, 0.1, (arms, folds, folds * images)) * 0 + 0.6
    scores = scores + rng.normal(0, rest, scores.shape) + rng.normal(0, fold, (arms, folds, 1))
    return block(scores, scored=scored)


def test_folds_as_runs_have_the_error_of_a_paired_t_test_over_folds():
    """With images nested in folds the mean square of arms by folds holds all of the error."""
    ratios, repetitions = [], 100
    for number in range(repetitions):
        found = folded(np.random.default_rng(number), 2, 5, 40)
        differences = found.scores()[0] - found.scores()[1]
        estimate = Components(found).difference("arm0", "arm1")
        ratios.append((estimate.error**2, differences.var(ddof=1) / 5))
    ours, plain = np.mean(ratios, axis=0)
    assert ours == pytest.approx(plain, rel=0.25)
    assert ours == pytest.approx(2 * 0.1**2 / 200, rel=0.25)


def test_runs_of_one_unit_do_not_count_for_themselves():
    """Three fits with five trainings each: what a fit does to its trainings is not averaged away by more trainings."""
    rng = np.random.default_rng(9)
    rejected = {"nested": 0, "ignored": 0}
    for _ in range(100):
        fits = rng.normal(0, 0.02, (4, 3, 1)).repeat(5, axis=1)
        fits[0] = 0.0
        scores = 0.6 + fits + rng.normal(0, 0.003, (4, 15, 1)) + rng.normal(0, 0.1, (4, 15, 60)) * 0.2
        for name, units in (("nested", np.arange(15) // 5), ("ignored", np.arange(15))):
            rejected[name] += Components(block(scores, units=units)).difference("arm1", "arm0").p() <= 0.05
    assert rejected["nested"] / 100 <= 0.12
    assert rejected["ignored"] / 100 >= 0.3


@pytest.mark.parametrize(
    ("runs", "run", "image", "rest"),
    [(2, 0.02, 0.1, 0.1), (3, 0.02, 0.1, 0.1), (5, 0.0, 0.1, 0.1), (5, 0.02, 0.0, 0.15)],
)
def test_coverage_and_false_alarms_of_whole_families(runs, run, image, rest):
    """Eight arms, nothing true: 0.05 is what is promised for the seven comparisons together."""
    covered, shouted, repetitions = [], 0, 120
    for number in range(repetitions):
        made = drawn(np.random.default_rng(number), 8, runs, run=run, image=image, rest=rest)
        found = [Components(made).difference(f"arm{a}", "arm0") for a in range(1, 8)]
        covered += [low <= 0 <= high for low, high in (e.interval() for e in found)]
        shouted += min(adjusted(e.p(), 7) for e in found) <= 0.05
    assert 0.925 <= np.mean(covered) <= 0.98
    assert shouted / repetitions <= 0.09


def test_power_at_the_detectable_effect_is_eighty_percent():
    sizes = [Components(drawn(np.random.default_rng(n), 8)).difference("arm7", "arm0") for n in range(40)]
    detectable = float(np.median([e.detectable(family=7) for e in sizes]))
    made = (drawn(np.random.default_rng(900 + n), 8, effect=detectable) for n in range(200))
    found = [adjusted(Components(one).difference("arm7", "arm0").p(), 7) <= 0.05 for one in made]
    assert 0.72 <= np.mean(found) <= 0.89


def test_equivalence_is_claimed_falsely_in_at_most_one_of_twenty():
    """The true difference is the margin itself."""
    claimed = [
        Components(drawn(np.random.default_rng(n), 4, 5, effect=0.03)).difference("arm3", "arm0").within(0.03)
        for n in range(200)
    ]
    assert np.mean(claimed) <= 0.08
    same = (drawn(np.random.default_rng(n), 4, 5) for n in range(30))
    assert np.mean([Components(one).difference("arm3", "arm0").within(0.06) for one in same]) > 0.8


def test_a_score_has_the_error_of_means_over_crossed_runs_and_images():
    """One arm: the classical two-way analysis of variance without replication."""
    scores = np.random.default_rng(10).normal(0, 0.1, (1, 4, 50)) + np.array([[0.0], [0.3], [0.6], [0.1]])
    runs, images = scores.shape[1:]
    rest = scores[0] - scores[0].mean(0) - scores[0].mean(1, keepdims=True) + scores.mean()
    ms_rest = (rest**2).sum() / ((runs - 1) * (images - 1))
    ms_run = images * scores[0].mean(1).var(ddof=1)
    ms_image = runs * scores[0].mean(0).var(ddof=1)
    found = Components(block(scores)).score("arm0")
    assert found.error**2 == pytest.approx((ms_run + ms_image - ms_rest) / (runs * images), rel=1e-9)


def test_scores_of_several_arms_cover_their_means():
    covered = []
    for number in range(120):
        rng = np.random.default_rng(number)
        made = drawn(rng, 4, 3, run=0.02)
        moved = rng.normal(0, 0.02, (1, 3, 1))
        shared = Block(
            made.arms, made.runs, made.units, made.groups, made.numerators + moved, made.denominators, made.scored
        )
        low, high = Components(shared).score("arm1").interval()
        covered.append(low <= 0.7 <= high)
    assert 0.90 <= np.mean(covered) <= 0.99


def test_any_contrast_is_estimated_and_only_contrasts():
    components = Components(drawn(np.random.default_rng(11)))
    trend = components.contrast([-3, -1, 1, 3])
    means = components.scores.mean(axis=1)
    assert trend.value == pytest.approx(-3 * means[0] - means[1] + means[2] + 3 * means[3])
    assert components.contrast([-1, 0, 0, 1]) == components.difference("arm3", "arm0")
    with pytest.raises(ValueError, match="sum to zero"):
        components.contrast([1, 0, 0, 0])


def test_an_arm_that_varies_more_than_the_others_is_named():
    rng = np.random.default_rng(12)
    scores = 0.6 + rng.normal(0, 0.005, (6, 5, 1)) + rng.normal(0, 0.01, (6, 5, 100))
    assert Components(block(scores)).unequal() == {}
    scores[4] += np.array([[0.1], [-0.1], [0.05], [-0.05], [0.0]])
    (arm, (own, others)) = next(iter(Components(block(scores)).unequal().items()))
    assert arm == "arm4"
    assert own > 3 * others


def test_equal_arms_are_seldom_said_to_vary_differently():
    named = [bool(Components(drawn(np.random.default_rng(n), 8, 3, run=0.02)).unequal()) for n in range(100)]
    assert np.mean(named) <= 0.04


def test_the_best_arm_is_seldom_said_to_be_worse():
    """Hsu's promise: of equal arms, each of which is the best, some given one is called worse in 5 % of studies."""
    wrong = [
        "arm0" in Components(drawn(np.random.default_rng(n), 8, 3, run=0.02)).not_the_best() for n in range(100)
    ]  # fmt: skip
    assert np.mean(wrong) <= 0.09


def test_a_worse_arm_is_seen_in_both_directions():
    worse = Components(drawn(np.random.default_rng(13), effect=-0.3))
    assert worse.not_the_best() == {"arm3"}
    assert Components(drawn(np.random.default_rng(13), effect=0.3)).not_the_best(-1.0) == {"arm3"}
    assert Components(drawn(np.random.default_rng(13), effect=0.3)).not_the_best() == {"arm0", "arm1", "arm2"}


@given(st.integers(2, 5), st.integers(2, 4), st.integers(3, 12), st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_the_order_of_arms_runs_and_images_and_a_shift_of_all_change_nothing(arms, runs, images, seed):
    rng = np.random.default_rng(seed)
    scores = rng.random((arms, runs, images))
    first = Components(block(scores)).difference("arm1", "arm0")
    turned = scores[:, rng.permutation(runs)][:, :, rng.permutation(images)] + rng.normal(0, 1)
    second = Components(block(turned)).difference("arm1", "arm0")
    for name in ("value", "error", "degrees", "image_error", "run_error"):
        assert getattr(first, name) == pytest.approx(getattr(second, name), rel=1e-6, abs=1e-9)


@given(st.lists(st.floats(1e-12, 1), min_size=1, max_size=12))
def test_adjusted_p_values_keep_the_order(values):
    found = [adjusted(p, len(values)) for p in values]
    for (p, one), (q, other) in itertools.combinations(zip(values, found, strict=True), 2):
        assert p > q or one <= other

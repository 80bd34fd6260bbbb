import numpy as np
import pytest
from cleanfid.fid import kernel_distance as reference

from harness.errors import DataError
from harness.metrics.fidelity import kid
from harness.metrics.fidelity.kid import kernel_distance


def features(count, shift=0.0, seed=0):
    return np.random.default_rng(seed).normal(size=(count, 16)) + shift


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_equal_to_clean_fid_where_that_uses_every_image(shift):
    real, synthetic = features(60), features(60, shift, seed=1)
    assert kernel_distance(real, synthetic).value == pytest.approx(reference(real, synthetic), rel=1e-9, abs=1e-12)


def test_equal_to_the_formula_pair_by_pair():
    a, b = features(7), features(5, 1.0, seed=1)

    def k(x, y):
        return (np.dot(x, y) / 16 + 1) ** 3

    within_a = np.mean([k(a[i], a[j]) for i in range(7) for j in range(7) if i != j])
    within_b = np.mean([k(b[i], b[j]) for i in range(5) for j in range(5) if i != j])
    between = np.mean([k(x, y) for x in a for y in b])
    assert kernel_distance(a, b).value == pytest.approx(within_a + within_b - 2 * between)


def test_blocks_change_nothing():
    a, b = features(50), features(40, 0.3, seed=1)
    draw = np.random.default_rng(0)
    in_a, in_b = draw.random((3, 50)) < 0.5, draw.random((3, 40)) < 0.5
    small, large = (kid._sums(a, b, in_a, in_b, block=block) for block in (7, 1000))
    assert small[0] == pytest.approx(large[0])
    np.testing.assert_allclose(small[1], large[1])


def test_the_deviation_is_that_of_estimates_from_the_subsets_alone():
    a, b = features(20), features(16, 0.4, seed=1)
    draw = np.random.default_rng(5)
    in_a, in_b = kid._members(20, 8, 30, draw), kid._members(16, 8, 30, draw)
    assert (in_a.sum(axis=1) == 8).all()
    alone = [kernel_distance(a[i], b[j], subsets=2).value for i, j in zip(in_a, in_b, strict=True)]
    assert kernel_distance(a, b, subsets=30, seed=5).deviation == pytest.approx(np.std(alone, ddof=1))


def test_unbiased_over_many_draws_of_one_distribution():
    values = [
        kernel_distance(features(20, seed=2 * i), features(20, seed=2 * i + 1), subsets=2).value for i in range(300)
    ]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(300)


def test_deviation_is_of_distinct_subsets_and_repeats_with_the_seed():
    a, b = features(40), features(30, 0.2, seed=1)
    found = kernel_distance(a, b, seed=3)
    assert found.subset_size == 15
    assert found.deviation > 0
    assert found == kernel_distance(a, b, seed=3)
    assert found.deviation != kernel_distance(a, b, seed=4).deviation
    assert found.value == kernel_distance(a, b, seed=4).value


def test_one_image_is_refused():
    with pytest.raises(DataError, match="got 5 real and 1 synthetic"):
        kernel_distance(features(5), features(1))

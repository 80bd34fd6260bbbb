import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import DataError
from harness.metrics.fidelity.prdc import prdc


def brute_force(real, synthetic, k):
    def distance(x, y):
        return np.sqrt(((x - y) ** 2).sum())

    def radius(points, i):
        return sorted(distance(points[i], other) for j, other in enumerate(points) if j != i)[k - 1]

    real_radius = [radius(real, i) for i in range(len(real))]
    synthetic_radius = [radius(synthetic, j) for j in range(len(synthetic))]
    inside = [[distance(r, s) < real_radius[i] for s in synthetic] for i, r in enumerate(real)]
    covered = [any(distance(r, s) < synthetic_radius[j] for j, s in enumerate(synthetic)) for r in real]
    columns = list(zip(*inside, strict=True))
    return (
        np.mean([any(column) for column in columns]),
        np.mean(covered),
        np.mean([sum(column) for column in columns]) / k,
        np.mean([any(row) for row in inside]),
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4), st.floats(0, 2))
def test_equal_to_brute_force(seed, k, shift):
    draw = np.random.default_rng(seed)
    real, synthetic = draw.normal(size=(14, 3)), draw.normal(size=(9, 3)) + shift
    found = prdc(real, synthetic, neighbours=k)
    expected = brute_force(real, synthetic, k)
    assert (found.precision, found.recall, found.density, found.coverage) == pytest.approx(expected)


def test_far_away_everything_is_zero_and_a_copy_covers_everything():
    real = np.random.default_rng(0).normal(size=(30, 4))
    away = prdc(real, real + 100)
    assert (away.precision, away.recall, away.density, away.coverage) == (0, 0, 0, 0)
    same = prdc(real, real)
    assert (same.precision, same.recall, same.coverage) == (1, 1, 1)


def test_one_mode_of_two_has_precision_without_recall():
    draw = np.random.default_rng(1)
    left, right = draw.normal(size=(50, 2)), draw.normal(size=(50, 2)) + 40
    found = prdc(np.concatenate([left, right]), draw.normal(size=(80, 2)))
    assert found.precision > 0.9
    assert found.recall <= 0.5
    assert found.coverage <= 0.5


def test_too_few_images_for_the_neighbours():
    with pytest.raises(DataError, match="need more than 5 images a side, got 6 real and 5 synthetic"):
        prdc(np.eye(6), np.eye(6)[:5])

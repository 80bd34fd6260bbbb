import numpy as np
import pytest
from cleanfid.fid import fid_from_feats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from harness.errors import DataError
from harness.metrics.fidelity.frechet import _Subsets, corrected_frechet_distance, frechet_distance

vectors = st.integers(2, 12).flatmap(lambda n: arrays(np.float64, (n, 4), elements=st.floats(-5, 5, width=32)))


def sample(mean, covariance, count, seed):
    """Vectors whose mean and unbiased covariance are exactly these."""
    raw = np.random.default_rng(seed).normal(size=(count, len(mean)))
    raw -= raw.mean(axis=0)
    white = raw @ np.linalg.inv(np.linalg.cholesky(np.cov(raw, rowvar=False))).T
    return white @ np.linalg.cholesky(covariance).T + mean


def test_closed_form_for_diagonal_gaussians():
    a, b = np.array([1.0, 4.0, 9.0]), np.array([4.0, 1.0, 0.25])
    shift = np.array([1.0, -2.0, 0.5])
    expected = shift @ shift + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    found = frechet_distance(sample(np.zeros(3), np.diag(a), 40, 0), sample(shift, np.diag(b), 25, 1))
    assert found == pytest.approx(expected, rel=1e-9)


def test_closed_form_for_covariances_that_do_not_commute():
    a, b = np.array([[2.0, 1.0], [1.0, 3.0]]), np.array([[1.0, -0.5], [-0.5, 2.0]])
    # the eigenvalues of AB are those of the symmetric A^(1/2) B A^(1/2)
    root = np.sqrt(np.linalg.eigvals(a @ b).real).sum()
    expected = 9 + np.trace(a) + np.trace(b) - 2 * root
    found = frechet_distance(sample(np.zeros(2), a, 30, 2), sample(np.array([3.0, 0.0]), b, 50, 3))
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("n", "m"), [(200, 150), (200, 12), (15, 150)])
def test_equal_to_clean_fid(n, m):
    draw = np.random.default_rng(0)
    a, b = draw.normal(size=(n, 24)), draw.gamma(2.0, size=(m, 24)) @ draw.normal(size=(24, 24)) / 5
    assert frechet_distance(a, b) == pytest.approx(fid_from_feats(a, b), rel=1e-3)


@settings(max_examples=60, deadline=None)
@given(vectors, vectors, st.randoms(use_true_random=False))
def test_symmetric_ordered_by_nothing_and_not_negative(a, b, random):
    found = frechet_distance(a, b)
    scale = 1 + np.square(a).sum() + np.square(b).sum()
    assert found == pytest.approx(frechet_distance(b, a), abs=1e-9 * scale)
    assert found >= -1e-9 * scale
    order = list(range(len(a)))
    random.shuffle(order)
    assert found == pytest.approx(frechet_distance(a[order], b), abs=1e-9 * scale)


@settings(max_examples=40, deadline=None)
@given(vectors, arrays(np.float64, 4, elements=st.floats(-5, 5, width=32)))
def test_zero_with_itself_and_the_squared_shift_when_moved(a, shift):
    scale = 1 + np.square(a).sum() + shift @ shift
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9 * scale)
    assert frechet_distance(a, a + shift) == pytest.approx(shift @ shift, abs=1e-8 * scale)


def spectrum(dimensions=300):
    """Deviations that fall off like those of Inception features: far fewer vectors than dimensions that matter."""
    return 1 / np.sqrt(1 + np.arange(dimensions))


def line_in_one_over_n(real, synthetic):
    """The usual extrapolation (Chong and Forsyth 2020), written plainly."""
    draw, sizes = np.random.default_rng(0), np.linspace(len(real) / 4, len(real), 6).astype(int)
    chosen = [[draw.permutation(len(real))[:n] for _ in range(2)] for n in sizes]
    values = [frechet_distance(real[i], synthetic[j]) for i, j in chosen]
    return np.polyfit(1 / sizes, values, 1)[1]


@pytest.mark.parametrize(("count", "within"), [(40, 0.35), (150, 0.25)])
@pytest.mark.parametrize("shift", [0.0, 0.25])
def test_the_corrected_distance_comes_near_that_of_the_distributions(count, within, shift):
    deviations, draw = spectrum(), np.random.default_rng(1)
    real = draw.normal(size=(count, 300)) * deviations
    synthetic = draw.normal(size=(count, 300)) * deviations * 1.1 + shift * deviations
    truth = ((0.1**2 + shift**2) * deviations**2).sum()
    raw, corrected = frechet_distance(real, synthetic), corrected_frechet_distance(real, synthetic)
    assert raw - truth > 1.0
    assert abs(corrected - truth) < within * (raw - truth)
    assert abs(corrected - truth) < 0.5 * abs(line_in_one_over_n(real, synthetic) - truth)


def test_equal_distributions_are_corrected_to_nothing():
    found = []
    for seed in range(8):
        draw = np.random.default_rng(seed)
        found.append(corrected_frechet_distance(*(draw.normal(size=(2, 120, 300)) * spectrum())))
    raw = frechet_distance(*(np.random.default_rng(0).normal(size=(2, 120, 300)) * spectrum()))
    assert abs(np.mean(found)) < 0.2 * raw


def test_unequal_sets_are_corrected_as_well_as_equal_ones():
    found, raw = [], []
    for seed in range(6):
        draw = np.random.default_rng(seed)
        real, synthetic = draw.normal(size=(500, 300)) * spectrum(), draw.normal(size=(50, 300)) * spectrum()
        found.append(corrected_frechet_distance(real, synthetic))
        raw.append(frechet_distance(real, synthetic))
    assert abs(np.mean(found)) < 0.12 * np.mean(raw)


def test_the_correction_repeats_with_its_seed_and_scales_as_the_distance_does():
    draw = np.random.default_rng(0)
    a, b = draw.normal(size=(60, 30)), draw.normal(size=(50, 30)) + 0.3
    found = corrected_frechet_distance(a, b, seed=4)
    assert found == corrected_frechet_distance(a, b, seed=4)
    assert found != corrected_frechet_distance(a, b, seed=5)
    assert corrected_frechet_distance(3 * a + 100, 3 * b + 100, seed=4) == pytest.approx(9 * found, rel=1e-6)


@pytest.mark.parametrize("count", [2, 15])
def test_too_few_vectors_are_not_corrected(count):
    a = np.random.default_rng(0).normal(size=(count, 4))
    assert np.isnan(corrected_frechet_distance(a, np.random.default_rng(1).normal(size=(40, 4))))


def test_vectors_without_spread_or_with_holes_are_not_corrected():
    a = np.random.default_rng(0).normal(size=(20, 4))
    assert np.isnan(corrected_frechet_distance(np.ones((20, 4)), a))
    assert np.isnan(corrected_frechet_distance(a, np.where(a == a.max(), np.nan, a)))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 12), st.integers(2, 14))
def test_distances_between_subsets_are_those_of_the_subsets_alone(seed, n, m):
    draw = np.random.default_rng(seed)
    a, b = draw.normal(size=(14, 6)) + 50, draw.gamma(2.0, size=(15, 6)) + 48
    i, j = draw.permutation(14)[:n], draw.permutation(15)[:m]
    assert _Subsets(a, b).distance(i, j) == pytest.approx(frechet_distance(a[i], b[j]), abs=1e-9)


def test_not_a_number_stays_so():
    a = np.ones((3, 2))
    a[0, 0] = np.nan
    assert np.isnan(frechet_distance(np.eye(2), a))


def test_one_image_has_no_spread():
    with pytest.raises(DataError, match="at least two synthetic images, got 1"):
        frechet_distance(np.eye(3), np.ones((1, 3)))


def test_features_of_two_networks_are_not_compared():
    with pytest.raises(ValueError, match="3 and 2 dimensions"):
        frechet_distance(np.eye(3), np.eye(2))

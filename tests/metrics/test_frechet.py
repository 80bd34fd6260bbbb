import numpy as np
import pytest
from cleanfid.fid import fid_from_feats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from harness.errors import DataError
from harness.metrics.frechet import frechet_distance

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

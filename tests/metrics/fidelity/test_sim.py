import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import DataError
from harness.metrics.fidelity.sim import most_similar, similarity


def masks(count, size=9, seed=0, share=0.3):
    return (np.random.default_rng(seed).random((count, size, size + 2)) < share).astype(np.uint8)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 1000))
def test_equal_to_brute_force(n_real, n_synthetic, seed):
    real, synthetic = masks(n_real, seed=seed), masks(n_synthetic, seed=seed + 1)
    table = np.array([[(g == r).mean() for r in real] for g in synthetic])
    best, which = most_similar(synthetic, real)
    np.testing.assert_allclose(best, table.max(axis=1), atol=1e-7)
    np.testing.assert_allclose(table[np.arange(n_synthetic), which], table.max(axis=1))
    found = similarity(real, synthetic)
    assert found.value == pytest.approx(table.max(axis=1).mean(), abs=1e-7)
    assert found.black == pytest.approx(max((r == 0).mean() for r in real), abs=1e-7)
    if n_real > 1:
        among = [max((real[i] == real[j]).mean() for j in range(n_real) if j != i) for i in range(n_real)]
        assert found.leave_one_out == pytest.approx(np.mean(among), abs=1e-7)


def test_blocks_join_without_a_seam():
    real, synthetic = masks(300, 5, 0), masks(270, 5, 1)
    flat = synthetic.reshape(270, -1)[:, None] == real.reshape(300, -1)[None]
    best, _ = most_similar(synthetic, real)
    np.testing.assert_allclose(best, flat.mean(axis=2).max(axis=1), atol=1e-7)
    among = real.reshape(300, -1)[:, None] == real.reshape(300, -1)[None]
    table = among.mean(axis=2)
    np.fill_diagonal(table, -1)
    np.testing.assert_allclose(most_similar(real, real, leave_one_out=True)[0], table.max(axis=1), atol=1e-7)


def test_copies_score_one_and_real_masks_do_not_find_themselves():
    real = masks(6)
    assert similarity(real, real[:3]).value == 1.0
    assert similarity(real, real[:3]).leave_one_out < 1.0


def test_what_is_kept_tells_sets_apart_and_a_set_against_itself_from_a_copy_of_it(monkeypatch, tmp_path):
    monkeypatch.setenv("HARNESS_HOME", str(tmp_path))
    real, other = masks(6), masks(5, seed=3)
    for _ in range(2):
        assert similarity(real, real, cache=True) == similarity(real, real)
        assert similarity(real, other, cache=True) == similarity(real, other)
        assert similarity(other, real, cache=True) == similarity(other, real)


def test_it_is_gamed_by_an_empty_mask_and_says_so():
    real = masks(6, share=0.05)
    found = similarity(real, np.zeros_like(real))
    assert found.value == pytest.approx(found.black)
    assert found.black > found.leave_one_out


def test_sizes_must_agree():
    with pytest.raises(DataError, match=r"real masks are \(9, 11\).*\(8, 10\)"):
        similarity(masks(2), masks(2, 8))


def test_no_masks():
    with pytest.raises(DataError, match="got 2 real and 0 synthetic"):
        similarity(masks(2), masks(0))


def test_one_real_mask_has_nothing_to_be_compared_with():
    assert np.isnan(similarity(masks(1), masks(2)).leave_one_out)

"""Noise: as random as it says, with the facts of the real pairs that it names and no others."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import chisquare, norm

from generators.noise import Noise
from harness.conformance import check_plugin, drawn_pairs
from harness.data.pairs import PairSet
from harness.engine.fitted_generator import FittedGenerator
from harness.errors import HarnessError
from harness.learning.work_folder import WorkFolder, run_fit

PAIRS = drawn_pairs(12, 32)
CPU = torch.device("cpu")


@pytest.fixture
def fitted(tmp_path):
    """Fit on pairs, and hand back what samples from it."""

    def fit(pairs=PAIRS, **values):
        generator = Noise.create(**values)
        (checkpoint,) = run_fit(generator, pairs, WorkFolder(tmp_path / str(len(values)), CPU, 0))
        return FittedGenerator(generator, "noise", checkpoint, pairs, frozenset(), "", "")

    return fit


def sample(found, seeds):
    return found.sample(np.asarray(seeds, np.int64), CPU)


def test_uniform_noise_has_the_moments_of_256_equally_likely_levels(fitted):
    levels = sample(fitted(), range(100)).images.astype(float)
    count, variance = levels.size, (256**2 - 1) / 12
    fourth = (256**2 - 1) * (3 * 256**2 - 7) / 240
    assert levels.mean() == pytest.approx(127.5, abs=5 * np.sqrt(variance / count))
    assert levels.var() == pytest.approx(variance, abs=5 * np.sqrt((fourth - variance**2) / count))
    assert chisquare(np.bincount(levels.astype(int).ravel(), minlength=256)).pvalue > 1e-6


@pytest.mark.parametrize("colour", ["uniform", "fitted"])
def test_nothing_is_correlated_with_anything(fitted, colour):
    made = sample(fitted(colour=colour), range(60))
    images = made.images.astype(float)
    neighbours = {
        "across": (images[:, :, 1:], images[:, :, :-1]),
        "down": (images[:, 1:], images[:, :-1]),
        "channels": (images[..., 0], images[..., 1]),
        "pairs": (images[1:], images[:-1]),
        "mask": (images[..., 0], made.masks.astype(float)),
    }
    for name, (one, other) in neighbours.items():
        centred = [side - side.mean(axis=(0, 1, 2)) for side in (one, other)]
        correlation = np.corrcoef(centred[0].ravel(), centred[1].ravel())[0, 1]
        assert abs(correlation) < 5 / np.sqrt(one.size), name


@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
def test_masks_are_coin_flips_with_the_share_of_the_real_ones(fitted, share):
    masks = np.zeros((5, 40, 40), np.uint8)
    masks[: round(5 * share)] = 1
    pairs = PairSet.real(np.zeros((5, 40, 40, 3), np.uint8), masks, [f"d/{i}" for i in range(5)])
    areas = sample(fitted(pairs), range(400)).masks.sum(axis=(1, 2))
    deviation = np.sqrt(1600 * share * (1 - share))
    assert areas.mean() == pytest.approx(1600 * share, abs=5 * deviation / np.sqrt(400))
    # A binomial count of independent flips: flips that hang together spread far wider.
    assert areas.std() == pytest.approx(deviation, rel=5 / np.sqrt(800))


def test_fitted_colours_are_normal_draws_rounded_and_cut(fitted):
    mean, deviation = PAIRS.images.mean(axis=(0, 1, 2)), PAIRS.images.std(axis=(0, 1, 2))
    found = fitted(colour="fitted")
    kept = json.loads((found.checkpoint.folder / "noise.json").read_text())
    np.testing.assert_allclose(kept["mean"], mean, rtol=1e-12)
    np.testing.assert_allclose(kept["deviation"], deviation, rtol=1e-12)
    images = sample(found, range(200)).images
    for channel in range(3):
        edges = norm.cdf(np.arange(255) + 0.5, mean[channel], deviation[channel])
        expected = np.diff(np.concatenate([[0.0], edges, [1.0]]))
        counts = np.bincount(images[..., channel].ravel(), minlength=256)
        levels = expected @ np.arange(256)
        error = deviation[channel] / np.sqrt(counts.sum())
        assert images[..., channel].mean() == pytest.approx(levels, abs=5 * error)
        common = expected * counts.sum() > 5
        rare = ~common
        seen = np.append(counts[common], counts[rare].sum())
        wanted = np.append(expected[common], expected[rare].sum())
        assert chisquare(seen, wanted * counts.sum()).pvalue > 1e-6


def test_wide_colours_are_cut_at_black_and_white(fitted):
    images = np.zeros((4, 32, 32, 3), np.uint8)
    images[2:] = 255  # mean 127.5, deviation 127.5: a sixth of the draws lies beyond either end
    made = sample(fitted(replace(PAIRS.take(range(4)), images=images), colour="fitted"), range(50)).images
    for end, level in (("black", 0), ("white", 255)):
        assert (made == level).mean() == pytest.approx(norm.cdf(-127 / 127.5), abs=0.01), end


def test_every_fitted_pair_is_in_the_lineage_and_no_image_shows(fitted):
    """The share is a fact of all masks, so all have been seen; with uniform colours no pixel of an image has."""
    found = fitted()
    made = sample(found, range(3))
    assert found.lineage(made) == [PAIRS.seen()] * 3
    black = fitted(replace(PAIRS, images=np.zeros_like(PAIRS.images)))
    np.testing.assert_array_equal(sample(black, range(3)).images, made.images)


@pytest.mark.parametrize("colour", ["uniform", "fitted"])
def test_a_pair_depends_on_its_seed_alone(fitted, colour):
    found = fitted(colour=colour)
    seeds = [3, -3, 2**62, 0]
    whole = sample(found, seeds)
    for i in (2, 0, 3, 1):
        alone = sample(found, seeds[i : i + 1])
        np.testing.assert_array_equal(alone.images[0], whole.images[i])
        np.testing.assert_array_equal(alone.masks[0], whole.masks[i])
    assert len({image.tobytes() for image in whole.images}) == 4


def test_it_conforms(tmp_path):
    assert not [check for check in check_plugin("generators", Noise, tmp_path) if not check.passed]


def test_no_pairs_is_an_error(fitted):
    with pytest.raises(HarnessError, match="no training pairs"):
        fitted(PAIRS.take([]))

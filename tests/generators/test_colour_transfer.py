"""Colour transfer: CIELAB as kornia has it, statistics taken over, masks untouched."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kornia.color import rgb_to_lab as kornia_rgb_to_lab

from generators.colour_transfer import ColourTransfer, lab_to_rgb, rgb_to_lab, transfer_colour
from harness.conformance import drawn_pairs
from harness.plugins.contract import SampleContext


def random_images(seed, count=3, size=16):
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def test_lab_of_known_colours():
    """Values for sRGB under D65 from the CIE definition."""
    colours = np.array([[255, 255, 255], [0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
    expected = [[100, 0, 0], [0, 0, 0], [53.24, 80.09, 67.20], [87.73, -86.18, 83.18], [32.30, 79.19, -107.86]]
    np.testing.assert_allclose(rgb_to_lab(colours), expected, atol=0.02)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_lab_equals_kornias_and_comes_back(seed):
    images = random_images(seed)
    theirs = kornia_rgb_to_lab(torch.from_numpy(images).permute(0, 3, 1, 2).double() / 255).permute(0, 2, 3, 1)
    # kornia's matrix has six decimals and its own white, hence the tolerance.
    np.testing.assert_allclose(rgb_to_lab(images), theirs.numpy(), atol=0.06)
    assert np.array_equal(lab_to_rgb(rgb_to_lab(images)), images)


def test_statistics_become_those_of_the_source():
    pairs = drawn_pairs(6, 32)
    images, sources = pairs.images[:3], pairs.images[3:]
    made = rgb_to_lab(transfer_colour(images, sources))
    wanted = rgb_to_lab(sources)
    np.testing.assert_allclose(made.mean((1, 2)), wanted.mean((1, 2)), atol=0.3)
    np.testing.assert_allclose(made.std((1, 2)), wanted.std((1, 2)), atol=0.3)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), strength=st.floats(0, 1))
def test_an_image_is_its_own_colours_at_any_strength(seed, strength):
    images = random_images(seed)
    assert np.abs(transfer_colour(images, images, strength).astype(int) - images).max() <= 1


def test_strength_mixes():
    pairs = drawn_pairs(2, 32)
    images, sources = pairs.images[:1], np.clip(pairs.images[1:] // 2 + 20, 0, 255).astype(np.uint8)
    assert np.array_equal(transfer_colour(images, sources, 0.0), images)
    means = [rgb_to_lab(transfer_colour(images, sources, s)).mean((0, 1, 2)) for s in (0.0, 0.5, 1.0)]
    np.testing.assert_allclose(means[1], (means[0] + means[2]) / 2, atol=0.3)


def test_a_flat_image_takes_the_sources_mean():
    flat = np.full((1, 8, 8, 3), 90, np.uint8)
    sources = drawn_pairs(1, 32).images
    made = transfer_colour(flat, sources)
    assert len(np.unique(made.reshape(-1, 3), axis=0)) == 1
    np.testing.assert_allclose(rgb_to_lab(made).mean((1, 2)), rgb_to_lab(sources).mean((1, 2)), atol=0.6)


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_refine_keeps_masks_and_pairs_each_with_its_source(batch_size):
    pairs, sources = drawn_pairs(5, 32), drawn_pairs(5, 48, seed=1)
    context = SampleContext(torch.device("cpu"), sources, batch_size)
    made = ColourTransfer.create(strength=0.7).refine(pairs, sources, np.arange(5), context)
    assert np.array_equal(made.masks, pairs.masks)
    for i in range(5):
        alone = transfer_colour(pairs.images[i : i + 1], sources.images[i : i + 1], 0.7)
        assert np.array_equal(made.images[i], alone[0])

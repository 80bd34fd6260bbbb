"""Outlines of masks on images."""

import numpy as np
from harness.learning.overlay import BOTH_COLOUR, PREDICTION_COLOUR, TRUTH_COLOUR, overlay
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3))
def test_outlines_are_what_erosion_takes_away(seed, width):
    rng = np.random.default_rng(seed)
    masks = ndimage.binary_opening(rng.random((2, 12, 15)) < 0.8, np.ones((1, 2, 2))).astype(np.uint8)
    images = rng.integers(0, 200, (2, 12, 15, 3), dtype=np.uint8)
    drawn = overlay(images, masks, np.zeros_like(masks), width)
    cross = ndimage.generate_binary_structure(2, 1)
    for image, mask, result in zip(images, masks, drawn, strict=True):
        outline = (mask == 1) & ~ndimage.binary_erosion(mask, cross, iterations=width)
        assert (result[outline] == TRUTH_COLOUR).all()
        np.testing.assert_array_equal(result[~outline], image[~outline])


def test_colours_of_an_overlay():
    image = np.full((20, 20, 3), 7, np.uint8)
    truth, prediction = np.zeros((2, 20, 20), np.uint8)
    truth[2:10, 2:10] = 1
    prediction[2:10, 2:15] = 1
    drawn = overlay(image, truth, prediction)
    assert tuple(drawn[5, 9]) == TRUTH_COLOUR
    assert tuple(drawn[5, 14]) == PREDICTION_COLOUR
    assert tuple(drawn[2, 5]) == BOTH_COLOUR
    assert tuple(drawn[5, 5]) == (7, 7, 7)
    assert (image == 7).all()

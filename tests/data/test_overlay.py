"""Outlines: what is painted, and that their colours can be told apart, and from mucosa, by everybody."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from harness.data.overlay import BOTH_COLOUR, PREDICTION_COLOUR, TRUTH_COLOUR, overlay


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3))
def test_outlines_are_what_erosion_takes_away(seed: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    masks = ndimage.binary_opening(rng.random((2, 12, 15)) < 0.8, np.ones((1, 2, 2))).astype(np.uint8)
    images = rng.integers(0, 200, (2, 12, 15, 3), dtype=np.uint8)
    drawn = overlay(images, masks, np.zeros_like(masks), width)
    np.testing.assert_array_equal(drawn, overlay(images, masks, width=width))
    cross = ndimage.generate_binary_structure(2, 1)
    for image, mask, result in zip(images, masks, drawn, strict=True):
        outline = (mask == 1) & ~ndimage.binary_erosion(mask, cross, iterations=width)
        assert (result[outline] == TRUTH_COLOUR).all()
        np.testing.assert_array_equal(result[~outline], image[~outline])


def test_what_is_true_what_is_predicted_and_what_is_both() -> None:
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


#: Linear RGB as each kind of colour vision has it: Machado, Oliveira and Fernandes (2009), severity 1.
VISION: dict[str, Any] = {
    "normal": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
#: Pale, pink, red, dark red, nearly black and yellowish mucosa, and a polyp.
MUCOSA = [(225, 165, 140), (200, 120, 100), (165, 70, 55), (110, 40, 30), (70, 30, 20), (200, 150, 80), (190, 90, 90)]


def lab(colour: tuple[int, ...], vision: str) -> NDArray[np.float64]:
    """CIELAB (D65) of an sRGB colour as it is seen."""
    value = np.array(colour) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.array(VISION[vision]) @ linear, 0, 1)
    to_xyz = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    xyz = np.array(to_xyz) @ seen / (0.95047, 1, 1.08883)
    x, y, z = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def least_apart(colours: list[tuple[int, ...]], vision: str) -> float:
    """The smallest distance of the colours from each other and from mucosa."""
    pairs = [*combinations(colours, 2), *((colour, mucosa) for colour in colours for mucosa in MUCOSA)]
    return min(float(np.linalg.norm(lab(one, vision) - lab(other, vision))) for one, other in pairs)


@pytest.mark.parametrize("vision", VISION)
def test_colours_stay_apart_for_every_kind_of_colour_vision_and_on_mucosa(vision: str) -> None:
    assert least_apart([TRUTH_COLOUR, PREDICTION_COLOUR, BOTH_COLOUR], vision) > 29.5


def test_that_is_not_true_of_every_pair_of_colours() -> None:
    bluish_green, orange = (0, 158, 115), (230, 120, 0)
    assert least_apart([bluish_green, orange], "protan") < 7

"""Prediction and overlays."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_lightning import LightningModule
from safetensors.torch import save_file
from scipy import ndimage
from torch import nn

from harness.errors import WeightsError
from harness.learning.overlay import BOTH_COLOUR, PREDICTION_COLOUR, TRUTH_COLOUR, overlay
from harness.learning.predict import load_module, predict, predict_masks
from harness.plugins.contract import Segmenter

CPU = torch.device("cpu")


class Brightness(LightningModule):
    """Says polyp where the mean of a pixel's channels is above a learned threshold."""

    def __init__(self, threshold=0.5):
        super().__init__()
        self.threshold = nn.Parameter(torch.tensor(threshold))
        self.norm = nn.BatchNorm2d(3)

    def forward(self, images):
        if self.training:
            raise AssertionError("predicts in training mode")
        assert images.dtype == torch.float32
        assert images.min() >= 0
        assert images.max() <= 1
        return images.mean(dim=1, keepdim=True) - self.threshold


class BrightnessSegmenter(Segmenter):
    name = label = "brightness"
    batch_size = 2

    def module(self, steps):
        return Brightness(threshold=9.0)


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(Brightness(threshold=0.4).state_dict(), path)
    return path


def pictures(count, side=9):
    return np.random.default_rng(0).integers(0, 256, (count, side, side + 2, 3), dtype=np.uint8)


def test_predicts_what_the_trained_weights_say(weights):
    images = pictures(7)
    expected = images.mean(axis=3) / 255 > 0.4
    for batch_size in (1, 3, 7, 32):
        masks = predict(BrightnessSegmenter(), weights, images, CPU, batch_size)
        assert masks.dtype == np.uint8
        np.testing.assert_array_equal(masks, expected)


def test_no_images_give_no_masks(weights):
    assert predict(BrightnessSegmenter(), weights, pictures(0), CPU).shape == (0, 9, 11)


def test_modes_are_left_as_they_were():
    module = Brightness().train()
    module.norm.eval()
    predict_masks(module, pictures(2), CPU)
    assert module.training
    assert not module.norm.training


def test_read_only_images_are_read(weights, tmp_path):
    np.save(tmp_path / "images.npy", pictures(3))
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    np.testing.assert_array_equal(
        predict(BrightnessSegmenter(), weights, mapped, CPU), predict(BrightnessSegmenter(), weights, pictures(3), CPU)
    )


def test_wrong_weights_are_named(tmp_path, weights):
    with pytest.raises(WeightsError, match=r"absent\.safetensors cannot be read"):
        load_module(BrightnessSegmenter(), tmp_path / "absent.safetensors", CPU)
    save_file({"other": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="are not of 'brightness'"):
        load_module(BrightnessSegmenter(), tmp_path / "other.safetensors", CPU)
    (tmp_path / "broken.safetensors").write_bytes(b"no")
    with pytest.raises(WeightsError, match="cannot be read"):
        load_module(BrightnessSegmenter(), tmp_path / "broken.safetensors", CPU)


def test_a_bare_module_is_preferred(weights):
    class Pretrained(BrightnessSegmenter):
        def module(self, steps):
            raise AssertionError("loads pretrained weights")

        def bare_module(self):
            return Brightness()

    assert load_module(Pretrained(), weights, CPU).threshold.item() == pytest.approx(0.4)


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

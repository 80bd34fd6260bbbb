"""What trained weights predict."""

import numpy as np
import pytest
import torch
from pytorch_lightning import LightningModule
from safetensors.torch import save_file
from torch import nn

from harness.errors import WeightsError
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

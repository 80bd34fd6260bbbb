from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from harness.data import phantom
from harness.data.datasets import open_dataset
from harness.errors import DataError

# Mean red, green and blue of frames 0, 3 and 18 of seed 0: who changes the renderer must raise phantom.VERSION.
PINNED_VERSION = 1
PINNED = [103.06, 60.34, 50.57, 102.62, 62.02, 51.45, 100.37, 62.94, 51.28]


def coarse(index: int, size: int) -> np.ndarray:
    image, _ = phantom.render(0, index, size)
    return np.asarray(Image.fromarray(image).resize((8, 8), Image.Resampling.BOX), dtype=float)


def test_frame_depends_on_seed_and_number_only():
    whole = [phantom.render(3, index, 32)[0] for index in range(6)]
    assert np.array_equal(phantom.render(3, 4, 32)[0], whole[4])
    assert not np.array_equal(phantom.render(4, 4, 32)[0], whole[4])
    longer, shorter = open_dataset("phantom", count=9, seed=3), open_dataset("phantom", count=4, seed=3)
    assert longer.entries[:4] == shorter.entries
    assert np.array_equal(longer.decode(32).images[:4], shorter.decode(32).images)


def test_images_and_masks_have_the_contract_types():
    image, mask = phantom.render(0, 0, 40)
    assert (image.dtype, image.shape, mask.dtype, mask.shape) == (np.uint8, (40, 40, 3), np.uint8, (40, 40))
    assert set(np.unique(mask)) == {0, 1}


@pytest.mark.parametrize("index", [0, 3, 9])
def test_every_size_shows_the_same_scene(index):
    assert np.abs(coarse(index, 64) - coarse(index, 256)).mean() < 6
    small, large = (phantom.render(0, index, size)[1].mean() for size in (64, 256))
    assert abs(small - large) < 0.01


def test_a_set_has_frames_with_none_one_and_two_polyps_of_varied_size():
    scipy_ndimage = pytest.importorskip("scipy.ndimage")
    masks = open_dataset("phantom", count=200).decode(64).masks
    pieces = np.array([scipy_ndimage.label(mask)[1] for mask in masks])
    shares = masks.mean(axis=(1, 2))[pieces > 0]
    assert 0.04 < (pieces == 0).mean() < 0.2
    assert 0.05 < (pieces == 2).mean() < 0.2
    assert shares.min() < 0.03
    assert shares.max() > 0.3
    assert 0.08 < masks.mean() < 0.2


def test_polyps_cannot_be_told_by_one_threshold():
    # A segmentation task that a brightness or colour threshold solves would measure nothing.
    pairs = open_dataset("phantom", count=60).decode(48)
    truth = pairs.masks.astype(bool)
    best = 0.0
    features = [pairs.images[..., channel].astype(float) for channel in range(3)]
    features.append(features[0] - features[1])
    for feature in features:
        for level in np.quantile(feature, np.linspace(0.05, 0.95, 19)):
            for guess in (feature > level, feature < level):
                best = max(best, (guess & truth).sum() / (guess | truth).sum())
    assert best < 0.5


def test_patients_are_groups_and_share_their_colour():
    dataset = open_dataset("phantom", count=40)
    groups = [entry.group for entry in dataset.entries]
    assert len(set(groups)) == 40 // phantom.FRAMES_PER_PATIENT
    centre = dataset.decode(32).images[:, 12:20, 12:20].mean(axis=(1, 2))
    hue = centre[:, 0] / centre.sum(axis=1)
    within = np.mean([hue[[name == group for name in groups]].std() for group in set(groups)])
    assert within < 0.7 * hue.std()


def test_renderer_is_pinned_to_its_version():
    measured = [float(value) for index in (0, 3, 18) for value in phantom.render(0, index, 64)[0].mean(axis=(0, 1))]
    assert phantom.VERSION == PINNED_VERSION, "pin the new numbers here"
    assert measured == pytest.approx(PINNED, abs=0.05)


def test_fingerprint_tells_seeds_and_counts_apart():
    prints = {open_dataset("phantom", count=c, seed=s).fingerprint for c, s in ((8, 0), (9, 0), (8, 1))}
    assert len(prints) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [({"count": 0}, "count"), ({"seed": -1}, "seed"), ({"count": 2.5}, "2.5"), ({"cuont": 3}, "did you mean 'count'")],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(DataError, match=message):
        open_dataset("phantom", **options)


def test_contrast_colours_polyps_and_changes_nothing_else():
    for index in (0, 3, 9):
        (plain, mask), (strong, same) = phantom.render(0, index, 48), phantom.render(0, index, 48, contrast=6)
        assert np.array_equal(mask, same)
        changed = np.abs(plain.astype(int) - strong).sum(axis=2)
        if mask.any():
            assert changed[mask == 1].mean() > 20 * max(changed[mask == 0].mean(), 0.5)
        else:
            assert not changed.any()


def test_a_phantom_of_another_contrast_is_another_dataset():
    plain, strong = open_dataset("phantom", count=4), open_dataset("phantom", count=4, contrast=6)
    assert open_dataset("phantom", count=4, contrast=1).fingerprint == plain.fingerprint
    assert strong.fingerprint != plain.fingerprint
    assert np.array_equal(strong.decode(32).images[2], phantom.render(0, 2, 32, contrast=6)[0])
    assert np.array_equal(plain.decode(32).images[2], phantom.render(0, 2, 32)[0])
    assert open_dataset("phantom", count=4, contrast=6).entries == strong.entries


@pytest.mark.parametrize("contrast", [0, -1, 11, "strong", True])
def test_a_contrast_that_cannot_be_is_refused(contrast):
    with pytest.raises(DataError, match="option contrast of dataset 'phantom' must be a number above 0"):
        open_dataset("phantom", contrast=contrast)

"""Augmentation: ranges, mask and image moving together, randomness per image, and the seeded geometric transform."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import DeclarationError
from harness.learning import augmentation
from harness.learning.augmentation import POLICIES, geometric_transform, make_augmentation


def batch(count=6, height=40, width=48, seed=0):
    """Smooth pictures with a bright blob where the mask is."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.zeros(count, 1, height, width)
    masks[:, :, height // 4 : height // 2, width // 3 : 2 * width // 3] = 1
    noise = torch.rand(count, 3, height, width, generator=generator)
    return (0.1 + 0.1 * noise + 0.6 * masks).clamp(0, 1), masks


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("shape", [(6, 40, 48), (1, 32, 32), (2, 33, 47)])
def test_shapes_and_ranges_hold(name, shape):
    images, masks = batch(*shape)
    for seed in range(8):
        torch.manual_seed(seed)
        new_images, new_masks = make_augmentation(name)(images.clone(), masks.clone())
        assert new_images.shape == images.shape
        assert new_masks.shape == masks.shape
        assert new_images.dtype == new_masks.dtype == torch.float32
        assert torch.isfinite(new_images).all()
        assert new_images.min() >= 0
        assert new_images.max() <= 1
        assert set(new_masks.unique().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("name", POLICIES)
def test_inputs_are_left_alone(name):
    images, masks = batch()
    before = images.clone(), masks.clone()
    make_augmentation(name)(images, masks)
    assert torch.equal(images, before[0])
    assert torch.equal(masks, before[1])


@pytest.mark.parametrize("name", ["paper-a", "light"])
def test_the_global_seed_decides_everything(name):
    images, masks = batch()
    results = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        results.append(make_augmentation(name)(images, masks))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    assert not torch.equal(results[0][0], results[2][0])


@pytest.mark.parametrize("name", ["paper-a", "light"])
def test_each_image_gets_a_draw_of_its_own(name):
    images, masks = batch(1)
    torch.manual_seed(0)
    many_images, many_masks = make_augmentation(name)(images.expand(8, -1, -1, -1), masks.expand(8, -1, -1, -1))
    assert len({m.numpy().tobytes() for m in many_masks}) == 8
    assert len({i.numpy().tobytes() for i in many_images}) == 8


@pytest.mark.parametrize("name", ["paper-a", "light"])
def test_mask_moves_with_the_image(name):
    """Where the moved mask says polyp, the moved image is bright: inside by far, outside not."""
    torch.manual_seed(1)
    for seed in range(6):
        images, masks = make_augmentation(name)(*batch(seed=seed))
        assert images.mean(dim=1, keepdim=True)[masks == 1].mean() > 0.45
        assert images.mean(dim=1, keepdim=True)[masks == 0].mean() < 0.3


def test_none_changes_nothing():
    images, masks = batch()
    same = make_augmentation("none")(images, masks)
    assert torch.equal(same[0], images)
    assert torch.equal(same[1], masks)


def test_paper_a_draws_as_published():
    """Zoom is uniform in 0.5 to 1.5, there is no rotation and no vertical flip, and black lies beyond the border."""
    torch.manual_seed(0)
    masks = torch.zeros(400, 1, 64, 64)
    # A mark that shows orientation: the upper left quarter of the middle.
    masks[:, :, 20:32, 20:32] = 1
    images = torch.ones(400, 3, 64, 64)
    moved, marks = augmentation.paper_a(images, masks)
    areas = marks.sum(dim=(1, 2, 3)) / 144
    # E[z^2] of the zoom is 1 + 1/12; perspective enlarges half of the images a little more.
    assert 1.05 < areas.mean() < 1.35
    assert areas.min() < 0.4
    assert areas.max() > 2.0
    rows = torch.arange(64.0).view(1, 1, 64, 1)
    columns = torch.arange(64.0).view(1, 1, 1, 64)
    heights = (marks * rows).sum(dim=(1, 2, 3)) / marks.sum(dim=(1, 2, 3))
    sides = (marks * columns).sum(dim=(1, 2, 3)) / marks.sum(dim=(1, 2, 3))
    # Above the middle, but for the shift of at most 6.4 pixels; left or right of it about equally often.
    assert heights.max() < 40
    assert heights.mean() < 28
    assert 0.4 < (sides > 31.5).float().mean() < 0.6
    shrunk = areas < 0.5
    assert (moved[shrunk] < 0.1).float().mean() > 0.1
    # Shrunk frames hold black; those much enlarged do not.
    assert (moved[areas > 1.9] < 0.1).float().mean() < 0.01


def test_noise_has_the_published_strength():
    torch.manual_seed(0)
    images = torch.full((64, 3, 32, 32), 0.5)
    deviation = (augmentation._gaussian_noise(images) - images).std(dim=(1, 2, 3)) * 255
    assert deviation.min() > 10**0.5 * 0.9
    assert deviation.max() < 50**0.5 * 1.1


def test_hue_shift_keeps_grey_and_turns_colour():
    torch.manual_seed(0)
    grey = torch.full((4, 3, 4, 4), 0.5)
    red = torch.zeros(4, 3, 4, 4)
    red[:, 0] = 0.8
    moved = augmentation._hue_saturation_value(red)
    assert (moved.amax(dim=1) <= 0.8 + 20 / 255 + 1e-6).all()
    assert not torch.allclose(moved[:, 1], moved[:, 2], atol=1e-3)
    flat = augmentation._hue_saturation_value(grey)
    assert (flat.amax(dim=1) - flat.amin(dim=1) <= 30 / 255 + 1e-5).all()


@pytest.mark.parametrize("option", [1, 2, -1])
def test_blurs_keep_flat_areas_and_filters_are_per_image(option):
    torch.manual_seed(0)
    flat = torch.full((3, 3, 8, 8), 0.25)
    choice = torch.full((3,), option)
    torch.testing.assert_close(augmentation._sharpen_or_blur(flat, choice), flat)
    busy = torch.rand(3, 3, 8, 8)
    mixed = augmentation._sharpen_or_blur(busy, torch.tensor([-1, option, -1]))
    assert torch.equal(mixed[0], busy[0])
    assert torch.equal(mixed[1], busy[1]) == (option == -1)


def test_unknown_policy_names_the_nearest():
    with pytest.raises(DeclarationError, match="no augmentation 'lite'; did you mean 'light'"):
        make_augmentation("lite")


def pairs(count, height=40, width=48):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    masks = np.zeros((count, height, width), np.uint8)
    masks[:, 10:25, 12:30] = 1
    return images, masks


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 2**62), min_size=1, max_size=5, unique=True), st.integers(0, 40))
def test_geometric_item_depends_on_its_seed_only(seeds, others):
    images, masks = pairs(1, 24, 31)
    n = len(seeds)
    stacked = np.repeat(images, n, axis=0), np.repeat(masks, n, axis=0)
    together = geometric_transform(*stacked, np.array(seeds, np.int64))
    crowd = np.concatenate([np.arange(others), seeds]).astype(np.int64)
    crowded = geometric_transform(np.repeat(images, len(crowd), 0), np.repeat(masks, len(crowd), 0), crowd)
    for i, seed in enumerate(seeds):
        alone = geometric_transform(images, masks, np.array([seed], np.int64))
        for result in ((together[0][i], together[1][i]), (crowded[0][others + i], crowded[1][others + i])):
            np.testing.assert_array_equal(result[0], alone[0][0])
            np.testing.assert_array_equal(result[1], alone[1][0])


def test_geometric_transform_moves_mask_and_image_together_and_keeps_colours():
    masks = np.zeros((20, 48, 48), np.uint8)
    masks[:, 14:30, 10:34] = 1
    images = np.where(masks[..., None] == 1, np.uint8([200, 90, 80]), np.uint8([60, 30, 20])).astype(np.uint8)
    moved, moved_masks = geometric_transform(images, masks, np.arange(20))
    assert moved.dtype == moved_masks.dtype == np.uint8
    assert set(np.unique(moved_masks)) == {0, 1}
    assert len({m.tobytes() for m in moved_masks}) == 20
    # Bilinear borders may be in between, but at most half a pixel from the mask's border.
    agree = (moved[..., 0] > 130) == (moved_masks == 1)
    assert agree.mean() > 0.98
    assert moved[..., 0].min() >= 60
    assert moved[..., 0].max() <= 200


def test_geometric_transform_refuses_unequal_counts():
    images, masks = pairs(2)
    with pytest.raises(ValueError, match="2 images, 2 masks and 3 seeds"):
        geometric_transform(images, masks, np.arange(3))


def test_affine_grid_is_the_transform_it_says():
    """Zoom, shift, rotation and mirror against a closed form, on a frame that is not square."""
    one = torch.ones(1)
    size = (40, 80)

    def source(x, y, **values):
        """Where the output pixel (x, y), in pixels from the centre, is read from, in pixels from the centre."""
        default = {"angle": 0 * one, "zoom": one, "shift": torch.zeros(1, 2), "mirror": torch.zeros(1, 2)}
        grid = augmentation._affine_grid(size, **(default | values))[0]
        across, down = grid[int(y + 20), int(x + 40)]
        return float(across) * 40, float(down) * 20

    assert source(10, 5) == pytest.approx((10.5, 5.5), abs=1e-4)
    assert source(10, 5, zoom=2 * one) == pytest.approx((5.25, 2.75), abs=1e-4)
    assert source(10, 5, shift=torch.tensor([[0.1, 0.0]])) == pytest.approx((2.5, 5.5), abs=1e-4)
    assert source(10, 5, shift=torch.tensor([[0.0, 0.1]])) == pytest.approx((10.5, 1.5), abs=1e-4)
    assert source(10, 5, mirror=torch.tensor([[1.0, 0.0]])) == pytest.approx((-10.5, 5.5), abs=1e-4)
    assert source(10, 5, angle=90 * one) == pytest.approx((5.5, -10.5), abs=1e-4)

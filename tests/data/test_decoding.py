from __future__ import annotations

import io
import multiprocessing
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from harness.data import decoding
from harness.data.datasets import open_dataset
from harness.data.importing import import_dataset
from harness.errors import DataError

DISC = np.hypot(*(np.mgrid[:96, :120] - np.array([50, 60])[:, None, None])) < 25


def encode(picture: Image.Image, form: str = "PNG", **options: object) -> io.BytesIO:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    buffer.seek(0)
    return buffer


def binarise(picture: Image.Image, form: str = "PNG", **options: object) -> np.ndarray:
    with decoding.open_picture(encode(picture, form, **options)) as opened:
        return decoding.binarise(opened)


def painted(low: object, high: object, dtype: type = np.uint8, where: np.ndarray = DISC) -> np.ndarray:
    shape = where.shape + np.shape(low)
    return np.where(where.reshape(where.shape + (1,) * len(np.shape(low))), high, low).astype(dtype).reshape(shape)


def two_colour_palette() -> Image.Image:
    picture = Image.fromarray(painted(0, 1), "P")
    picture.putpalette([20, 20, 20, 200, 40, 40] + [0] * 750)
    return picture


def blank_palette() -> Image.Image:
    picture = Image.fromarray(painted(0, 1), "P")
    picture.putpalette([0] * 768)
    return picture


MASKS = {
    "black and white": (Image.fromarray(painted(0, 255)), "PNG", {}),
    "zero and one": (Image.fromarray(painted(0, 1)), "PNG", {}),
    "any two greys": (Image.fromarray(painted(37, 201)), "BMP", {}),
    "one bit": (Image.fromarray(painted(0, 255)).convert("1"), "PNG", {}),
    "sixteen bits": (Image.fromarray(painted(0, 65535, np.uint16)), "PNG", {}),
    "sixteen bits, small values": (Image.fromarray(painted(0, 2, np.uint16)), "TIFF", {}),
    "red on black": (Image.fromarray(painted((0, 0, 0), (255, 0, 0))), "PNG", {}),
    "blue, yellow is polyp": (Image.fromarray(painted((0, 0, 255), (255, 255, 0))), "PNG", {}),
    "blue, green is polyp": (Image.fromarray(painted((0, 0, 255), (0, 200, 0))), "PNG", {}),
    "palette": (two_colour_palette(), "PNG", {}),
    "palette of one colour": (blank_palette(), "PNG", {}),
    "opacity": (Image.fromarray(painted((0, 0, 0, 0), (0, 0, 0, 255)), "RGBA"), "PNG", {}),
    "floats": (Image.fromarray(painted(0.0, 1.0, np.float32)), "TIFF", {}),
}
LOSSY = {
    "JPEG": (Image.fromarray(painted(0, 255)), "JPEG", {"quality": 75}),
    "JPEG in colour": (Image.fromarray(painted((0, 0, 0), (255, 255, 255))), "JPEG", {"quality": 60}),
    "JPEG of two greys": (Image.fromarray(painted(60, 190)), "JPEG", {"quality": 50}),
    "WEBP": (Image.fromarray(painted((0, 0, 0), (255, 255, 255))), "WEBP", {"quality": 60}),
    "smoothed edge": (Image.fromarray(painted(0, 255)).resize((240, 192)).resize((120, 96)), "PNG", {}),
}


@pytest.mark.parametrize("kind", MASKS)
def test_masks_of_any_two_values_are_read_exactly(kind):
    picture, form, options = MASKS[kind]
    assert np.array_equal(binarise(picture, form, **options), DISC)


@pytest.mark.parametrize("kind", LOSSY)
def test_compression_moves_a_mask_by_less_than_its_edge(kind):
    picture, form, options = LOSSY[kind]
    edge = DISC & ~(np.roll(DISC, 1, 0) & np.roll(DISC, -1, 0) & np.roll(DISC, 1, 1) & np.roll(DISC, -1, 1))
    assert (binarise(picture, form, **options) != DISC).sum() <= edge.sum() / 3


@pytest.mark.parametrize(
    "picture",
    [
        Image.fromarray(np.where(DISC, np.where(np.arange(120) > 60, 255, 128), 0).astype(np.uint8)),
        Image.fromarray(np.tile(np.arange(120, dtype=np.uint8) * 2, (96, 1))),
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 120), dtype=np.uint8)),
        Image.fromarray(
            np.where(DISC[..., None], np.where(np.arange(120)[:, None] > 60, [255, 0, 0], [0, 0, 255]), 0).astype(
                np.uint8
            )
        ),
    ],
    ids=["three greys", "ramp", "noise", "two lesions in two colours"],
)
@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_what_has_more_than_two_values_is_no_mask(picture, form):
    with pytest.raises(DataError, match="not a binary mask"):
        binarise(picture, form)


@pytest.mark.parametrize(("value", "expected"), [(0, False), (255, True), (1, True)])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_mask_of_one_value(value, expected, mode):
    colour = value if mode == "L" else (value,) * 3 if mode == "RGB" else (*(value,) * 3, 255)
    assert (binarise(Image.new(mode, (20, 10), colour)) == expected).all()


def independent_mask(mask: np.ndarray, size: int) -> np.ndarray:
    """Area coverage by exact integration: repeat each pixel ``size`` times along both axes, then average blocks."""
    height, width = mask.shape
    fine = np.repeat(np.repeat(mask, size, axis=0), size, axis=1)
    return fine.reshape(size, height, size, width).mean(axis=(1, 3))


@settings(max_examples=40, deadline=None)
@given(st.integers(5, 40), st.integers(5, 40), st.integers(4, 24), st.integers(0, 2**32))
def test_masks_are_reduced_by_area(height, width, size, seed):
    mask = np.random.default_rng(seed).random((height, width)) < 0.5
    coverage = independent_mask(mask, size)
    reduced = decoding.resize_mask(mask, size, "squash")
    assert np.array_equal(reduced, coverage >= 0.5 - 1e-9)


def test_half_covered_pixels_are_polyp():
    mask = np.zeros((16, 16), bool)
    mask[:, ::2] = True
    assert decoding.resize_mask(mask, 8, "squash").all()
    mask[0, 0] = False
    assert not decoding.resize_mask(mask, 8, "squash")[0, 0]


def test_images_are_decoded_as_pil_decodes_them(write_dataset):
    dataset = import_dataset("folder", write_dataset(), name="mine")
    pairs = dataset.decode(20)
    for position, entry in enumerate(dataset.entries):
        with Image.open(dataset.folder / entry.image) as picture:
            expected = picture.convert("RGB").resize((20, 20), Image.Resampling.BILINEAR)
        assert np.array_equal(pairs.images[position], np.asarray(expected))
    assert pairs.ids == ("mine/frame0", "mine/frame1", "mine/frame2")
    assert pairs.lineage[1] == {"mine/frame1"}


def test_reduced_jpeg_decoding_stays_within_two_grey_levels():
    smooth = Image.fromarray(np.random.default_rng(1).integers(0, 256, (12, 16, 3), dtype=np.uint8))
    smooth = smooth.resize((640, 480), Image.Resampling.BICUBIC)
    full = np.asarray(Image.open(encode(smooth, "JPEG", quality=92)).resize((64, 64), Image.Resampling.BILINEAR), float)
    with decoding.open_picture(encode(smooth, "JPEG", quality=92)) as picture:
        drafted = decoding.resize_image(picture, 64, "squash")
        assert picture.size == (320, 240)  # it did take the short cut
    assert np.abs(full - drafted).mean() < 2


@pytest.mark.parametrize("shape", [(60, 100), (100, 60), (61, 90)])
def test_crop_keeps_the_centre_of_image_and_mask_alike(shape):
    height, width = shape
    side = min(shape)
    row, column = np.mgrid[:height, :width]
    inside = (np.abs(row - (height - 1) / 2) < side / 2) & (np.abs(column - (width - 1) / 2) < side / 2)
    assert decoding.resize_mask(inside, 20, "crop").all()
    picture = Image.fromarray(np.repeat(inside[..., None] * np.uint8(200), 3, axis=2))
    assert decoding.resize_image(picture if picture.format else Image.open(encode(picture)), 20, "crop").min() > 90
    assert not decoding.resize_mask(~inside, 20, "crop")[1:-1, 1:-1].any()


@pytest.mark.parametrize(
    ("picture", "form"),
    [
        (Image.fromarray(painted(0, 65535, np.uint16)), "PNG"),
        (two_colour_palette(), "PNG"),
        (Image.fromarray(painted(10, 250)).convert("CMYK"), "JPEG"),
        (Image.fromarray(painted((1, 2, 3, 9), (250, 251, 252, 0)), "RGBA"), "PNG"),
    ],
)
def test_images_of_other_modes_become_rgb(picture, form):
    with decoding.open_picture(encode(picture, form)) as opened:
        pixels = np.asarray(decoding.to_rgb(opened)).astype(int)
    assert pixels.shape == (96, 120, 3)
    assert pixels[DISC].mean() > pixels[~DISC].mean() + 70


def decode_and_sum(name: str, home: str, sums: multiprocessing.Queue) -> None:
    os.environ["HARNESS_HOME"] = home
    sums.put(int(open_dataset(name).decode(64).images.sum()))


def test_two_processes_decode_at_once(write_dataset, home):
    dataset = import_dataset("folder", write_dataset(count=4), name="mine")
    context = multiprocessing.get_context("fork")
    sums = context.Queue()
    workers = [context.Process(target=decode_and_sum, args=("mine", str(home), sums)) for _ in range(3)]
    for worker in workers:
        worker.start()
    found = {sums.get(timeout=60) for _ in workers}
    for worker in workers:
        worker.join()
    assert found == {int(dataset.decode(64).images.sum())}
    left = [path.name for path in (dataset.folder / "decoded").iterdir()]
    assert len(left) == 1
    assert not left[0].startswith(".")


def test_decoded_arrays_are_mapped_and_read_only(write_dataset):
    pairs = import_dataset("folder", write_dataset(), name="mine").decode(16)
    assert isinstance(pairs.images, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        pairs.images[0, 0, 0, 0] = 1


def test_failed_decoding_leaves_no_cache(write_dataset):
    dataset = import_dataset("folder", write_dataset(), name="mine")
    (dataset.folder / dataset.entries[1].mask).unlink()
    with pytest.raises(DataError, match=r"mine/frame1: .*frame1.png is gone; import mine again"):
        dataset.decode(16)
    assert list((dataset.folder / "decoded").iterdir()) == []


@pytest.mark.parametrize(
    ("size", "geometry", "message"), [(4, "squash", "smallest size is 8"), (32, "stretch", "stretch")]
)
def test_wrong_sizes_and_geometries_are_named(size, geometry, message):
    with pytest.raises(DataError, match=message):
        open_dataset("phantom", count=2).decode(size, geometry)

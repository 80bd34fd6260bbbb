from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from harness.data import duplicates, phantom
from harness.data.datasets import near_duplicates_between
from harness.data.importing import import_dataset
from harness.errors import DataError


def frame(index: int) -> Image.Image:
    return Image.fromarray(phantom.render(1, index, 160)[0])


def stack(*pictures: Image.Image) -> np.ndarray:
    return np.stack([duplicates.thumbnail(picture) for picture in pictures])


def compressed(picture: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=40)
    return Image.open(buffer)


def bordered(picture: Image.Image) -> Image.Image:
    canvas = Image.new("RGB", (picture.width + 60, picture.height + 24), (6, 6, 6))
    canvas.paste(picture, (40, 10))
    return canvas


def cut(picture: Image.Image, left: float, top: float, right: float, bottom: float) -> Image.Image:
    """Cut shares of a picture's sides off."""
    width, height = picture.size
    return picture.crop(
        (round(left * width), round(top * height), round((1 - right) * width), round((1 - bottom) * height))
    )


def shifted(picture: Image.Image) -> Image.Image:
    canvas = Image.new("RGB", picture.size)
    canvas.paste(picture, (picture.width // 20, -picture.height // 20))
    return canvas


CHANGES = {
    **{
        f"turned or flipped ({turn.name})": lambda picture, turn=turn: picture.transpose(turn)
        for turn in Image.Transpose
    },
    "a tenth cut off around it": lambda picture: cut(picture, 0.05, 0.05, 0.05, 0.05),
    "a tenth cut off two sides": lambda picture: cut(picture, 0.1, 0, 0, 0.1),
    "a tenth cut off each side": lambda picture: cut(picture, 0.1, 0.1, 0.1, 0.1),
    "shifted by a twentieth": shifted,
    "turned by 5 degrees": lambda picture: picture.rotate(5, Image.Resampling.BILINEAR),
    "flipped, cut, small and compressed": lambda picture: compressed(
        cut(picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT), 0.1, 0, 0, 0.05).resize((90, 90))
    ),
    "compressed again": compressed,
    "made smaller": lambda picture: picture.resize((101, 97)),
    "brighter": lambda picture: ImageEnhance.Brightness(picture).enhance(1.15),
    "within a black border": bordered,
    "grey": lambda picture: picture.convert("L").convert("RGB"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_same_frame_is_found_after(change):
    first = [frame(index) for index in range(8)]
    found = duplicates.pairs_between(stack(*first), stack(*(CHANGES[change](picture) for picture in first)))
    assert [(i, j) for i, j, _ in found] == [(index, index) for index in range(8)]


@pytest.mark.parametrize("change", CHANGES)
def test_it_does_not_matter_which_of_the_two_is_changed(change):
    first = [frame(index) for index in range(4)]
    found = duplicates.pairs_between(stack(*(CHANGES[change](picture) for picture in first)), stack(*first))
    assert [(i, j) for i, j, _ in found] == [(index, index) for index in range(4)]


def test_positions_are_the_eight_that_screening_compares():
    thumbnails = stack(frame(0))
    for number in range(8):
        best, where = duplicates._screened(thumbnails, duplicates._position(thumbnails, number).copy())
        assert best[0, 0] == pytest.approx(1, abs=1e-5)
        assert where[0, 0] == number


def test_different_frames_of_one_patient_are_apart():
    assert duplicates.pairs_within(stack(*(frame(index) for index in range(60)))) == []


def test_plain_frames_with_one_round_thing_are_apart():
    across, down = np.meshgrid(np.linspace(-1, 1, 40), np.linspace(-1, 1, 40))
    draw, frames = np.random.default_rng(0), []
    for _ in range(40):
        x, y, radius = *draw.uniform(-0.3, 0.3, 2), draw.uniform(0.3, 0.5)
        ground = 70 + 25 * np.sin(across * draw.uniform(2, 8) + down * draw.uniform(2, 8))
        level = np.where(np.hypot(across - x, down - y) < radius, 190.0, ground) + draw.normal(0, 12, (40, 40))
        frames.append(Image.fromarray(level.clip(0, 255).astype(np.uint8)))
    assert duplicates.pairs_within(stack(*frames)) == []


def test_correlation_is_the_smaller_of_pearsons_of_the_frame_and_of_its_centre():
    first, second = np.random.default_rng(0).random((2, 1, 50, 50)).astype(np.float32)
    everywhere = np.ones((1, 50, 50), np.float32)
    expected = [np.corrcoef(first[0, k, k].ravel(), second[0, k, k].ravel())[0, 1] for k in (slice(50), slice(10, 40))]
    assert duplicates._correlation(first, second, everywhere)[0] == pytest.approx(min(expected), abs=1e-5)


def test_frames_that_share_little_are_not_compared():
    pixels = np.random.default_rng(0).random((1, 50, 50)).astype(np.float32)
    shown = np.zeros((1, 50, 50), np.float32)
    shown[:, :29] = 1
    assert duplicates._correlation(pixels, pixels, shown)[0] == -1
    shown[:, :31] = 1
    assert duplicates._correlation(pixels, pixels, shown)[0] == pytest.approx(1, abs=1e-5)


def test_blocks_do_not_change_what_is_found(monkeypatch):
    thumbnails = stack(*(frame(index % 5) for index in range(12)))
    whole = duplicates.pairs_within(thumbnails)
    monkeypatch.setattr(duplicates, "_BLOCK", 3)
    monkeypatch.setattr(duplicates, "_BATCH", 2)
    assert [pair[:2] for pair in duplicates.pairs_within(thumbnails)] == [pair[:2] for pair in whole]
    assert len(whole) == sum(i % 5 == j % 5 for i in range(12) for j in range(i + 1, 12))


def test_empty_frames_resemble_nothing():
    assert duplicates.pairs_within(stack(Image.new("RGB", (50, 50)), Image.new("RGB", (50, 50), "white"))) == []


def test_hash_survives_compression_and_tells_frames_apart():
    hashes = [duplicates.perceptual_hash(duplicates.thumbnail(frame(index))) for index in range(12)]
    again = duplicates.perceptual_hash(duplicates.thumbnail(compressed(frame(0))))
    assert all(len(value) == 16 for value in hashes)
    assert duplicates.hash_distance(hashes[0], again) <= 4
    assert min(duplicates.hash_distance(hashes[0], other) for other in hashes[1:]) > 4


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_groups_are_connected_components(data):
    count = data.draw(st.integers(1, 12))
    groups = data.draw(st.lists(st.sampled_from("abcdefgh"), min_size=count, max_size=count))
    index = st.integers(0, count - 1)
    linked = data.draw(st.lists(st.tuples(index, index), max_size=10))
    reach = np.array([[a == b for b in groups] for a in groups])
    for i, j in linked:
        reach[i, j] = reach[j, i] = True
    reach = np.linalg.matrix_power(reach.astype(int), count + 1) > 0
    joined = duplicates.join_groups(groups, linked)
    assert [[a == b for b in joined] for a in joined] == reach.tolist()
    assert all(joined[i] == min(name for k, name in enumerate(groups) if reach[i, k]) for i in range(count))


def test_datasets_that_share_frames(write_dataset):
    first = import_dataset("folder", write_dataset(4, "a"), name="first")
    root = write_dataset(4, "b", first=2)
    for path in (root / "images").iterdir():
        compressed(Image.open(path)).save(path.with_suffix(".jpg"), quality=80)
        path.unlink()
    second = import_dataset("folder", root, name="second")
    assert [(pair.first, pair.second) for pair in near_duplicates_between(first, second)] == [
        ("frame2", "frame2"),
        ("frame3", "frame3"),
    ]


def test_what_two_datasets_share_is_looked_for_once(write_dataset, monkeypatch):
    first = import_dataset("folder", write_dataset(3, "a"), name="first")
    second = import_dataset("folder", write_dataset(3, "b", first=2), name="second")
    found = near_duplicates_between(first, second)
    monkeypatch.setattr(duplicates, "pairs_between", lambda *stacks: pytest.fail("looked for again"))
    assert near_duplicates_between(first, second) == found
    assert [(pair.first, pair.second) for pair in found] == [("frame2", "frame2")]


def test_thumbnails_of_an_earlier_import_are_made_when_they_are_asked_for(write_dataset):
    dataset = import_dataset("folder", write_dataset(3), name="mine")
    kept = dataset.thumbnails()
    [path] = dataset.folder.glob("thumbnails*")
    path.unlink()
    np.testing.assert_array_equal(dataset.thumbnails(), kept)
    assert path.is_file()
    path.unlink()
    (dataset.folder / dataset.entries[1].image).unlink()
    with pytest.raises(DataError, match=r"mine/frame1.*harness data check"):
        dataset.thumbnails()

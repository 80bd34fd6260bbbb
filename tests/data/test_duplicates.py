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


def frame(index: int) -> Image.Image:
    return Image.fromarray(phantom.render(1, index, 160)[0])


def stack(*pictures: Image.Image) -> np.ndarray:
    return np.stack([duplicates.thumbnails(picture) for picture in pictures])


def compressed(picture: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=40)
    return Image.open(buffer)


def bordered(picture: Image.Image) -> Image.Image:
    canvas = Image.new("RGB", (picture.width + 60, picture.height + 24), (6, 6, 6))
    canvas.paste(picture, (40, 10))
    return canvas


CHANGES = {
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


def test_different_frames_of_one_patient_are_apart():
    assert duplicates.pairs_within(stack(*(frame(index) for index in range(60)))) == []


def test_correlation_is_pearsons():
    thumbnails = stack(frame(0), frame(1))
    expected = min(np.corrcoef(thumbnails[0, k].ravel(), thumbnails[1, k].ravel())[0, 1] for k in (0, 1))
    [(_, _, score)] = duplicates.pairs_between(thumbnails[:1], thumbnails[1:], threshold=-1)
    assert score == pytest.approx(expected, abs=1e-5)


def test_blocks_do_not_change_what_is_found(monkeypatch):
    thumbnails = stack(*(frame(index % 5) for index in range(12)))
    whole = duplicates.pairs_within(thumbnails)
    monkeypatch.setattr(duplicates, "_BLOCK", 3)
    assert [pair[:2] for pair in duplicates.pairs_within(thumbnails)] == [pair[:2] for pair in whole]
    assert len(whole) == sum(i % 5 == j % 5 for i in range(12) for j in range(i + 1, 12))


def test_empty_frames_resemble_nothing():
    assert duplicates.pairs_within(stack(Image.new("RGB", (50, 50)), Image.new("RGB", (50, 50), "white"))) == []


def test_hash_survives_compression_and_tells_frames_apart():
    hashes = [duplicates.perceptual_hash(duplicates.thumbnails(frame(index))) for index in range(12)]
    again = duplicates.perceptual_hash(duplicates.thumbnails(compressed(frame(0))))
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

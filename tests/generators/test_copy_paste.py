"""Copy-paste: the mask says what was pasted, the frame stays elsewhere, the sources are true."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from generators.copy_paste import CopyPaste, _move, _spread
from harness.conformance import drawn_pairs
from harness.data.pairs import PairSet
from harness.errors import HarnessError
from harness.plugins.contract import Checkpoint, SampleContext

PAIRS = drawn_pairs(16, 48)


def paste(pairs, seeds, **values):
    context = SampleContext(torch.device("cpu"), pairs)
    return CopyPaste.create(**values).sample(Checkpoint(0, Path()), np.asarray(seeds, np.int64), context)


def position(pairs, name):
    return pairs.ids.index(name)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(-(2**62), 2**62))
def test_the_frame_keeps_its_polyp_and_everything_far_from_the_paste(seed):
    made = paste(PAIRS, [seed])
    source, target = (position(PAIRS, name) for name in made.sources[0])
    frame, frame_mask = PAIRS.images[target], PAIRS.masks[target]
    assert source != target
    assert PAIRS.masks[source].any()
    assert np.all(made.masks[0] >= frame_mask)
    changed = np.any(made.images[0] != frame, axis=2)
    rows, columns = np.nonzero(changed)
    assert len(rows) > 0
    new = made.masks[0].astype(bool) & ~frame_mask.astype(bool)
    if new.any():
        # The rim fades out within a few pixels of the polyp: nothing changes far from the box of the mask.
        union = np.nonzero(made.masks[0])
        assert rows.min() >= union[0].min() - 8
        assert rows.max() <= union[0].max() + 8
        assert columns.min() >= union[1].min() - 8
        assert columns.max() <= union[1].max() + 8


def test_what_is_pasted_is_as_large_as_asked():
    mask = np.zeros((1, 64, 64), np.uint8)
    mask[0, 24:40, 24:40] = 1
    image = np.full((1, 64, 64, 3), 150, np.uint8)
    empty = np.zeros_like(mask)
    pairs = PairSet.real(np.concatenate([image, image]), np.concatenate([mask, empty]), ["a", "b"])
    for scale in (0.5, 1.0):
        made = paste(pairs, range(10), smallest_scale=scale, largest_scale=scale, largest=1.0)
        assert set(made.sources) == {("a", "b")}
        np.testing.assert_allclose(made.masks.sum((1, 2)), 256 * scale**2, rtol=0.2)
    shrunk = paste(pairs, range(10), largest=0.125, rotation=0)
    assert all(m.any(axis=0).sum() <= 9 and m.any(axis=1).sum() <= 9 for m in shrunk.masks)


def test_a_polyp_takes_on_the_colour_of_its_surroundings():
    """On flat frames the membrane is the difference of the two colours: a matched polyp keeps its own contrast."""
    mask = np.zeros((2, 64, 64), np.uint8)
    mask[0, 24:40, 24:40] = 1
    images = np.empty((2, 64, 64, 3), np.uint8)
    images[0], images[1] = (120, 80, 60), (170, 110, 100)
    images[0, 24:40, 24:40] += 30
    pairs = PairSet.real(images, mask, ["a", "b"])
    matched, unmatched = (
        paste(pairs, range(6), colour_match=match, largest_scale=1.0, smallest_scale=1.0) for match in (1.0, 0.0)
    )
    inside = matched.masks.astype(bool)
    core = inside & np.roll(inside, 4, 1) & np.roll(inside, -4, 1) & np.roll(inside, 4, 2) & np.roll(inside, -4, 2)
    np.testing.assert_allclose(matched.images[core].mean(axis=0), (200, 140, 130), atol=3)
    np.testing.assert_allclose(unmatched.images[core].mean(axis=0), (150, 110, 90), atol=5)


def test_a_place_on_a_polyp_or_in_the_dark_is_avoided():
    mask = np.zeros((2, 64, 64), np.uint8)
    mask[0, 28:36, 28:36] = 1
    mask[1, :, :20] = 1
    images = np.full((2, 64, 64, 3), 150, np.uint8)
    images[1, :, 44:] = 0
    pairs = PairSet.real(images, mask, ["a", "b"])
    made = paste(pairs, range(100, 140), smallest_scale=1.0, largest_scale=1.0)
    onto = [i for i, sources in enumerate(made.sources) if sources == ("a", "b")]
    new = made.masks[onto].astype(int) - mask[1]
    covered = 1 - new.sum((1, 2)) / 64
    dark = new[:, :, 44:].sum((1, 2)) / 64
    assert len(onto) > 5
    assert covered.mean() < 0.05
    assert dark.mean() < 0.05


def test_the_rim_does_not_cover_the_polyp_that_the_frame_has():
    """Where the frame's own polyp stays in the mask, its pixels stay too, but for a blurred seam."""
    mask = np.zeros((2, 64, 64), np.uint8)
    mask[0, 24:40, 24:40] = 1
    mask[1] = 1
    images = np.full((2, 64, 64, 3), 100, np.uint8)
    images[0, 24:40, 24:40] = 160
    images[1] = 220
    pairs = PairSet.real(images, mask, ["a", "b"])
    made = paste(pairs, range(12), colour_match=0, rotation=0, smallest_scale=1.0, largest_scale=1.0)
    onto = [i for i, sources in enumerate(made.sources) if sources == ("a", "b")]
    changed = (np.abs(made.images[onto].astype(int) - 220) > 20).any(axis=3).sum((1, 2))
    assert np.all(changed <= 18 * 18)


def test_polyps_that_the_edge_or_darkness_cuts_are_left_out_when_others_are_whole():
    mask = np.zeros((3, 32, 32), np.uint8)
    mask[0, 0:8, 10:20] = 1
    mask[1, 10:20, 10:20] = 1
    mask[2, 10:20, 10:20] = 1
    images = np.full((3, 32, 32, 3), 150, np.uint8)
    images[1, 20:] = 0
    pairs = PairSet.real(images, mask, ["edge", "dark", "whole"])
    assert {sources[0] for sources in paste(pairs, range(20)).sources} == {"whole"}
    cut_only = pairs.take([0, 1])
    assert {sources[0] for sources in paste(cut_only, range(20)).sources} == {"edge", "dark"}


def test_frames_without_a_polyp_are_targets_and_never_sources():
    made = paste(PAIRS, range(150))
    empty = {name for name, mask in zip(PAIRS.ids, PAIRS.masks, strict=True) if not mask.any()}
    assert empty
    assert not empty & {sources[0] for sources in made.sources}
    assert empty <= {sources[1] for sources in made.sources}


def test_one_pair_is_pasted_onto_itself_and_no_polyp_is_an_error():
    one = PAIRS.take([0])
    assert paste(one, [3]).sources == ((one.ids[0], one.ids[0]),)
    none = replace(PAIRS, masks=np.zeros_like(PAIRS.masks))
    with pytest.raises(HarnessError, match="no polyp in any of the 16 masks"):
        paste(none, [3])


def test_move_without_change_is_the_identity():
    image, mask = PAIRS.images[0], PAIRS.masks[0]
    centre = np.array([20.5, 17.0])
    moved, polyp, inside = _move(image, mask, np.eye(2), centre, centre)
    assert np.array_equal(moved, image)
    assert np.array_equal(polyp, mask * 255)
    assert np.all(inside == 255)


def test_move_brings_the_centre_to_its_place():
    mask = np.zeros((32, 32), np.uint8)
    mask[8:13, 4:9] = 1
    quarter_turn = np.array([[0.0, -1.0], [1.0, 0.0]])
    _, polyp, _ = _move(
        np.zeros((32, 32, 3), np.uint8), mask, quarter_turn, np.array([10.0, 6.0]), np.array([20.0, 15.0])
    )
    rows, columns = np.nonzero(polyp > 127)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (18, 22, 13, 17)


def test_spread_keeps_a_constant_and_is_zero_when_nothing_is_known():
    known = np.zeros((33, 30), bool)
    values = np.full((33, 30, 3), 7.0, np.float32)
    assert not _spread(values, known, 3.0).any()
    known[4:9, 20:25] = True
    np.testing.assert_allclose(_spread(values, known, 3.0), 7.0, rtol=1e-4)

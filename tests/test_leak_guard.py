"""The leak guard finds what was seen by id, by group and by frame, and only that."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from harness.leak_guard import SAME_FRAME_BITS, describe, find_leaks

PRINTS = {
    "d/a": ("d/a", "0000000000000000"),
    "d/b": ("d/g", "ffffffffffffffff"),
    "d/c": ("d/g", "00ff00ff00ff00ff"),
    "d/e": ("d/e", "0000000000000000"),
    "other/a": ("other/a", "0000000000000007"),
    "other/far": ("other/far", "0000ffffffff0000"),
}


def test_the_same_id_leaks_and_says_how() -> None:
    leaks = find_leaks({"d/a": "the segmenter was trained on it"}, ["d/a", "d/b"], PRINTS)
    assert [(leak.scored, leak.seen) for leak in leaks] == [("d/a", "d/a")]
    assert "1 of the images" in describe(leaks, "x")
    assert "the segmenter was trained on it" in describe(leaks, "x")


def test_a_near_duplicate_or_another_frame_of_the_patient_leaks() -> None:
    leaks = find_leaks({"d/b": "trained"}, ["d/c"], PRINTS)
    assert [(leak.scored, leak.seen) for leak in leaks] == [("d/c", "d/b")]


def test_the_same_frame_in_another_dataset_leaks_but_not_within_one() -> None:
    # Within one dataset near-duplicates already share a group; equal hashes alone do not make two frames one.
    assert [leak.seen for leak in find_leaks({"d/a": "trained"}, ["other/a"], PRINTS)] == ["d/a"]
    assert not find_leaks({"d/a": "trained"}, ["d/e"], PRINTS)
    assert not find_leaks({"d/a": "trained"}, ["other/far"], PRINTS)


@given(st.integers(0, 2**64 - 1), st.sets(st.integers(0, 63), max_size=12))
def test_frames_of_two_datasets_are_the_same_up_to_a_few_bits(value: int, flipped: set[int]) -> None:
    other = value
    for bit in flipped:
        other ^= 1 << bit
    prints = {"one/x": ("one/x", f"{value:016x}"), "two/y": ("two/y", f"{other:016x}")}
    assert bool(find_leaks({"one/x": "trained"}, ["two/y"], prints)) == (len(flipped) <= SAME_FRAME_BITS)


def test_nothing_seen_is_no_leak() -> None:
    assert find_leaks({}, ["d/a", "d/b"], PRINTS) == []

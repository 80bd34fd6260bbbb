"""The leak guard finds what was seen by id, by group and by frame, and only that."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from harness.engine.leak_guard import describe, find_leaks

GROUPS = {"d/a": "d/a", "d/b": "d/g", "d/c": "d/g", "d/e": "d/e"}


def test_the_same_id_leaks_and_says_how() -> None:
    leaks = find_leaks({"d/a": "the segmenter was trained on it"}, ["d/a", "d/b"], GROUPS)
    assert [(leak.scored, leak.seen) for leak in leaks] == [("d/a", "d/a")]
    assert "1 of the images" in describe(leaks)
    assert "the segmenter was trained on it" in describe(leaks)


def test_a_near_duplicate_or_another_frame_of_the_patient_leaks() -> None:
    leaks = find_leaks({"d/b": "trained"}, ["d/c", "d/e"], GROUPS)
    assert [(leak.scored, leak.seen) for leak in leaks] == [("d/c", "d/b")]
    assert "near-duplicate" in str(leaks[0])


def test_the_same_frame_in_another_dataset_leaks_when_it_was_seen() -> None:
    twins = {"o/a": ["d/e", "d/a"], "o/b": ["d/e"]}
    leaks = find_leaks({"d/a": "trained"}, ["o/a", "o/b", "o/c"], GROUPS, twins)
    assert [(leak.scored, leak.seen) for leak in leaks] == [("o/a", "d/a")]


def test_groups_reach_across_datasets_through_a_frame_that_is_in_both() -> None:
    # o/a is the same frame as d/b, which was not used; but d/c of its group was.
    assert [leak.seen for leak in find_leaks({"d/c": "trained"}, ["o/a"], GROUPS, {"o/a": ["d/b"]})] == ["d/c"]
    # o/e is of the same patient as o/a, which is the same frame as d/a, which was used.
    groups = {**GROUPS, "o/a": "o/p", "o/e": "o/p"}
    assert [leak.seen for leak in find_leaks({"d/a": "trained"}, ["o/e"], groups, {"o/a": ["d/a"]})] == ["d/a"]


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.sampled_from("xyz")),
    st.sets(st.sampled_from("abcdef")),
    st.lists(st.sampled_from("abcdef"), unique=True),
)
def test_what_leaks_is_what_shares_a_group_with_something_seen(
    groups: dict[str, str], seen: set[str], scored: list[str]
) -> None:
    leaks = find_leaks(dict.fromkeys(seen, "trained"), scored, groups)
    expected = [s for s in scored if any(groups.get(s, s) == groups.get(other, other) for other in seen)]
    assert [leak.scored for leak in leaks] == expected


def test_nothing_seen_is_no_leak() -> None:
    assert find_leaks({}, ["d/a", "d/b"], GROUPS) == []


def test_a_real_image_leaks_when_something_made_from_it_was_seen() -> None:
    made_from = {"m/0": ["d/a", "d/b"], "m/1": ["d/e"]}
    [leak, near] = find_leaks({"m/0": "the segmenter was trained on it"}, ["d/a", "d/c", "d/e"], GROUPS, {}, made_from)
    assert str(leak) == "d/a: the segmenter was trained on m/0, which was made from it"
    assert (near.scored, near.seen) == ("d/c", "d/b")


def test_a_made_image_leaks_when_what_it_was_made_from_was_seen() -> None:
    made_from = {"m/0": ["d/a"], "m/1": ["d/e"], "m/2": ["d/c"], "m/3": ["d/a"]}
    leaks = find_leaks({"d/b": "trained", "m/3": "trained"}, ["m/0", "m/1", "m/2"], GROUPS, {}, made_from)
    assert [(leak.scored, leak.source) for leak in leaks] == [("m/0", "d/a"), ("m/2", "d/c")]
    assert "m/2 (made from d/c)" in str(leaks[1])

"""Sets of pairs: what they refuse, what they keep through saving, taking and joining."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.data.pairs import PairSet


def make(count: int, lineage: list[frozenset[str]] | None = None, prefix: str = "d") -> PairSet:
    draw = np.random.default_rng(count)
    images = draw.integers(0, 256, (count, 4, 6, 3), dtype=np.uint8)
    masks = draw.integers(0, 2, (count, 4, 6), dtype=np.uint8)
    ids = tuple(f"{prefix}/{i}" for i in range(count))
    return PairSet(images, masks, ids, ids, tuple(lineage)) if lineage else PairSet.real(images, masks, ids)


@given(st.lists(st.frozensets(st.sampled_from(["d/1", "d/2", "d/3"])), min_size=1, max_size=8))
def test_saving_keeps_everything_and_loads_as_a_memory_map(
    tmp_path_factory: pytest.TempPathFactory, lineage: list[frozenset[str]]
) -> None:
    pairs = make(len(lineage), lineage)
    folder = tmp_path_factory.mktemp("pairs")
    pairs.save(folder)
    loaded = PairSet.load(folder)
    assert isinstance(loaded.images, np.memmap)
    np.testing.assert_array_equal(loaded.images, pairs.images)
    np.testing.assert_array_equal(loaded.masks, pairs.masks)
    assert (loaded.ids, loaded.groups, loaded.lineage) == (pairs.ids, pairs.groups, pairs.lineage)
    assert loaded.seen() == frozenset().union(*lineage)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=12))
def test_taking_follows_the_order_asked_for(order: list[int]) -> None:
    taken = make(5).take(order)
    np.testing.assert_array_equal(taken.images, make(5).images[order])
    assert taken.ids == tuple(f"d/{i}" for i in order)


def test_the_first_pairs_nest_and_more_than_there_are_is_an_error() -> None:
    assert make(5).first(4).first(2).ids == make(5).first(2).ids
    with pytest.raises(ValueError, match="first 6 pairs of a set of 5"):
        make(5).first(6)


def test_joining_keeps_lineages_apart() -> None:
    joined = PairSet.concatenate([make(2), make(2, [frozenset({"d/9"})] * 2, "g")])
    assert joined.lineage == (frozenset({"d/0"}), frozenset({"d/1"}), frozenset({"d/9"}), frozenset({"d/9"}))
    assert joined[3].id == "g/1"


@pytest.mark.parametrize("what", ["dtype", "mask", "ids"])
def test_wrong_shapes_types_and_counts_are_refused(what: str) -> None:
    images, masks, ids = np.zeros((2, 4, 4, 3), np.uint8), np.zeros((2, 4, 4), np.uint8), ["a", "b"]
    with pytest.raises(ValueError, match="must be"):
        PairSet.real(
            images.astype(np.float32) if what == "dtype" else images,
            masks[:, :3] if what == "mask" else masks,
            ids[:1] if what == "ids" else ids,
        )


def test_a_set_that_holds_a_pair_twice_cannot_be_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unique"):
        make(2).take([0, 0]).save(tmp_path)

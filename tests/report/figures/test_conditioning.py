"""Figures of masks and of images made for them: what stands where, and which checkpoint is marked."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from harness.data.overlay import TRUTH_COLOUR
from harness.data.pairs import PairSet
from harness.report.figures import conditioning as drawing
from harness.results.schema import CheckpointSamples, ClosestMasks, Measured, Variations


def masks(*rows: int) -> NDArray[np.uint8]:
    """Masks of 8 px with so many white rows."""
    made = np.zeros((len(rows), 8, 8), np.uint8)
    for mask, count in zip(made, rows, strict=True):
        mask[:count] = 1
    return made


def images(*levels: int) -> NDArray[np.uint8]:
    return np.stack([np.full((8, 8, 3), level, np.uint8) for level in levels])


def shown(figure: Any, columns: int) -> list[list[int | None]]:
    """Of each place the grey level of the last row; of a mask, minus its white rows."""

    def value(axis: Any) -> int | None:
        if not axis.images:
            return None
        picture = np.asarray(axis.images[0].get_array())
        white = int((picture[:, 0, 0] == 255).sum())
        return -white if white else int(picture[-1, 0, 0])

    return [[value(axis) for axis in row] for row in np.array(figure.axes).reshape(-1, columns)]


def test_real_masks_stand_above_generated_ones(study: Any) -> None:
    real = PairSet.real(images(1, 2, 3), masks(1, 2, 3), ["a", "b", "c"])
    results = replace(study({"real=all": 0.0}), real=real, masks={"squares": masks(*range(1, 9)), "none": masks()})
    figure = drawing.masks_figure(results)
    assert shown(figure, 6) == [[-1, -2, -3, None, None, None], [-1, -2, -3, -4, -5, -6]]
    assert [axis.get_ylabel() for axis in figure.axes[::6]] == ["real", "squares"]
    assert drawing.masks_figure(replace(results, masks={})) is None


def test_a_mask_stands_above_the_most_similar_real_one_with_its_sim() -> None:
    closest = ClosestMasks(masks(1, 2, 3), masks(4, 5, 6), np.array([0.95, 0.8765, 1.0]))
    figure = drawing.closest_masks_figure(Measured("squares", 0, closest_masks=closest))
    assert shown(figure, 3) == [[-1, -2, -3], [-4, -5, -6]]
    assert [axis.get_title() for axis in figure.axes[:3]] == ["0.950", "0.876", "1.000"]
    assert drawing.closest_masks_figure(Measured("squares", 0)) is None


def test_images_stand_right_of_the_mask_that_they_were_made_for() -> None:
    made = np.stack([images(11, 12, 13), images(21, 22, 23)])
    figure = drawing.variations_figure(Variations("both", masks(1, 2), made))
    assert shown(figure, 4) == [
        [-1, 11, 12, 13],
        [-2, 21, 22, 23],
    ]
    figure = drawing.variations_figure(Variations("both", masks(1, 2), made, np.array([0.25, 0.5])))
    assert [axis.get_ylabel() for axis in figure.axes[::4]] == ["0.250", "0.500"]


def checkpoints(part: str, steps: tuple[int, ...], chosen: int) -> CheckpointSamples:
    made = np.stack([images(10 * at + 1, 10 * at + 2) for at in range(len(steps))])
    return CheckpointSamples(f"g {part}", part, steps, chosen, made, np.stack([masks(3, 4)] * len(steps)))


@pytest.mark.parametrize(("part", "first"), [("images", [[-3], [-4]]), ("masks", [[], []])])
def test_a_row_is_a_seed_and_a_column_a_checkpoint(part: str, first: list[list[int]]) -> None:
    figure = drawing.checkpoints_figure(checkpoints(part, (0, 50, 100), 50))
    rest: list[None] = [None] * (2 - len(first[0]))
    assert shown(figure, 5) == [[*first[0], 1, 11, 21, *rest], [*first[1], 2, 12, 22, *rest]]
    titles = [axis.get_title() for axis in figure.axes[:5] if axis.get_title()]
    assert titles == [*(["mask"] if first[0] else []), "0", "50\nchosen", "100"]


def test_masks_of_pairs_are_outlined() -> None:
    figure = drawing.checkpoints_figure(checkpoints("pairs", (1, 2, 3), 3))
    picture = np.asarray(figure.axes[0].images[0].get_array())
    green = (picture == TRUTH_COLOUR).all(axis=-1)
    assert green[2].all()
    assert not green[3:].any()


@given(st.integers(1, 60), st.data(), st.integers(3, 9))
def test_of_many_checkpoints_the_first_the_last_and_the_chosen_are_shown(count: int, data: Any, most: int) -> None:
    steps = [7 * i for i in range(count)]
    chosen = data.draw(st.sampled_from(steps))
    found = drawing.spread(steps, chosen, most)
    assert found == sorted(set(found))
    assert len(found) == min(count, most)
    assert {0, count - 1, steps.index(chosen)} <= set(found)
    assert max(np.diff(found), default=1) <= 2 * -(-(count - 1) // (most - 1)) + 1

"""Figures of pairs beside the real pair that they were made from, and before and after refinement."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from PIL import Image

from harness.data.pairs import PairSet
from harness.report.figures.image_grids import refinement_figure, sources_figure
from harness.report.render import render
from harness.results.schema import MadeFrom


def pairs(level: int, count: int) -> PairSet:
    """Grey images, each one level brighter than the last; masks with one more row of ones each."""
    images = np.stack([np.full((8, 8, 3), level + i, np.uint8) for i in range(count)])
    masks = np.zeros((count, 8, 8), np.uint8)
    for i in range(count):
        masks[i, : i + 1] = 1
    return PairSet.real(images, masks, [f"{level}/{i}" for i in range(count)])


def shown(figure, columns: int) -> list[list[int | float | None]]:
    """Of each place the grey level of an image; of a mask, which is black and white, minus its rows of white."""
    axes = np.array(figure.axes).reshape(-1, columns)

    def value(axis) -> float | None:
        if not axis.images:
            return None
        picture = np.asarray(axis.images[0].get_array())
        levels = set(np.unique(picture).tolist())
        return -float((picture[:, 0, 0] == 255).sum()) if 255 in levels else float(picture[0, 0, 0])

    return [[value(axis) for axis in row] for row in axes]


def test_each_real_pair_stands_left_of_what_was_made_from_it_masks_below():
    made = [MadeFrom("singan", pairs(10, 1), pairs(20, 5)), MadeFrom("singan", pairs(30, 1), pairs(40, 3))]
    figure = sources_figure(made)
    assert shown(figure, 6) == [
        [10, 20, 21, 22, 23, 24],
        [-1, -1, -2, -3, -4, -5],
        [30, 40, 41, 42, None, None],
        [-1, -1, -2, -3, None, None],
    ]
    labels = [axis.get_ylabel() for axis in np.array(figure.axes).reshape(4, 6)[:, 0]]
    assert labels == ["image", "mask", "image", "mask"]
    assert figure.axes[0].get_title() == "real"
    assert figure.axes[1].get_title(loc="left") == "made from it"


def test_pairs_made_from_many_have_no_figure_of_sources():
    assert sources_figure([]) is None
    assert sources_figure([MadeFrom("dcgan", None, pairs(1, 5), pairs(2, 5))]) is None


def test_samples_stand_above_the_same_samples_after_refinement():
    made = [MadeFrom("st", pairs(10 * n, 1), pairs(100 + 10 * n, 5), pairs(50 + 10 * n, 5)) for n in (1, 2)]
    figure = refinement_figure(made)
    assert shown(figure, 6) == [
        [10, 60, 61, 62, 63, 64],
        [None, 110, 111, 112, 113, 114],
        [20, 70, 71, 72, 73, 74],
        [None, 120, 121, 122, 123, 124],
    ]
    labels = [axis.get_ylabel() for axis in np.array(figure.axes).reshape(4, 6)[:, 0]]
    assert labels == ["before", "after"] * 2


def test_refined_pairs_without_one_source_have_no_column_of_real_ones():
    figure = refinement_figure([MadeFrom("dcgan-st", None, pairs(100, 5), pairs(50, 5))])
    assert shown(figure, 5) == [[50, 51, 52, 53, 54], [100, 101, 102, 103, 104]]
    assert figure.axes[0].get_title(loc="left") == "samples"
    assert not any(axis.get_title() == "real" for axis in figure.axes)


def test_unrefined_pairs_have_no_figure_of_refinement():
    assert refinement_figure([MadeFrom("singan", pairs(10, 1), pairs(20, 5))]) is None


def test_a_report_has_one_of_each_a_generator_the_same_twice(study, tmp_path):
    made = [MadeFrom("singan", pairs(10 * n, 1), pairs(20 * n, 5)) for n in (1, 2)]
    made += [replace(one, cell="singan-st", made=pairs(100, 5), before=one.made) for one in made]
    results = replace(
        study({"real=100": 0.0}), made=made, tables=["none"], figures=["sources", "refinement"], generators=["singan"]
    )
    folders = [render(results, tmp_path / side).parent for side in "ab"]
    assert {path.stem for path in (folders[0] / "figures").iterdir()} == {"sources-0", "sources-1", "refinement-1"}
    page = (folders[0] / "report.html").read_text()
    assert "What singan-st made from one real pair" in page
    assert "Samples of singan-st before and after refinement" in page
    for path in (folders[0] / "figures").iterdir():
        assert path.read_bytes() == (folders[1] / "figures" / path.name).read_bytes()
    for path in (folders[0] / "figures").glob("*.png"):
        with Image.open(path) as picture:
            assert abs(picture.width / 220 - 3.5) < 0.01

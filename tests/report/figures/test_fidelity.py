"""Figures of what was measured of generators: what they show, and that they are the same twice."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from harness.report.figures.fidelity import (
    closest_figure,
    mask_areas_figure,
    mask_diversity_figure,
    with_closest,
    with_diversity,
)
from harness.report.render import render
from harness.results.schema import Measured

RECIPES = {"real=100": 0.0, "real=100,dcgan=300": 0.1}
NEW = {"mask-areas", "mask-diversity", "closest"}


def heights(axis) -> list[np.ndarray]:
    """The steps of a panel: what is filled, then the outline."""
    return [np.asarray(patch.get_data().values) for patch in axis.patches]


def test_mask_areas_are_shares_of_the_masks_in_bins_of_five_per_cent():
    """Paper B, Figure 3: its 1000 real masks, one at the middle of each bin that its figure counts it in."""
    counts = [200, 234, 189, 111, 73, 62, 47, 31, 18, 7, 7, 7, 6, 3, 3, 1, 1, 0, 0, 0]
    real = np.repeat((np.arange(20) + 0.5) / 20, counts)
    measured = [Measured("singan", 0, real_areas=real, areas=np.array([0.0, 0.05, 0.3, 1.0]))]
    top, panel = mask_areas_figure(measured).axes
    np.testing.assert_allclose(heights(top)[0], np.array(counts) / 10)
    filled, outlined = heights(panel)
    # An area on an edge lies in the bin above it, and 100 % in the last bin.
    assert {i: v for i, v in enumerate(filled) if v} == {0: 25.0, 1: 25.0, 6: 25.0, 19: 25.0}
    np.testing.assert_allclose(outlined, np.array(counts) / 10)
    assert top.get_ylim() == panel.get_ylim()
    assert top.get_xlim() == panel.get_xlim() == (0, 100)
    assert [axis.get_title(loc="left") for axis in (top, panel)] == ["real, 1000 masks", "singan, 4 masks"]


def test_folds_are_pooled_and_real_references_come_first(measured_of):
    measured = [
        measured_of("dcgan", 0, areas=np.full(10, 0.02)),
        measured_of("dcgan", 1, areas=np.full(30, 0.52)),
        measured_of("real (report)", 0, arm="real"),
        measured_of("plain", 0, areas=None),
    ]
    axes = mask_areas_figure(measured).axes
    titles = [axis.get_title(loc="left") for axis in axes]
    assert titles == ["real, 700 masks", "real (report), 300 masks", "dcgan, 40 masks"]
    filled = heights(axes[2])[0]
    assert {i: v for i, v in enumerate(filled) if v} == {0: 25.0, 10: 75.0}


def test_mask_diversity_has_fixed_scales_and_a_bar_for_each(measured_of):
    measured = measured_of("singan")
    axes = mask_diversity_figure(measured).axes
    assert len(axes) == 15  # four of the five real masks, and a row of bars
    for row in range(4):
        for axis, shown, scale in zip(
            axes[3 * row : 3 * row + 3],
            (measured.diversity.masks, measured.diversity.mean, measured.diversity.deviation),
            ((0, 1), (0, 1), (0, 0.5)),
            strict=True,
        ):
            (picture,) = axis.images
            np.testing.assert_array_equal(picture.get_array(), shown[row])
            assert picture.get_clim() == scale
    assert [axes[3 * row].get_ylabel() for row in range(4)] == ["10 masks", "10 masks", "9 masks", "10 masks"]
    assert [bar.get_xlim() for bar in axes[13:]] == [(0, 1), (0, 0.5)]


def test_closest_pairs_stand_above_each_other_with_their_distance(measured_of):
    measured = measured_of("dcgan")
    figure = closest_figure(measured)
    axes = figure.axes
    assert len(axes) == 12  # six of the seven pairs
    for i in range(6):
        np.testing.assert_array_equal(axes[i].images[0].get_array(), measured.closest.synthetic[i])
        np.testing.assert_array_equal(axes[6 + i].images[0].get_array(), measured.closest.real[i])
    assert [axis.get_title() for axis in axes[:6]] == ["1.5", "2.8", "4.0", "5.2", "6.5", "7.8"]
    assert "copies" not in figure.get_suptitle()


def test_a_flagged_generator_is_marked(measured_of):
    assert "dcgan, flagged as copies" in closest_figure(measured_of("dcgan", copies=True)).get_suptitle()


def test_the_fold_that_tells_most_about_copies_is_shown(study, measured_of):
    def at(fold: int, distance: float, copies: bool) -> Measured:
        measured = measured_of("dcgan", fold, copies=copies)
        return replace(measured, closest=replace(measured.closest, distances=np.array([distance])))

    chosen = with_closest(replace(study(RECIPES), measured=[at(0, 1.0, False), at(1, 3.0, True), at(2, 2.0, True)]))
    assert [m.fold for m in chosen] == [2]
    chosen = with_closest(replace(study(RECIPES), measured=[at(0, 2.0, False), at(1, 1.0, False)]))
    assert [m.fold for m in chosen] == [1]


def test_only_generators_with_several_masks_from_one_have_a_figure_of_diversity(measured_study):
    assert [(name, m.cell) for name, m in with_diversity(measured_study)] == [("dcgan", "dcgan")]


def test_masks_that_refinement_leaves_alone_are_drawn_once(measured_of, study):
    """Style transfer changes images only: one panel and one figure for both, with both names."""
    made, other = measured_of("singan"), measured_of("dcgan")
    refined = replace(made, cell="singan-st")
    results = replace(study(RECIPES), measured=[made, refined, other])
    assert [(name, m.cell) for name, m in with_diversity(results)] == [
        ("singan, singan-st", "singan"),
        ("dcgan", "dcgan"),
    ]
    axes = mask_areas_figure(results.measured).axes
    titles = [axis.get_title(loc="left") for axis in axes]
    assert titles == ["real, 700 masks", "singan, singan-st, 300 masks", "dcgan, 300 masks"]
    assert heights(axes[1])[0].sum() == pytest.approx(100)


def test_many_names_of_one_panel_fit_its_width(measured_of):
    made = measured_of("singan on 12 real")
    names = ("singan-st-1-1 on 12 real", "singan-st-1-1000 on 12 real")
    figure = mask_areas_figure([made, *(replace(made, cell=name) for name in names)])
    title = "singan, singan-st-1-1, singan-st-1-1000 on 12\nreal, 300 masks"
    assert figure.axes[1].get_title(loc="left") == title
    mixed = [made, replace(made, cell="singan-st on 4 real")]
    assert [name for name, _ in with_diversity(SimpleNamespace(measured=mixed, rows=pd.DataFrame({"kind": []})))] == [
        "singan on 12 real, singan-st on 4 real"
    ]


def test_the_top_panel_holds_the_most_real_masks(measured_of):
    few = measured_of("singan", real_areas=np.full(12, 0.52), areas=np.full(10, 0.1))
    top, panel, _ = mask_areas_figure([few, measured_of("dcgan")]).axes
    assert top.get_title(loc="left") == "real, 700 masks"
    assert {i for i, v in enumerate(heights(panel)[1]) if v} == {10}


def test_all_figures_are_in_a_report_and_the_same_twice(measured_study, tmp_path):
    only = replace(measured_study, tables=["none"], figures=sorted(NEW))
    folders = [render(only, tmp_path / name).parent / "figures" for name in ("a", "b")]
    names = sorted(path.name for path in folders[0].iterdir())
    stems = ["closest-0", "closest-1", "closest-2", "closest-3", "mask-areas", "mask-diversity-0"]
    assert names == [f"{stem}.{ending}" for stem in stems for ending in ("pdf", "png")]
    for name in names:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes(), name
    for path in folders[0].glob("*.png"):
        with Image.open(path) as picture:
            assert abs(picture.width / 220 - 3.5) < 0.01, path
    page = (folders[0].parent / "report.html").read_text()
    assert "Closest training images of fastgan" in page


def test_a_study_may_ask_for_each_table_of_generators(measured_study, tmp_path):
    for name in ("fidelity", "fidelity-masks", "memorisation", "selection"):
        only = replace(measured_study, tables=[name], figures=["none"])
        files = sorted(p.stem for p in (render(only, tmp_path / name).parent / "tables").glob("*.tex"))
        assert files == {"selection": ["selection-diffusion-images", "selection-diffusion-masks"]}.get(name, [name])


def test_a_study_that_measured_nothing_has_none_of_it(study, tmp_path):
    results = study(RECIPES)
    folder = render(results, tmp_path / "r").parent
    assert {p.stem for p in (folder / "tables").iterdir()} == {"comparison", "scores-micro", "scores-micro-imagewise"}
    assert {p.stem for p in (folder / "figures").iterdir()} == {"comparison", "ratio"}
    bare = Measured("dcgan", 0)
    assert mask_diversity_figure(bare) is closest_figure(bare) is mask_areas_figure([bare]) is None

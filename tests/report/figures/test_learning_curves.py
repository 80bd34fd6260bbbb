"""Figures against the number of real images: which lines and panels there are, and every number that is drawn."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from harness.metrics.fidelity.sample_sets import between_sets
from harness.report.figures.learning_curves import (
    fidelity_by_real_figure,
    mask_areas_by_real_figure,
    score_by_real_figure,
)
from harness.report.figures.scores import ratio_figure
from harness.report.render import render
from harness.report.tables.fidelity_rows import pools_by_generator
from harness.results.schema import Measured, score_columns
from harness.stats.study import scores

#: Paper B, Table 3: real ones, ten synthetic ones for each alone, and beside them.
SMALL = {
    f"{base}{made}": 0.02 * n - 0.1 + shift
    for base, made, shift, n in (
        ("real=5", "", 0.0, 0),
        ("real=10", "", 0.0, 1),
        ("real=20", "", 0.0, 2),
        ("sees=5", ",strong=50", 0.05, 0),
        ("sees=10", ",strong=100", 0.05, 1),
        ("sees=20", ",strong=200", 0.05, 2),
        ("real=5", ",strong=50", 0.08, 0),
        ("real=20", ",strong=200", 0.08, 2),
        ("real=5", ",resample=50", 0.0, 0),
        ("real=10", ",resample=100", 0.0, 1),
    )
}


def lines_of(figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def points(axis) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Of each line x, y and the ends of its whiskers."""
    found = []
    for container in axis.containers:
        line, _, (bars,) = container.lines
        ends = np.array([segment[:, 1] for segment in bars.get_segments()])
        found.append((np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float), ends))
    return found


def score_figure(results):
    return score_by_real_figure(results, scores(results, "iou", "micro-imagewise"))


def test_scores_stand_at_the_real_images_that_arms_have_or_were_made_from(study):
    results = replace(study(SMALL, segmenters=("unetplusplus", "fpn")), generators=["strong"])
    figure = score_figure(results)
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["unetplusplus", "fpn"]
    names = ["real only", "strong only, 10 per real image", "real + strong, 10 per real image"]
    assert lines_of(figure) == [*names, "resample (control), 10 per real image"]
    wanted = [
        {5: "real=5", 10: "real=10", 20: "real=20"},
        {5: "sees=5,strong=50", 10: "sees=10,strong=100", 20: "sees=20,strong=200"},
        {5: "real=5,strong=50", 20: "real=20,strong=200"},
        {5: "real=5,resample=50", 10: "real=10,resample=100"},
    ]
    for axis, segmenter in zip(figure.axes, ("unetplusplus", "fpn"), strict=True):
        listed = {s.key.recipe: s for s in scores(results, "iou", "micro-imagewise") if s.key.segmenter == segmenter}
        assert list(axis.get_xticks()) == [5, 10, 20]
        for (x, y, ends), labels in zip(points(axis), wanted, strict=True):
            # Lines are set apart a little, so that whiskers do not hide each other.
            np.testing.assert_allclose(x, list(labels), atol=0.3)
            assert len(set(np.round(x - np.array(list(labels)), 9))) == 1
            own = [listed[label] for label in labels.values()]
            np.testing.assert_allclose(y, [s.mean for s in own])
            np.testing.assert_allclose(ends, [[s.low, s.high] for s in own])
    hollow = figure.axes[0].containers[3].lines[0]
    assert (hollow.get_linestyle(), hollow.get_markerfacecolor()) == ("None", "white")


def test_a_score_axis_that_does_not_begin_at_zero_is_marked(study):
    results = study(SMALL)
    (axis,) = score_figure(results).axes
    assert axis.get_ylim()[0] > 0
    strokes = [line for line in axis.get_lines() if line.get_transform() == axis.transAxes]
    assert len(strokes) == 1
    assert list(strokes[0].get_xdata()) == [0, 0]
    above, _ = score_columns("iou")
    near_zero = replace(results, images=results.images.assign(**{above: results.images[above] / 1e3}))
    (axis,) = score_figure(near_zero).axes
    assert (axis.get_ylim()[0] > 0) == any(line.get_transform() == axis.transAxes for line in axis.get_lines())


def test_equal_numbers_of_synthetic_images_make_lines_of_their_own(study):
    """Paper A: 100 or 700 real images, with 100 or 300 synthetic ones."""
    recipes = {"real=100": 0.0, "real=all": 0.1}
    recipes |= {f"real={real},dcgan={count}": 0.05 for real in ("100", "all") for count in (100, 300)}
    figure = score_figure(study(recipes))
    assert lines_of(figure) == ["real only", "real + dcgan, 100 images", "real + dcgan, 300 images"]
    for x, _, _ in points(figure.axes[0]):
        np.testing.assert_allclose(x, [100, 700], atol=10)


def test_amounts_without_a_pattern_are_one_line_where_each_number_of_real_images_has_one(study):
    recipes = {"real=10": 0.0, "real=10,dcgan=10": 0.0, "real=20,dcgan=30": 0.0, "real=40,dcgan=5": 0.0}
    figure = score_figure(study(recipes))
    assert lines_of(figure) == ["real + dcgan"]
    assert [len(x) for x, _, _ in points(figure.axes[0])] == [3]


def test_one_number_of_real_images_has_no_figure(study):
    assert score_figure(study({"real=100": 0.0, "real=100,dcgan=100": 0.0, "real=100,dcgan=300": 0.1})) is None


def test_an_incomplete_arm_is_left_out_of_its_line(study, lose):
    figure = score_figure(lose(study(SMALL), "sees=10,strong=100", 1))
    x, _, _ = points(figure.axes[0])[1]
    np.testing.assert_allclose(x, [5, 20], atol=0.3)


def test_the_figure_of_amounts_leaves_such_studies_alone(study):
    """Amounts that follow the real images would be a legend of single points."""
    small = study(SMALL)
    assert ratio_figure(small, scores(small, "iou", "micro-imagewise")) is None
    for recipes in (
        {"real=100": 0.0, "real=100,dcgan=300": 0.1},
        {"real=9": 0.0, "real=9,dcgan=9": 0.0, "real=9,x=9": 0.0},
    ):
        results = study(recipes)
        assert ratio_figure(results, scores(results, "iou", "micro-imagewise")) is not None


def test_real_against_synthetic_only_is_a_band_and_a_line_for_each_generator(study):
    """Paper B, Figure 9: REAL, and one to three synthetic images for each real one, by style transfer."""
    recipes = {"real=all": 0.0}
    recipes |= {f"{name}={700 * n}": -0.05 for name in ("singan-seg", "even", "strong") for n in (1, 2, 3)}
    results = study(recipes)
    listed = scores(results, "iou", "micro-imagewise")
    figure = ratio_figure(results, listed)
    (axis,) = figure.axes
    assert lines_of(figure) == ["real=all (real only)", "singan-seg", "even", "strong"]
    (band,) = axis.patches
    (real,) = [s for s in listed if s.key.recipe == "real=all"]
    assert (band.get_y(), band.get_y() + band.get_height()) == pytest.approx((real.low, real.high))
    for (x, y, _), name in zip(points(axis), ("singan-seg", "even", "strong"), strict=True):
        np.testing.assert_allclose(x, [700, 1400, 2100], atol=50)
        np.testing.assert_allclose(y, [s.mean for s in listed if s.key.recipe.startswith(f"{name}=")])
    assert any(line.get_transform() == axis.transAxes for line in axis.get_lines())


def test_synthetic_images_from_different_numbers_of_real_ones_are_different_lines(study):
    recipes = {"real=5": 0.0} | {f"sees={n},strong={count}": 0.0 for n in (5, 10) for count in (50, 100)}
    results = study(recipes)
    figure = ratio_figure(results, scores(results, "iou", "micro-imagewise"))
    assert lines_of(figure) == ["real=5 (real only)", "strong, fitted on 5 real", "strong, fitted on 10 real"]


# distances


def fitted(rows, number: int):
    """Rows of a generator that was fitted on so many real images, as the collector writes them."""
    name = rows[0]["generator"]
    return [row | {"cell": f"{name} on {number} real", "real": number, "n_fit": number} for row in rows]


def with_sets(rows, spread: float):
    return [new for row in rows for new in (row, {**row, "metric": between_sets(row["metric"]), "value": spread})]


@pytest.fixture
def small_fidelity(study, add_rows, fidelity_rows):
    """Two generators after fits on 5, 10 and 20 real images, a third after one, and real images."""
    rows = []
    for number in (20, 5, 10):
        rows += with_sets(fitted(fidelity_rows("strong", {"fid": 100.0 + number}, images=number), number), 2.5)
        rows += fitted(fidelity_rows("fastgan", {"fid": 200.0 - number}, images=number), number)
    rows += fitted(fidelity_rows("dcgan", images=5), 5)
    rows += fidelity_rows("real (report)", {"fid": 30.0}, arm="real", real=300, seen="", synthetic=0)
    return add_rows(study({"real=5": 0.0}), rows)


def test_distances_have_a_panel_each_and_a_line_for_each_generator_of_several_fits(small_fidelity):
    figure = fidelity_by_real_figure(small_fidelity)
    assert [axis.get_ylabel() for axis in figure.axes] == [
        "FID", "Corrected FID", "KID", "SIFID", "Fréchet distance", "Thumbnail distance",
    ]  # fmt: skip
    assert lines_of(figure) == ["strong", "fastgan"]
    (x, y, ends), (_, other, none) = points(figure.axes[0])
    np.testing.assert_allclose(x, [5, 10, 20], atol=0.2)
    assert list(y) == [105, 110, 120]
    np.testing.assert_allclose(ends, [[102.5, 107.5], [107.5, 112.5], [117.5, 122.5]])
    assert list(other) == [195, 190, 180]
    np.testing.assert_allclose(none[:, 0], none[:, 1])
    assert list(figure.axes[0].get_xticks()) == [5, 10, 20]
    assert "real images" in figure.axes[-1].get_xlabel().lower()


def test_a_missing_distance_is_a_gap_and_folds_have_no_whiskers(study, add_rows, fidelity_rows):
    rows = []
    for number in (5, 10, 20):
        for fold in range(2):
            value = math.nan if (number, fold) == (10, 1) else 50.0 + 10 * fold
            rows += with_sets(fitted(fidelity_rows("strong", {"fid": value}, fold=fold), number), 2.5)
    figure = fidelity_by_real_figure(add_rows(study({"real=5": 0.0}, folds=2), rows))
    ((x, y, ends),) = points(figure.axes[0])
    np.testing.assert_allclose(x, [5, 20], atol=0.2)
    np.testing.assert_allclose(y, 55)
    np.testing.assert_allclose(ends, 55)


def test_generators_of_one_fit_have_no_figure_of_distances(measured_study):
    assert fidelity_by_real_figure(measured_study) is mask_areas_by_real_figure(measured_study) is None


# polyp areas


def of_fit(name: str, number: int, count: int, area: float, fold: int = 0) -> Measured:
    return Measured(f"{name} on {number} real", fold, real_areas=np.full(number, 0.12), areas=np.full(count, area))


@pytest.fixture
def small_areas(small_fidelity, add_rows, fidelity_rows):
    """Six fits of a generator and of the same refined, of a third other masks, which lacks the largest."""
    numbers = (5, 10, 15, 20, 25, 30)
    rows = [
        row for name in ("singan-seg", "strong", "fastgan") for n in numbers for row in fitted(fidelity_rows(name), n)
    ]
    measured = [of_fit(name, n, 10 * n, n / 100 + 0.01) for name in ("singan-seg", "strong") for n in numbers]
    measured += [of_fit("fastgan", n, n, 0.52) for n in numbers[:5]]
    return replace(add_rows(small_fidelity, rows), measured=measured)


def test_areas_have_a_column_a_number_and_refined_masks_are_not_drawn_twice(small_areas):
    figure = mask_areas_by_real_figure(small_areas)
    axes = np.array(figure.axes).reshape(6, 5)  # two blocks of five numbers: real, singan-seg and strong, fastgan
    assert lines_of(figure) == ["real", "singan-seg, strong", "fastgan"]
    assert [axis.get_title() for axis in axes[0]] == ["n = 5", "n = 10", "n = 15", "n = 20", "n = 25"]
    assert [axis.get_title() for axis in axes[3]] == ["n = 30", "", "", "", ""]
    assert [axis.axison for axis in axes[3]] == [True, False, False, False, False]

    def filled(axis) -> dict[int, float]:
        (patch,) = axis.patches
        return {5 * i: value for i, value in enumerate(patch.get_data().values) if value}

    assert filled(axes[0, 3]) == {10: 100.0}
    assert [filled(axis) for axis in axes[1]] == [{5 * (i + 1): 100.0} for i in range(5)]
    assert filled(axes[4, 0]) == {30: 100.0}
    assert filled(axes[2, 0]) == {50: 100.0}
    assert [axis.texts[0].get_text() for axis in axes[:3, 1]] == ["10", "100", "10"]
    assert not axes[5, 0].patches
    assert len({axis.get_ylim() for axis in axes.flat}) == 1


def test_a_refined_generator_that_lacks_a_fit_has_a_row_of_its_own(small_areas):
    fewer = [m for m in small_areas.measured if m.cell != "strong on 30 real"]
    figure = mask_areas_by_real_figure(replace(small_areas, measured=fewer))
    assert lines_of(figure) == ["real", "singan-seg", "strong", "fastgan"]


def test_a_generator_without_areas_is_left_out(small_areas):
    bare = [replace(m, areas=None) if "fastgan" in m.cell else m for m in small_areas.measured]
    figure = mask_areas_by_real_figure(replace(small_areas, measured=bare))
    assert lines_of(figure) == ["real", "singan-seg, strong"]


def test_other_figures_show_the_largest_fit_of_each_generator(small_areas, tmp_path):
    chosen = pools_by_generator(small_areas)
    assert list(chosen["fastgan"]) == [5, 10, 15, 20, 25]
    from harness.report.tables.fidelity_rows import largest_fits

    assert [m.cell for m in largest_fits(small_areas)] == ["singan-seg on 30 real", "strong on 30 real"]


def test_the_first_fold_stands_for_all(small_areas):
    later = [replace(m, fold=1, areas=np.zeros(3)) for m in small_areas.measured]
    chosen = pools_by_generator(replace(small_areas, measured=[*small_areas.measured, *later]))
    assert all(measured.fold == 0 for pools in chosen.values() for measured in pools.values())


def test_a_report_has_all_of_them_the_same_twice(small_areas, study, tmp_path):
    names = ["score-by-real", "fidelity-by-real", "mask-areas-by-real"]
    results = study(SMALL)
    both = replace(
        small_areas,
        rows=small_areas.rows[small_areas.rows["kind"] == "fidelity"],
        tables=["none"],
        figures=names,
    )
    for kind, expected in ((both, names[1:]), (replace(results, figures=names, tables=["none"]), names[:1])):
        folders = [render(kind, tmp_path / expected[0] / side).parent / "figures" for side in "ab"]
        assert {path.stem for path in folders[0].iterdir()} == set(expected)
        for path in folders[0].iterdir():
            assert path.read_bytes() == (folders[1] / path.name).read_bytes()

"""Checkpoint selection in print: the papers' form of table, what was chosen, what could not be."""

from __future__ import annotations

import csv
import io
import math

import numpy as np
import pytest
from PIL import Image

from harness.report.figures.fidelity import selection_figure
from harness.report.figures.style import save
from harness.report.tables.selection import selection_tables

RECIPES = {"real=100": 0.0, "real=100,dcgan=300": 0.1}


@pytest.fixture
def selected(study, add_rows, selection_rows):
    """A selection of three checkpoints by two metrics, one of which cannot be chosen."""

    def of(chosen: int, points=None):
        points = points or {
            0: {"fid": 140.14, "sim": 0.8822},
            500: {"fid": math.nan, "sim": 0.9},
            1000: {"fid": 87.826, "sim": 0.9165},
        }
        return add_rows(study(RECIPES), selection_rows("dcgan pairs", points, chosen, {500: "constant"}))

    return of


def shown(table) -> list[list[str]]:
    return [[cell.markdown() for cell in row] for row in table.rows]


def test_a_table_a_part_a_row_a_checkpoint(measured_study):
    masks, images = selection_tables(measured_study)
    assert (masks.name, images.name) == ("selection-diffusion-masks", "selection-diffusion-images")
    assert masks.columns == ["Step", "FID", "SIM", "Choice"]
    assert shown(masks) == [
        ["0", "140.14", "0.8822", ""],
        ["50000", "–", "0.8946", "cannot be chosen: empty masks"],
        ["**200000**", "**87.83**", "**0.9165**", "**chosen**"],
    ]
    assert shown(images) == [["88", "119.34", ""], ["**135**", "**104.78**", "**chosen**"]]
    assert "FID and SIM of 64 samples each against the select images, network inception-clean" in masks.caption
    assert "complete 1/1" in masks.caption


def test_folds_are_blocks_and_never_averaged(study, add_rows, selection_rows):
    rows = selection_rows("dcgan pairs", {1: {"fid": 80.0}, 2: {"fid": 70.0}}, 2, fold=0)
    rows += selection_rows("dcgan pairs", {1: {"fid": 60.0}, 2: {"fid": 90.0}}, 1, fold=1)
    (table,) = selection_tables(add_rows(study(RECIPES, folds=2), rows))
    assert table.name == "selection"
    assert table.rules == {0, 2}
    assert shown(table) == [
        ["0", "1", "80.00", ""],
        ["", "**2**", "**70.00**", "**chosen**"],
        ["1", "**1**", "**60.00**", "**chosen**"],
        ["", "2", "90.00", ""],
    ]
    records = list(csv.DictReader(io.StringIO(table.csv())))
    assert [(r["fold"], r["step"], r["fid"], r["chosen"]) for r in records[1:3]] == [
        ("0", "2", "70", "True"),
        ("1", "1", "60", "True"),
    ]


def test_a_selection_without_a_result_is_a_hole(study, add_rows, selection_rows):
    hole = selection_rows("dcgan pairs", {0: {"fid": float("nan"), "sim": float("nan")}}, -1)
    results = add_rows(study(RECIPES), [{**row, "step": "", "status": "out-of-memory"} for row in hole])
    (table,) = selection_tables(results)
    assert shown(table) == [["–", "out-of-memory", "out-of-memory", ""]]
    assert "incomplete 0/1" in table.caption


def test_what_cannot_be_chosen_is_said_and_numbers_are_kept_in_full(selected):
    (table,) = selection_tables(selected(1000))
    assert shown(table)[1:] == [
        ["500", "–", "0.9000", "cannot be chosen: constant"],
        ["**1000**", "**87.83**", "**0.9165**", "**chosen**"],
    ]
    records = list(csv.DictReader(io.StringIO(table.csv())))
    assert records[1] == {"fold": "0", "step": "500", "fid": "", "sim": "0.9", "chosen": "False", "problem": "constant"}
    assert records[2]["fid"] == "87.826"


def test_nothing_is_chosen_when_nothing_can_be(selected):
    (table,) = selection_tables(selected(-1, {500: {"fid": math.nan}}))
    assert shown(table) == [["500", "–", "cannot be chosen: constant"]]


def blue(path) -> int:
    """Pixels in the colour of the first curve."""
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    return int((np.abs(pixels - (0x00, 0x72, 0xB2)).sum(axis=2) < 30).sum())


def test_the_chosen_step_is_a_larger_mark(selected, tmp_path):
    save(selection_figure(selected(1000)), tmp_path / "chosen")
    save(selection_figure(selected(-1)), tmp_path / "none")
    assert blue(tmp_path / "chosen.png") > blue(tmp_path / "none.png") + 500
    assert (tmp_path / "chosen.pdf").read_bytes().startswith(b"%PDF")


def test_what_cannot_be_chosen_is_a_cross_and_on_no_line(selected):
    figure = selection_figure(selected(1000))
    fid, sim = (
        {line.get_marker() + line.get_linestyle(): line for line in axis.get_lines() if len(line.get_xdata())}
        for axis in figure.axes
    )
    assert list(fid["o-"].get_xdata()) == list(sim["o-"].get_xdata()) == [0, 1000]
    assert list(fid["oNone"].get_xdata()) == list(sim["oNone"].get_xdata()) == [1000]
    assert list(sim["xNone"].get_xydata()[0]) == [500, 0.9]
    assert fid["xNone"].get_transform() == figure.axes[0].get_xaxis_transform()  # no value: on the axis
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["chosen", "cannot be chosen"]


def test_drawing_twice_gives_the_same_bytes(measured_study, tmp_path):
    for stem in ("a", "b"):
        assert save(selection_figure(measured_study), tmp_path / stem)
    for ending in ("png", "pdf"):
        assert (tmp_path / f"a.{ending}").read_bytes() == (tmp_path / f"b.{ending}").read_bytes()


def test_no_selection_is_no_figure(study):
    assert selection_figure(study(RECIPES)) is None
    assert selection_tables(study(RECIPES)) == []


@pytest.mark.parametrize("second", [1, 500])
def test_panels_fill_the_figure_whether_or_not_something_cannot_be_chosen(selected, second):
    steps = (0, second, 502, 503)
    figure = selection_figure(selected(503, {i: {"fid": 400.0 - i, "sim": 0.5 + i / 1000} for i in steps}))
    figure.canvas.draw()
    heights = [axis.get_position().height for axis in figure.axes]
    assert min(heights) > 0.25
    assert sum(heights) > 0.6

"""Checkpoint selection in print: the papers' form of table, what was chosen, what could not be."""

from __future__ import annotations

import csv
import io
import sys
from subprocess import run

import numpy as np
import pytest
from PIL import Image

from harness.report.figures import fidelity as fidelity_figures
from harness.report.figures.fidelity import draw_selection, selection_figure
from harness.report.tables.selection import selection_table, selection_tables

RECIPES = {"real=100": 0.0, "real=100,dcgan=300": 0.1}
ROWS = [
    {"step": 0, "fid": 140.14, "sim": 0.8822, "problem": ""},
    {"step": 500, "fid": None, "sim": 0.9, "problem": "constant"},
    {"step": 1000, "fid": 87.826, "sim": 0.9165, "problem": ""},
]


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


def test_the_stage_gets_the_same_table_of_its_rows():
    table = selection_table(ROWS, 1000, ["fid", "sim"])
    assert shown(table)[1:] == [
        ["500", "–", "0.9000", "cannot be chosen: constant"],
        ["**1000**", "**87.83**", "**0.9165**", "**chosen**"],
    ]
    records = list(csv.DictReader(io.StringIO(table.csv())))
    assert records[1] == {"step": "500", "fid": "", "sim": "0.9", "chosen": "False", "problem": "constant"}
    assert records[2]["fid"] == "87.826"


def test_nothing_is_chosen_when_nothing_can_be():
    rows = [{"step": 1, "fid": None, "problem": "not a number"}]
    assert shown(selection_table(rows, None, ["fid"])) == [["1", "–", "cannot be chosen: not a number"]]


def blue(path) -> int:
    """Pixels in the colour of the first curve."""
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    return int((np.abs(pixels - (0x00, 0x72, 0xB2)).sum(axis=2) < 30).sum())


def test_the_chosen_step_is_a_larger_mark(tmp_path):
    draw_selection(ROWS, 1000, ["fid", "sim"], tmp_path / "chosen")
    draw_selection(ROWS, None, ["fid", "sim"], tmp_path / "none")
    assert blue(tmp_path / "chosen.png") > blue(tmp_path / "none.png") + 500
    assert (tmp_path / "chosen.pdf").read_bytes().startswith(b"%PDF")


def test_what_cannot_be_chosen_is_a_cross_and_on_no_line(monkeypatch, tmp_path):
    figures = []
    monkeypatch.setattr(fidelity_figures, "save", lambda figure, stem: figures.append(figure))
    draw_selection(ROWS, 1000, ["fid", "sim"], tmp_path / "s")
    fid, sim = (
        {line.get_marker() + line.get_linestyle(): line for line in axis.get_lines() if len(line.get_xdata())}
        for axis in figures[0].axes
    )
    assert list(fid["o-"].get_xdata()) == list(sim["o-"].get_xdata()) == [0, 1000]
    assert list(fid["oNone"].get_xdata()) == list(sim["oNone"].get_xdata()) == [1000]
    assert list(sim["xNone"].get_xydata()[0]) == [500, 0.9]
    assert fid["xNone"].get_transform() == figures[0].axes[0].get_xaxis_transform()  # no value: on the axis
    assert [text.get_text() for text in figures[0].legends[0].get_texts()] == ["chosen", "cannot be chosen"]


def test_drawing_twice_gives_the_same_bytes(measured_study, tmp_path):
    for stem in ("a", "b"):
        assert selection_figure(measured_study, tmp_path / stem)
    for ending in ("png", "pdf"):
        assert (tmp_path / f"a.{ending}").read_bytes() == (tmp_path / f"b.{ending}").read_bytes()


def test_no_selection_is_no_figure(study, tmp_path):
    assert not selection_figure(study(RECIPES), tmp_path / "s")
    assert selection_tables(study(RECIPES)) == []
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("module", ["harness.report.figures.fidelity", "harness.report.tables.selection"])
def test_a_stage_imports_nothing_heavy_with_them(module):
    code = f"import sys, {module}; print(sorted({{'torch', 'pandas', 'matplotlib'}} & set(sys.modules)))"
    done = run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("problem", ["", "constant"])
def test_panels_fill_the_figure_whether_or_not_something_cannot_be_chosen(monkeypatch, tmp_path, problem):
    figures = []
    monkeypatch.setattr(fidelity_figures, "save", lambda figure, stem: figures.append(figure))
    rows = [{"step": i, "fid": 400.0 - i, "sim": 0.5 + i / 10, "problem": problem if i == 1 else ""} for i in range(4)]
    draw_selection(rows, 3, ["fid", "sim"], tmp_path / "s")
    figures[0].canvas.draw()
    heights = [axis.get_position().height for axis in figures[0].axes]
    assert min(heights) > 0.25
    assert sum(heights) > 0.6

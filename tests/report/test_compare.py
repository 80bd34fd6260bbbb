"""Two reports side by side."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.errors import DeclarationError
from harness.report.compare import compare

RECIPES = {"real=100": 0.0, "real=100,dcgan=300": 0.10}


@pytest.fixture
def write(tmp_path):
    def _write(name, results):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "results.csv").write_text(results.csv())
        return folder

    return _write


def test_a_report_equals_itself(full_study, write):
    table, text = compare(write("a", full_study), write("b", full_study))
    assert len(table) == len(full_study.rows)
    assert set(table["where"]) == {"both"}
    assert (table["difference"] == 0).all()
    assert f"{len(table)} numbers in both, {len(table)} of them equal." in text


def test_a_changed_number_is_named_with_its_arm(study, write):
    results = study(RECIPES)
    rows = results.rows.copy()
    chosen = (rows["recipe"] == "real=100") & (rows["metric"] == "iou") & (rows["reduction"] == "micro")
    rows.loc[rows[chosen].index[0], "value"] += 0.03
    table, text = compare(write("a", results), write("b", replace(results, rows=rows)))
    changed = table[table["difference"] != 0]
    assert len(changed) == 1
    assert changed["difference"].item() == pytest.approx(0.03)
    assert "unetplusplus * real=100, IoU (micro)" in text
    assert "+0.0100; 1 of 3 changed" in text


def test_cells_of_one_report_only_are_listed_in_order(study, write):
    more = study(RECIPES)
    fewer = replace(more, rows=more.rows[more.rows["recipe"] == "real=100"])
    table, text = compare(write("a", fewer), write("b", more))
    only = table[table["where"] == "only b"]
    assert set(only["recipe"]) == {"real=100,dcgan=300"}
    assert list(table["recipe"])[: len(fewer.rows)] == list(fewer.rows["recipe"])
    assert f"Only in b: {len(only)} rows (unetplusplus * real=100,dcgan=300)." in text


def test_the_same_file_may_be_named_instead_of_the_folder(study, write):
    folder = write("a", study(RECIPES))
    table, _ = compare(folder / "results.csv", folder)
    assert (table["difference"] == 0).all()


def test_failed_cells_are_joined_once(study, lose, write):
    results = lose(study(RECIPES), "real=100", 0)
    table, _ = compare(write("a", results), write("b", results))
    assert len(table) == len(results.rows)


def test_what_is_no_report_is_refused(study, write, tmp_path):
    folder = write("a", study(RECIPES))
    with pytest.raises(DeclarationError, match=r"no results\.csv"):
        compare(folder, tmp_path / "nowhere")
    (folder / "results.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DeclarationError, match="has no column 'kind'"):
        compare(folder, folder)

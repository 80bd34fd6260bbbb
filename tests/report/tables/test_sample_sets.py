"""Several sample sets in a report: mean and deviation in tables, LaTeX and beside the paper's, the sets in CSVs."""

from __future__ import annotations

import csv
import io
import math
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harness.metrics.fidelity.sample_sets import between_sets, of_set
from harness.report.papers.tables import published_tables
from harness.report.render import render
from harness.report.tables.fidelity import fidelity_tables, mask_table, memorisation_table
from harness.report.tables.fidelity_rows import fidelity_lines
from harness.results.schema import COLUMNS

RECIPES = {"real=100": 0.0, "real=100,dcgan=300": 0.1}
ROOT = Path(__file__).parents[3]
#: Offsets of five sets from their mean; their sample standard deviation is sqrt(10 / 4) units.
FIVE = (-2, -1, 0, 1, 2)
UNIT = math.sqrt(2.5)
FACTS = ("n_real", "neighbours", "empty-masks", "exact-copies", "copied-p-value", "kid-deviation")


def of_sets(rows, unit=0.01, missing=()):
    """The rows of a generator with those of its sets, as the collector writes them: five, a unit apart."""
    found = []
    for row in rows:
        found.append(row)
        if row["metric"] in FACTS:
            continue
        each = [math.nan if n in missing else row["value"] + unit * offset for n, offset in enumerate(FIVE, 1)]
        found += [{**row, "metric": of_set(row["metric"], n), "value": value} for n, value in enumerate(each, 1)]
        found.append({**row, "metric": between_sets(row["metric"]), "value": float(np.std(each, ddof=1))})
        if missing:
            found[found.index(row)] = {**row, "value": math.nan}
    return found


def cells(table, heading):
    position = [head.replace("\n", " ") for head in table.columns].index(heading)
    return {row[0].text: row[position].markdown() for row in table.rows}


@pytest.fixture
def compared(study, add_rows, fidelity_rows, measured_of):
    """Two generators of five sets of 300 images, and real images, which are one set."""
    rows = of_sets(fidelity_rows("dcgan")) + of_sets(fidelity_rows("fastgan", {"fid": 59.99, "kid": 0.03}))
    rows += fidelity_rows("real (report)", {"fid": 30.0}, arm="real", real=300, synthetic=0)
    measured = [measured_of(name) for name in ("dcgan", "fastgan")]
    return replace(add_rows(study(RECIPES), rows), measured=measured)


def test_numbers_of_images_have_their_deviation_and_real_ones_have_none(compared):
    first, second = fidelity_tables(compared)
    assert cells(first, "FID") == {
        "real (report)": "30.00", "dcgan": "60.00 ± 0.02", "fastgan": "**59.99 ± 0.02**",
    }  # fmt: skip
    assert cells(first, "KID") == {
        "real (report)": "0.0310", "dcgan": "0.0310 ± 0.0158", "fastgan": "**0.0300 ± 0.0158**",
    }  # fmt: skip
    assert cells(second, "Thumbnail distance")["dcgan"] == f"**1.250 ± {UNIT / 100:.3f}**"
    assert cells(first, "Images") == {"real (report)": "300", "dcgan": "5 × 300", "fastgan": "5 × 300"}
    note = "Mean ± standard deviation (n − 1) over 5 sets of 300 images of a generator, each measured on its own."
    for table in (first, second):
        assert table.notes.count(note) == 1
        # The deviation of KID over subsets is another thing and stands nowhere beside it.
        assert not any("random subsets" in text for text in table.notes)


def test_latex_has_the_deviations(compared):
    (first, _) = fidelity_tables(compared)
    text = first.latex()
    assert r"60.00 $\pm$ 0.02" in text
    assert r"\textbf{59.99 $\pm$ 0.02}" in text
    assert r"5 $\times$ 300" in text
    assert r"Mean $\pm$ standard deviation (n $-$ 1) over 5 sets of 300 images" in text


def test_a_table_of_single_sets_says_nothing_of_sets(study, add_rows, fidelity_rows):
    (table,) = fidelity_tables(add_rows(study(RECIPES), fidelity_rows("dcgan")))
    assert cells(table, "FID") == {"dcgan": "60.00"}
    assert cells(table, "KID") == {"dcgan": "0.0310 ± 0.0020"}
    assert not any(" sets of" in note for note in table.notes)


def test_masks_have_deviations_where_there_is_a_better_and_a_worse(compared):
    table = mask_table(compared)
    shown = {heading: cells(table, heading)["dcgan"].strip("*") for heading in ("SIM", "SIM of all-black", "Mean area")}
    assert shown == {"SIM": "0.9312 ± 0.0158", "SIM of all-black": "0.8421", "Mean area": "0.1530 / 0.1610"}
    assert cells(table, "Area distance")["dcgan"].strip("*") == "0.0120 ± 0.0158"
    assert any("over 5 sets of 300 images" in note for note in table.notes)


def test_memorisation_says_what_is_of_all_sets_together(compared):
    table = memorisation_table(compared)
    assert cells(table, "Closer") == {
        "real (report)": "0.5200",
        "dcgan": "0.5200 ± 0.0158",
        "fastgan": "0.5200 ± 0.0158",
    }
    assert cells(table, "Copied")["dcgan"] == "0.0100"
    assert table.notes[-1] == "Copied, p, exact copies and verdict: of all sets together."


def test_a_set_without_a_value_is_a_hole_not_a_mean_of_the_others(study, add_rows, fidelity_rows):
    rows = of_sets(fidelity_rows("dcgan"), missing=(2,)) + of_sets(fidelity_rows("fastgan"))
    tables = fidelity_tables(add_rows(study(RECIPES), rows))
    assert cells(tables[0], "FID") == {"dcgan": "–", "fastgan": "60.00 ± 0.02"}
    assert [line.sets for line in fidelity_lines(add_rows(study(RECIPES), rows))] == [5, 5]


def test_folds_are_means_of_means_and_have_no_deviation(study, add_rows, fidelity_rows):
    rows = [row for fold in range(2) for row in of_sets(fidelity_rows("dcgan", {"fid": 50.0 + fold}, fold=fold))]
    table = fidelity_tables(add_rows(study(RECIPES, folds=2), rows))[0]
    assert cells(table, "FID") == {"dcgan": "50.50"}
    assert any(note.startswith("Means in each fold over 5 sets of 300 images") for note in table.notes)


def test_the_sets_stand_in_the_csv_of_their_own_table_only(compared):
    records = [
        {(r["generator"], r["metric"]): r["value"] for r in csv.DictReader(io.StringIO(table.csv()))}
        for table in (fidelity_tables(compared)[0], mask_table(compared))
    ]
    of_images, of_masks = records
    assert of_images["dcgan", "fid-set-1"] == "59.98"
    assert float(of_images["dcgan", "fid-between-sets"]) == pytest.approx(UNIT / 100)
    assert float(of_masks["dcgan", "mask-area-set-5"]) == pytest.approx(0.032)
    assert not {metric for _, metric in of_images} & {"sim-set-1", "mask-area-set-1", "memorisation-between-sets"}
    assert not any(metric.startswith(("fid", "memorisation")) for _, metric in of_masks)


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_tables_with_deviations_fit_between_margins_of_two_centimetres(compared, tmp_path):
    rows = compared.rows
    for name in ("cell", "generator"):
        rows[name] = rows[name].replace("fastgan", "singan-seg-st on 100 real")
    folder = render(replace(compared, figures=["none"]), tmp_path / "r").parent / "tables"
    names = [path.name for path in sorted(folder.glob("*.tex")) if path.name.startswith(("fid", "mem"))]
    assert len(names) == 4
    page = r"\documentclass[a4paper]{article}\usepackage{booktabs}\textwidth=483pt\begin{document}"
    (folder / "all.tex").write_text("\n".join([page, *(rf"\input{{{n}}}" for n in names), r"\end{document}", ""]))
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    output = subprocess.run(command, cwd=folder, capture_output=True, check=True).stdout.decode(errors="replace")
    assert "Overfull" not in output


# beside the paper


def beside_paper(results, monkeypatch, name="b_table4_fid_gans", **facts):
    monkeypatch.chdir(ROOT)
    (table,) = published_tables(replace(results, published=[name], facts={**results.facts, **facts}))
    records = {record["gan"]: record for record in csv.DictReader(io.StringIO(table.csv()))}
    return table, records


def test_our_mean_and_deviation_stand_beside_the_printed_ones(study, add_rows, fidelity_rows, monkeypatch):
    rows = of_sets(fidelity_rows("dcgan", {"fid": 250.0}, images=1000, synthetic=5000), unit=1.0)
    table, records = beside_paper(add_rows(study(RECIPES), rows), monkeypatch, sample_sets=5)
    (row,) = [[cell.text for cell in row] for row in table.rows]
    assert row == ["DCGAN", "1000", "269.29 ± 1.05", "250.00 ± 1.58", "−19.29"]
    assert r"269.29 $\pm$ 1.05 & 250.00 $\pm$ 1.58 & $-$19.29" in table.latex()
    assert any("5 in the paper, 5 here; the CSV holds each set" in note for note in table.notes)
    one = records["DCGAN"]
    assert [one[f"paper_set_{n}"] for n in range(1, 6)] == ["270.82", "269.79", "268.38", "268.32", "269.13"]
    assert [one[f"ours_set_{n}"] for n in range(1, 6)] == ["248", "249", "250", "251", "252"]
    assert (one["paper_deviation"], float(one["ours_deviation"])) == ("1.05", pytest.approx(UNIT))
    assert [records["FastGAN"][name] for name in ("paper_set_5", "ours_set_5", "ours_deviation")] == ["76.2", "", ""]


def test_a_single_set_of_ours_has_no_deviation_beside_the_printed_one(study, add_rows, fidelity_rows, monkeypatch):
    rows = fidelity_rows("dcgan", {"fid": 250.0}, images=1000)
    table, _ = beside_paper(add_rows(study(RECIPES), rows), monkeypatch)
    assert [cell.text for cell in table.rows[0]][2:] == ["269.29 ± 1.05", "250.00", "−19.29"]
    assert any("5 in the paper, one set here, which has none" in note for note in table.notes)


def test_what_counts_is_the_size_of_a_set_not_that_of_the_pool(study, add_rows, fidelity_rows, monkeypatch):
    rows = of_sets(fidelity_rows("dcgan", images=200, synthetic=1000))
    table, _ = beside_paper(add_rows(study(RECIPES), rows), monkeypatch, sample_sets=5)
    assert not table.rows
    table, _ = beside_paper(study(RECIPES), monkeypatch)
    assert not table.rows
    hole = [{**fidelity_rows("dcgan")[0], "value": math.nan, "images": 0, "synthetic": 5000, "status": "left"}]
    table, _ = beside_paper(add_rows(study(RECIPES), hole), monkeypatch, sample_sets=5)
    assert [cell.text for cell in table.rows[0]][3] == "incomplete 0/1"


def test_sets_of_another_generator_or_network_are_not_taken_for_ours(study, add_rows, fidelity_rows, monkeypatch):
    rows = fidelity_rows("dcgan", images=1000) + of_sets(fidelity_rows("dcgan-other", images=1000))
    rows += [
        {**row, "reduction": "another"}
        for row in of_sets(fidelity_rows("dcgan", images=1000))
        if "set" in row["metric"]
    ]
    table, records = beside_paper(add_rows(study(RECIPES), rows), monkeypatch)
    assert [cell.text for cell in table.rows[0]][3] == "60.00"
    assert records["DCGAN"]["ours_set_1"] == ""


def test_a_study_without_pairs_of_the_papers_generators_loses_no_report(study, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    results = study(RECIPES)
    other = dict.fromkeys(COLUMNS) | {"kind": "fidelity", "metric": "sim", "value": 0.9, "images": 300, "leak": ""}
    rows = pd.concat([results.rows, pd.DataFrame([other], columns=list(COLUMNS))], ignore_index=True)
    for name in ("b_table4_fid_gans", "b_table5_fid_small", "b_table1_sifid"):
        (table,) = published_tables(replace(results, rows=rows, published=[name]))
        assert not table.rows
        assert not any("sets" in note for note in table.notes)

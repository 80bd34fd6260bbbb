"""The tables of what was measured of generators: values, holes, bold, references, notes, files."""

from __future__ import annotations

import csv
import io
import math
import shutil
import subprocess
from dataclasses import replace

import pytest

from harness.report.render import render
from harness.report.tables.fidelity import fidelity_tables, mask_table, memorisation_table
from harness.report.tables.table import Cell, Table

NETWORK = "inception-clean"
RECIPES = {"real=100": 0.0, "real=100,dcgan=300": 0.1}


def column(table: Table, heading: str) -> dict[str, str]:
    """One column of a table by generator, as markdown, so that bold and marks show."""
    position = [head.replace("\n", " ") for head in table.columns].index(heading)
    return {row[0].text: row[position].markdown() for row in table.rows}


@pytest.fixture
def honest(measured_study):
    """The same study, in which no generator is flagged as copying."""
    return replace(measured_study, measured=[replace(m, copies=False) for m in measured_study.measured])


@pytest.fixture
def images(honest) -> Table:
    (table,) = fidelity_tables(honest)
    return table


def test_every_quantity_of_images_stands_in_its_column(images):
    printed = {
        "FID": "60.00", "Corrected FID": "**41.00**", "KID": "**0.0310 ± 0.0020**", "Precision": "**0.700**",
        "Recall": "**0.400**", "Density": "**0.800**", "Coverage": "**0.500**", "SIFID": "**0.3500**",
        "Fréchet distance": "**12.50**", "Thumbnail distance": "**1.250**",
    }  # fmt: skip
    assert [head.replace("\n", " ") for head in images.columns[4:]] == list(printed)
    assert {heading: column(images, heading)["dcgan"] for heading in printed} == printed
    assert [cell.text for cell in images.rows[1][:4]] == ["dcgan", "700", "300", "700 fit"]


def test_the_best_of_equal_numbers_of_images_is_bold_and_no_reference_is(images):
    assert column(images, "FID") == {
        "real (report)": "30.00",  # the lowest, and a reference
        "dcgan": "60.00",
        "fastgan": "**55.00**",
        "diffusion": "50.00",  # lower, of 1000 images, and the only one of that number
    }
    assert column(images, "Corrected FID")["fastgan"] == "42.00"


def test_a_generator_that_copies_is_marked_and_never_the_best(measured_study, honest):
    (table,) = fidelity_tables(measured_study)
    assert column(table, "FID")["fastgan"] == "55.00"  # the best of the honest table
    assert column(table, "Generator") == {
        "real (report)": "real (report)",
        "dcgan": "dcgan",
        "fastgan": "fastgan‡",
        "diffusion": "diffusion",
    }
    assert any(note.startswith("‡ flagged as copies") for note in table.notes)
    assert r"fastgan\textsuperscript{$\ddagger$}" in table.latex()
    (other,) = fidelity_tables(honest)
    assert not any("‡" in note for note in other.notes)


@pytest.mark.parametrize(("heading", "changes"), [("Recall", {"recall": 0.6}), ("Coverage", {"coverage": 0.6})])
def test_shares_of_covered_images_are_better_when_higher(study, heading, changes, add_rows, fidelity_rows):
    rows = fidelity_rows("dcgan") + fidelity_rows("fastgan", changes)
    (table,) = fidelity_tables(add_rows(study(RECIPES), rows))
    assert column(table, heading) == {"dcgan": column(table, heading)["dcgan"].strip("*"), "fastgan": "**0.600**"}


def test_generators_compared_with_other_numbers_of_real_images_are_not_ranked(study, add_rows, fidelity_rows):
    rows = fidelity_rows("dcgan") + fidelity_rows("fastgan", {"fid": 55.0, "n_real": 600.0})
    (table,) = fidelity_tables(add_rows(study(RECIPES), rows))
    assert not any(cell.bold for row in table.rows for cell in row)
    assert column(table, "Against") == {"dcgan": "700 fit", "fastgan": "600 fit"}


def test_references_stand_first_and_apart(images):
    assert [row[0].text for row in images.rows] == ["real (report)", "dcgan", "fastgan", "diffusion"]
    assert images.rules == {1}
    assert images.latex().count(r"\midrule") == 2
    assert column(images, "Fitted on")["real (report)"] == "–"


def test_folds_are_averaged_and_a_missing_fold_is_a_hole(study, add_rows, fidelity_rows):
    rows = [row for fold, fid in enumerate((50.0, 56.0)) for row in fidelity_rows("dcgan", {"fid": fid}, fold=fold)]
    (table,) = fidelity_tables(add_rows(study(RECIPES, folds=2), rows))
    assert column(table, "FID")["dcgan"] == "53.00"
    assert column(table, "KID")["dcgan"] == "0.0310"  # no deviation is that of a mean
    assert "mean over 2 folds" in table.caption
    hole = fidelity_rows("dcgan", fold=1, status="failed", images=0)[:1]
    hole[0]["value"] = float("nan")
    (table,) = fidelity_tables(add_rows(study(RECIPES, folds=2), [*rows[: len(rows) // 2], *hole]))
    assert column(table, "FID")["dcgan"] == "incomplete 1/2"
    assert column(table, "Coverage")["dcgan"] == "incomplete 1/2"
    assert "incomplete 1/2" in table.caption


def test_fold_sizes_that_differ_by_one_image_are_one_row(study, add_rows, fidelity_rows):
    rows = [row for fold in range(2) for row in fidelity_rows("dcgan", fold=fold, real=666 + fold)]
    (table,) = fidelity_tables(add_rows(study(RECIPES, folds=2), rows))
    assert column(table, "Fitted on") == {"dcgan": "666–667"}


def test_a_generator_without_a_result_says_why(study, add_rows, fidelity_rows):
    hole = [{**row, "value": float("nan"), "reduction": ""} for row in fidelity_rows("fastgan", status="failed")]
    hole = [row for row in hole if row["metric"] in ("fid", "prdc", "memorisation", "sim")]
    results = add_rows(study(RECIPES), fidelity_rows("dcgan") + hole)
    (table,) = fidelity_tables(results)
    assert column(table, "FID")["fastgan"] == column(table, "Coverage")["fastgan"] == "failed"
    assert column(mask_table(results), "SIM")["fastgan"] == "failed"
    assert column(memorisation_table(results), "Closer")["fastgan"] == "failed"
    assert "incomplete 1/2" in table.caption
    (alone,) = fidelity_tables(add_rows(study(RECIPES), hole))
    assert [head.replace("\n", " ") for head in alone.columns[4:]] == ["FID", "Coverage"]


def test_what_was_not_measured_has_no_column(study, add_rows, fidelity_rows):
    rows = [row for row in fidelity_rows("dcgan") if row["metric"] in ("fid", "fid-corrected", "n_real")]
    rows = [{**row, "value": float("nan")} if row["metric"] == "fid-corrected" else row for row in rows]
    results = add_rows(study(RECIPES), rows)
    (table,) = fidelity_tables(results)
    assert list(table.columns[4:]) == ["FID"]
    assert mask_table(results) is None
    assert memorisation_table(results) is None


def test_a_fid_of_few_images_says_that_it_is_biased_and_of_how_many(images, study, add_rows, fidelity_rows):
    note = next(note for note in images.notes if "biased upwards" in note)
    assert "fewer than 2048 images (here 300–1000)" in note
    many = fidelity_rows("dcgan", {"n_real": 5000.0}, images=5000)
    (table,) = fidelity_tables(add_rows(study(RECIPES), many))
    assert not any("biased upwards" in note for note in table.notes)


def test_every_network_is_named(images):
    note = next(note for note in images.notes if note.startswith("Feature networks"))
    assert f"FID, Corrected FID, KID, Precision, Recall, Density, Coverage: {NETWORK};" in note
    assert "SIFID: inception-pool-1" in note
    assert "Fréchet distance: tf_efficientnet_lite0" in note


def test_numbers_of_two_networks_never_share_a_column(study, add_rows, fidelity_rows):
    other = [
        {**row, "reduction": "random-convolutions"}
        for row in fidelity_rows("fastgan", {"frechet-distance": 3.0})
        if row["metric"] == "frechet-distance"
    ]
    tables = fidelity_tables(add_rows(study(RECIPES), fidelity_rows("dcgan") + other))
    assert [table.name for table in tables] == ["fidelity-1", "fidelity-2"]  # eleven columns are too wide
    headings = [head.replace("\n", " ") for table in tables for head in table.columns[4:]]
    assert len(headings) == 11
    assert "Fréchet distance (tf_efficientnet_lite0)" in headings
    assert column(tables[1], "Fréchet distance (random-convolutions)") == {"dcgan": "–", "fastgan": "3.00"}


def test_a_leaked_number_is_marked_and_never_the_best(study, add_rows, fidelity_rows):
    rows = fidelity_rows("dcgan") + fidelity_rows("fastgan", {"fid": 1.0})
    results = add_rows(study(RECIPES), rows)
    leaked = results.rows["generator"] == "fastgan"
    results.rows.loc[leaked, "leak"] = "fastgan saw 3 report images"
    (table,) = fidelity_tables(results)
    assert column(table, "FID") == {"dcgan": "60.00", "fastgan": "1.00†"}
    assert any("fastgan saw 3 report images" in note for note in table.notes)


def test_the_csv_has_every_number_with_both_counts(images):
    records = list(csv.DictReader(io.StringIO(images.csv())))
    one = next(r for r in records if (r["generator"], r["metric"]) == ("dcgan", "kid-deviation"))
    assert (one["value"], one["images"], one["real_images"], one["reduction"]) == ("0.002", "300", "700", NETWORK)
    assert not {r["metric"] for r in records} & {"sim", "mean-area-real", "memorisation", "copied", "n_real"}


def test_masks_stand_beside_what_black_and_real_masks_score_and_sim_has_no_best(honest):
    table = mask_table(honest)
    assert column(table, "SIM") == {
        "real (report)": "0.9500", "dcgan": "0.9312", "fastgan": "0.9200", "diffusion": "0.9312",
    }  # fmt: skip
    printed = {
        "SIM of all-black": "0.8421", "SIM of real leave-one-out": "0.9544", "Area distance": "**0.0120**",
        "Mean area": "0.1530 / 0.1610", "Components": "1.10 / 1.25", "Empty masks": "3",
    }  # fmt: skip
    assert {heading: column(table, heading)["dcgan"] for heading in printed} == printed
    metrics = {r["metric"] for r in csv.DictReader(io.StringIO(table.csv()))}
    assert metrics == {
        "sim", "sim-black", "sim-real", "mask-area", "mean-area-real", "mean-area-synthetic", "mean-components-real",
        "mean-components-synthetic", "empty-masks",
    }  # fmt: skip


def test_agreement_stands_beside_chance_and_names_its_segmenter(honest, add_rows, fidelity_rows):
    def judged(name: str, value: float, chance: float, **columns) -> list[dict]:
        (row,) = [row for row in fidelity_rows(name, **columns) if row["metric"] == "thumbnail-distance"]
        measured = {"agreement": value, "agreement-chance": chance, "agreement-pairs": 290.0, "n_real": 700.0}
        return [{**row, "reduction": "unet", "metric": metric, "value": n} for metric, n in measured.items()]

    rows = judged("dcgan", 0.4567, 0.41) + judged("fastgan", 0.3, 0.1) + judged("diffusion", 0.9, 0.2, images=1000)
    rows += judged("real (report)", 0.8, 0.15, arm="real", real=300, synthetic=0)
    tables = fidelity_tables(add_rows(honest, rows))
    assert [table.name for table in tables] == ["fidelity-1", "fidelity-2"]
    table = tables[1]
    assert column(table, "Agreement") == {
        "real (report)": "0.800", "dcgan": "**0.457**", "fastgan": "0.300", "diffusion": "0.900",
    }  # fmt: skip
    assert column(table, "Agreement by chance") == {
        "real (report)": "0.150", "dcgan": "0.410", "fastgan": "0.100", "diffusion": "0.200",
    }  # fmt: skip
    (note,) = [note for note in table.notes if note.startswith("Agreement:")]
    assert "trained on real pairs (unet)" in note
    (networks,) = [note for note in table.notes if note.startswith("Feature networks:")]
    assert "unet" not in networks
    assert not any(note.startswith("Agreement:") for note in tables[0].notes)
    records = {(r["generator"], r["metric"]): r for r in csv.DictReader(io.StringIO(table.csv()))}
    assert records["dcgan", "agreement-pairs"]["value"] == "290"
    assert records["dcgan", "agreement"]["reduction"] == "unet"


def test_memorisation_has_a_verdict_in_words(measured_study):
    table = memorisation_table(measured_study)
    assert column(table, "Verdict") == {
        "real (report)": "no sign of copying",
        "dcgan": "no sign of copying",
        "fastgan": "**copies**",
        "diffusion": "no sign of copying",
    }
    row = [cell.text for cell in table.rows[2]]
    assert row == ["fastgan", "700", "300", "0.5200", "0.0100", "0.610", "4", "held-out", "copies"]
    record = list(csv.DictReader(io.StringIO(table.csv())))[2]
    assert (record["exact-copies"], record["reference"], record["verdict"]) == ("4", "held-out", "copies")


def test_memorisation_is_never_averaged_over_folds(study, add_rows, fidelity_rows, measured_of):
    rows = [row for fold in range(2) for row in fidelity_rows("dcgan", {"memorisation": 0.5 + fold / 4}, fold=fold)]
    told = [measured_of("dcgan", 0), measured_of("dcgan", 1, copies=True, reference="leave-one-out")]
    table = memorisation_table(replace(add_rows(study(RECIPES, folds=2), rows), measured=told))
    shown = [[cell.text for cell in row] for row in table.rows]
    assert [(r[2], r[4], r[-2], r[-1]) for r in shown] == [
        ("0", "0.5000", "held-out", "no sign of copying"),
        ("1", "0.7500", "leave-one-out", "copies"),
    ]


def test_a_generator_that_copies_is_said_before_any_number(measured_study, tmp_path):
    page = (render(replace(measured_study, figures=["none"]), tmp_path / "r").parent / "report.md").read_text()
    alarm = "Images of fastgan are flagged as copies of its training images"
    assert page.index("Read this first") < page.index(alarm) < page.index("## Tables")
    assert "Images of dcgan are flagged" not in page


def test_a_value_that_is_not_a_number_is_no_verdict(study, add_rows, fidelity_rows, measured_of):
    rows = fidelity_rows("dcgan", {"memorisation": float("nan"), "copied-p-value": math.nan})
    table = memorisation_table(replace(add_rows(study(RECIPES), rows), measured=[measured_of("dcgan")]))
    assert table.rows[0][-1].text == "–"


def test_a_heading_of_two_lines_is_one_elsewhere():
    table = Table("t", "T", "C.", ["a", "b\nc_d"], [])
    assert r"a & \shortstack[r]{b \\ c\_d} \\" in table.latex()
    assert table.markdown().splitlines()[2] == "| a | b c_d |"
    assert table.csv() == "a,b c_d\n"


def test_the_type_size_follows_the_longest_line_of_a_heading():
    words = ["word " * 9 + "word"] * 3
    assert r"\tiny" in Table("t", "T", "C.", words, []).latex()
    assert r"\footnotesize" in Table("t", "T", "C.", [w.replace(" ", "\n") for w in words], []).latex()


def test_what_names_several_rows_stands_above_them_before_the_type_gets_small():
    columns, numbers = ["Which", "What", "Value"], [Cell("1")]
    rows = [
        [Cell("one " * 9), Cell("a " * 46), *numbers],
        [Cell(""), Cell("b"), *numbers],
        [Cell("two"), Cell("c"), *numbers],
    ]
    text = Table("t", "T", "C.", columns, rows, frozenset({0, 2}), text_columns=2).latex()
    body = text[text.index(r"\midrule") : text.index(r"\bottomrule")].splitlines()
    assert body == [
        r"\midrule",
        rf"\multicolumn{{2}}{{@{{}}l@{{}}}}{{\textit{{{'one ' * 9}}}}} \\",
        f"{'a ' * 46} & 1 \\\\",
        r"b & 1 \\",
        r"\midrule",
        r"\multicolumn{2}{@{}l@{}}{\textit{two}} \\",
        r"c & 1 \\",
    ]
    assert r"\footnotesize" in text
    assert r"\begin{tabular}{@{}lr@{}}" in text
    narrow = Table("t", "T", "C.", columns, [[Cell("one"), Cell("a"), *numbers], *rows[1:]], text_columns=2).latex()
    assert r"\multicolumn" not in narrow


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_tables_of_generators_fit_between_margins_of_two_centimetres(measured_study, tmp_path):
    rows = measured_study.rows
    for name in ("cell", "generator"):
        rows[name] = rows[name].replace("fastgan", "singan-seg-st on 100 real")
    folder = render(replace(measured_study, figures=["none"]), tmp_path / "r").parent / "tables"
    names = [path.name for path in sorted(folder.glob("*.tex")) if path.name.startswith(("fid", "mem", "sel"))]
    assert len(names) == 5
    # 483 points are the width of A4 between margins of two centimetres.
    page = r"\documentclass[a4paper]{article}\usepackage{booktabs}\textwidth=483pt\begin{document}"
    text = "\n".join([page, *(rf"\input{{{name}}}" for name in names), r"\end{document}", ""])
    (folder / "all.tex").write_text(text)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, check=False)
    output = done.stdout.decode(errors="replace")
    assert done.returncode == 0, output[-2000:]
    assert "Overfull" not in output

"""Which of our rows stand beside a printed number: by plugins, refiners and counts, whatever a study calls things."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import replace
from pathlib import Path

import pytest

from harness.report.papers.tables import published_tables
from harness.results.schema import Pipeline, Plugged

ROOT = Path(__file__).parents[3]


@pytest.fixture
def beside(monkeypatch):
    """Our numbers beside the printed ones: for each line of the CSV of a table, its columns and ours."""

    def read(results, name: str) -> list[dict[str, str]]:
        monkeypatch.chdir(ROOT)
        tables = published_tables(replace(results, published=[name]))
        # Every table of one CSV holds the numbers of its own metrics.
        return [record for table in tables for record in csv.DictReader(io.StringIO(table.csv()))]

    return read


def ours(records, *columns: str, metric: str = "iou") -> dict[tuple[str, ...], float]:
    """What we have of one metric, by the named columns of the paper's table."""
    found = [r for r in records if r["metric"] == metric and r["ours"]]
    values = {tuple(r[c] for c in columns): float(r["ours"]) for r in found}
    assert len(values) == len(found)
    return values


def mean(results, recipe: str, metric: str = "iou") -> float:
    rows = results.rows
    own = rows[(rows["recipe"] == recipe) & (rows["metric"] == metric) & (rows["reduction"] == "micro-imagewise")]
    assert len(own)
    return pytest.approx(own["value"].mean())


# Table 2: real against synthetic


def folds(recipes: list[str], fit: int = 667, **changes):
    """A simulated study whose fit role has as many images as two of three folds."""
    return lambda study: _sized(study({name: 0.01 * i for i, name in enumerate(recipes)}, **changes), fit)


def _sized(results, fit: int):
    rows = results.rows.assign(
        real=[
            fit if r.startswith("real=all") else n
            for r, n in zip(results.rows["recipe"], results.rows["real"], strict=True)
        ],
        n_fit=[fit if n == 700 else n for n in results.rows["n_fit"]],
    )
    return replace(results, rows=rows, facts={**results.facts, "roles": {"fit": fit, "report": 333}})


def test_table_2_is_matched_by_plugin_ratio_and_images_a_real_one(study, beside):
    recipes = ["real=all", "singan-seg=667", "even=1334", "strong=3335", "stronger=667", "coloured=667", "dcgan=667"]
    results = folds(recipes)(study)
    assert ours(beside(results, "b_table2_real_vs_fake"), "train_data", "style_transfer_cw_sw") == {
        ("REAL", "NA"): mean(results, "real=all"),
        ("FAKE-1", "none"): mean(results, "singan-seg=667"),
        ("FAKE-2", "1:1"): mean(results, "even=1334"),
        ("FAKE-5", "1:1000"): mean(results, "strong=3335"),
    }


def test_table_2_holds_all_printed_metrics_of_a_matched_row(study, beside):
    results = folds(["real=all", "strong=667"])(study)
    records = beside(results, "b_table2_real_vs_fake")
    assert len(records) == 96
    found = {r["metric"]: r for r in records if (r["train_data"], r["style_transfer_cw_sw"]) == ("FAKE-1", "1:1000")}
    assert {name: float(r["paper"]) for name, r in found.items()} == {
        "dice-loss": 0.1473, "iou": 0.7820, "f1": 0.8530, "accuracy": 0.9591, "recall": 0.8624, "precision": 0.9005,
    }  # fmt: skip
    for name in ("iou", "f1", "accuracy", "recall", "precision"):
        assert float(found[name]["ours"]) == mean(results, "strong=667", name)


def test_table_2_of_folds_matches_counts_that_differ_by_one_image(study, beside):
    results = folds(["real=all", "strong=2668", "strong=2600"], fit=666)(study)
    assert set(ours(beside(results, "b_table2_real_vs_fake"), "train_data")) == {("REAL",), ("FAKE-4",)}


def test_table_2_does_not_take_synthetic_images_beside_real_ones_or_controls_for_its_own(study, beside):
    results = folds(["real=all", "real=all,strong=667"])(study)
    assert set(ours(beside(results, "b_table2_real_vs_fake"), "train_data")) == {("REAL",)}


def test_a_smaller_study_has_its_own_real_row_and_says_so(study, beside, monkeypatch):
    results = folds(["real=all", "real=12", "sees=6,strong=12", "sees=12,strong=12", "sees=12,strong=24"])(study)
    records = beside(results, "b_table2_real_vs_fake")
    assert ours(records, "train_data") == {
        ("REAL",): mean(results, "real=12"),
        ("FAKE-1",): mean(results, "sees=12,strong=12"),
        ("FAKE-2",): mean(results, "sees=12,strong=24"),
    }
    monkeypatch.chdir(ROOT)
    note = "REAL and FAKE-N here: of 12 real images, where the paper has 666 or 667."
    assert all(note in table.notes for table in published_tables(replace(results, published=["b_table2_real_vs_fake"])))
    for name, same in (
        ("b_table2_real_vs_fake", folds(["real=all", "strong=667"])(study)),
        ("b_table3_small_data", results),
    ):
        for table in published_tables(replace(same, published=[name])):
            assert not any("REAL and FAKE-N" in text for text in table.notes)


# Table 3: small data


def test_table_3_is_matched_by_the_images_that_a_generator_saw(study, beside):
    recipes = ["real=5", "real=10", "real=50", "real=12", "sees=5,strong=50", "sees=10,strong=50", "sees=10,strong=100"]
    recipes += ["sees=15,even=150", "sees=20,singan-seg=200", "real=25,strong=250", "strong=300"]
    results = study({name: 0.01 * i for i, name in enumerate(recipes)})
    assert ours(beside(results, "b_table3_small_data"), "data", "n_images", "n_real_base") == {
        ("Real", "5", "5"): mean(results, "real=5"),
        ("Real", "10", "10"): mean(results, "real=10"),
        ("Real", "50", "50"): mean(results, "real=50"),
        ("Fake", "50", "5"): mean(results, "sees=5,strong=50"),
        ("Fake", "100", "10"): mean(results, "sees=10,strong=100"),
    }


@pytest.mark.parametrize("one_row", [True, False], ids=["one row a run", "a row a metric"])
def test_a_missing_run_is_a_hole_beside_the_printed_number(study, lose, one_row, monkeypatch):
    results = study({"real=5": 0.0, "sees=5,strong=50": 0.1})
    if one_row:
        results = lose(results, "sees=5,strong=50", 1)
    else:
        gone = (results.rows["recipe"] == "sees=5,strong=50") & (results.rows["seed"] == 1)
        results.rows.loc[gone, ["value", "status"]] = [math.nan, "failed"]
    monkeypatch.chdir(ROOT)
    first, *_ = published_tables(replace(results, published=["b_table3_small_data"]))
    place = list(first.columns).index("IoU, paper") + 1
    rows = {row[0].text: row[place].text for row in first.rows}
    assert rows == {"Real": f"{float(mean(results, 'real=5').expected):.4f}", "Fake": "incomplete 2/3"}


# Tables 1, 4 and 5: fidelity


def on(rows, number: int):
    """Rows of a generator that was fitted on so many real images."""
    cell = f"{rows[0]['generator']} on {number} real"
    return [row | {"cell": cell, "real": number, "n_fit": number} for row in rows]


def test_table_1_is_matched_by_the_weights_of_content_and_style(study, add_rows, fidelity_rows, beside):
    names = ("singan-seg", "even", "strong", "stronger", "coloured", "dcgan")
    rows = [row for i, name in enumerate(names) for row in fidelity_rows(name, {"sifid": 0.1 * (i + 1)}, images=1000)]
    found = ours(
        beside(add_rows(study({"real=5": 0.0}), rows), "b_table1_sifid"), "dataset", "style_weight", metric="sifid"
    )
    assert found == {
        ("SinGAN-Seg", ""): pytest.approx(0.1),
        ("SinGAN-Seg-ST", "1"): pytest.approx(0.2),
        ("SinGAN-Seg-ST", "1000"): pytest.approx(0.3),
    }


def test_only_the_ratio_of_content_and_style_that_is_declared_counts_not_its_scale(
    study, add_rows, fidelity_rows, beside
):
    """Weights 2 and 2000 are another strength against the step of the optimiser than 1 and 1000: no match."""
    twice = Pipeline((Plugged("singan-seg"),), (Plugged("style-transfer", {"content": 2, "style": 2000}),))
    results = replace(add_rows(study({"real=5": 0.0}), fidelity_rows("twice", images=1000)), pipelines={"twice": twice})
    assert not ours(beside(results, "b_table1_sifid"), "dataset", metric="sifid")


def test_table_4_has_every_generator_by_its_plugin(study, add_rows, fidelity_rows, beside):
    names = {
        "dcgan": "DCGAN",
        "progan": "ProGAN",
        "fastgan": "FastGAN",
        "singan-seg": "SinGAN-Seg",
        "strong": "SinGAN-Seg-ST",
    }
    rows = [row for i, name in enumerate(names) for row in fidelity_rows(name, {"fid": 10.0 + i}, images=1000)]
    rows += on(fidelity_rows("strong", images=1000), 50)  # 1000 images of a fit on 50 are another thing
    found = ours(beside(add_rows(study({"real=5": 0.0}), rows), "b_table4_fid_gans"), "gan", metric="fid")
    assert found == {(paper,): 10.0 + i for i, paper in enumerate(names.values())}


def test_what_a_study_calls_a_generator_does_not_matter(study, add_rows, fidelity_rows, beside):
    rows = fidelity_rows("dcgan", {"fid": 70.0}, images=1000) + fidelity_rows("mine", {"fid": 80.0}, images=1000)
    pipelines = {"dcgan": Pipeline((Plugged("fastgan"),)), "mine": Pipeline((Plugged("dcgan"),))}
    results = replace(add_rows(study({"real=5": 0.0}), rows), pipelines=pipelines)
    assert ours(beside(results, "b_table4_fid_gans"), "gan", metric="fid") == {("DCGAN",): 80.0, ("FastGAN",): 70.0}


def test_table_5_is_matched_by_the_fit_and_as_many_images(study, add_rows, fidelity_rows, beside):
    rows = []
    for number in (5, 10, 15):
        rows += on(fidelity_rows("strong", {"fid": 100.0 + number}, images=number, synthetic=10 * number), number)
        rows += on(fidelity_rows("fastgan", {"fid": 200.0 + number}, images=number, synthetic=10 * number), number)
    rows += on(fidelity_rows("singan-seg", images=10), 5)  # more images than it was fitted on
    rows += fidelity_rows("singan-seg", images=20)  # fitted on all
    found = ours(
        beside(add_rows(study({"real=5": 0.0}), rows), "b_table5_fid_small"), "gan", "n_synthetic", metric="fid"
    )
    assert found == {
        (gan, str(n)): base + n for gan, base in (("SinGAN-Seg-ST", 100.0), ("FastGAN", 200.0)) for n in (5, 10, 15)
    }


def test_what_has_no_result_yet_is_a_hole_in_its_own_row(study, add_rows, fidelity_rows, monkeypatch):
    left = [row for row in on(fidelity_rows("strong", synthetic=100), 10) if row["metric"] == "fid"]
    left = [{**row, "value": math.nan, "images": 0, "status": "left"} for row in left]
    monkeypatch.chdir(ROOT)
    results = replace(add_rows(study({"real=5": 0.0}), left), published=["b_table5_fid_small"])
    (table,) = published_tables(replace(results, facts={**results.facts, "sample_sets": 5}))
    assert [[cell.text for cell in row[:2]] + [row[3].text] for row in table.rows] == [
        ["SinGAN-Seg-ST", "10", "incomplete 0/1"]
    ]

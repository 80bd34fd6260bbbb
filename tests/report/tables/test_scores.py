"""The tables of scores, from masks drawn here: what stands in them, by which reduction, at which width."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from harness.metrics.fidelity.masks import areas
from harness.metrics.segmentation.mask_batch import MaskBatch
from harness.metrics.segmentation.scores import SIZES, fractions, reduce_all, size_limits, sizes
from harness.metrics.spec import segmentation_metrics
from harness.report.findings import Findings
from harness.report.tables.scores import clinical_tables, score_tables, size_tables
from harness.results.schema import COLUMNS, score_columns
from harness.stats.score import NO_VALUE
from harness.stats.study import scores

RECIPES = ("real=100", "real=100,dcgan=300")
SHIFTS = {"real=100": 4, "real=100,dcgan=300": 1}


def drawn(seed: int, count: int = 45, size: int = 40) -> np.ndarray:
    """Discs of all sizes, every ninth frame without one."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    masks = []
    for i in range(count):
        cy, cx, radius = draw.uniform(12, 28), draw.uniform(12, 28), 0 if i % 9 == 8 else draw.uniform(2, 11)
        masks.append((y - cy) ** 2 + (x - cx) ** 2 < radius**2)
    return np.array(masks, dtype=np.uint8)


def study_of(results, truth, fit):
    """A study whose two arms predict the truth, moved by some pixels and with a speck in a few frames."""
    metrics = list(segmentation_metrics().values())
    polyps = sizes(areas(truth), size_limits(areas(fit)))
    rows, images = [], []
    for recipe in RECIPES:
        for seed in range(2):
            predicted = np.roll(truth, SHIFTS[recipe] + seed, axis=2)
            predicted[:: 7 + seed, 1, 1] = 1
            parts = fractions(MaskBatch(predicted, truth, 1.0), metrics)
            where = {"segmenter": "unetplusplus", "recipe": recipe, "seed": seed, "fold": 0}
            where |= {"dataset": "phantom", "role": "report"}
            frame = {"image": [f"p/{i}" for i in range(len(truth))], "group": [f"g{i // 2}" for i in range(len(truth))]}
            columns = {c: part for m in metrics for c, part in zip(score_columns(m.name), parts[m.name], strict=True)}
            images.append(pd.DataFrame({**where, **frame, "size": polyps, **columns}))
            about = {"kind": "segmentation", "arm": "real", "real": 100, "status": "done", "leak": ""}
            rows += [
                {**where, **about, "metric": metric, "reduction": reduction, "value": value}
                for metric, found in reduce_all(metrics, parts, 1.0, polyps).items()
                for reduction, value in found.items()
            ]
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    facts = {**results.facts, "tolerance": "1 pixels", "size_limits": [0.02, 0.1]}
    return replace(
        results,
        rows=table,
        images=pd.concat(images, ignore_index=True),
        facts=facts,
        recipes=list(RECIPES),
        failures=[],
    )


@pytest.fixture
def results(study):
    return study_of(study(dict.fromkeys(RECIPES, 0.0)), drawn(0), drawn(1, 200))


def column(table, heading):
    position = [head.replace("\n", " ") for head in table.columns].index(heading)
    return [row[position].text for row in table.rows]


def test_the_main_tables_keep_their_six_scores_and_name_dice_beside_f1(results):
    tables = list(score_tables(Findings(results)))
    assert [table.name for table in tables] == ["scores-micro-imagewise", "scores-micro"]
    for table in tables:
        assert [head.replace("\n", " ") for head in table.columns] == [
            "Segmenter", "Training set", "Runs", "IoU", "F1 (Dice)", "Accuracy", "Precision", "Recall", "Dice loss",
        ]  # fmt: skip


def test_the_clinical_table_has_each_score_by_the_reduction_that_it_is_asked_for(results):
    (table,) = list(clinical_tables(Findings(results)))
    headings = [head.replace("\n", " ") for head in table.columns[3:]]
    assert headings == [
        "Polyps found", "False positives an image", "IoU below 0.5", "Hausdorff 95 % (px)", "Surface Dice",
    ]  # fmt: skip
    rows = results.rows[(results.rows["recipe"] == RECIPES[1])]
    for heading, metric, reduction, digits in (
        ("Polyps found", "detection-rate", "micro", 3),
        ("False positives an image", "false-positives", "micro-imagewise", 3),
        ("Hausdorff 95 % (px)", "hausdorff-95", "micro-imagewise", 1),
    ):
        mean = rows[(rows["metric"] == metric) & (rows["reduction"] == reduction)]["value"].mean()
        assert column(table, heading)[1].startswith(f"{mean:.{digits}f} ± ")
    notes = " ".join(table.notes)
    assert "within the tolerance (1 pixels)" in notes
    assert "the frame's diagonal where one mask is empty" in notes


def test_lower_is_better_where_the_metric_says_so(results):
    (table,) = list(clinical_tables(Findings(results)))
    best = {head.replace("\n", " "): [row[i].bold for row in table.rows] for i, head in enumerate(table.columns)}
    assert best["Hausdorff 95 % (px)"] == [False, True]
    assert best["Surface Dice"] == [False, True]


def test_the_table_by_size_has_a_row_a_size_of_each_arm(results):
    (table,) = list(size_tables(Findings(results)))
    assert column(table, "Polyps") == [*SIZES, *SIZES]
    assert column(table, "Training set") == [RECIPES[0], "", "", RECIPES[1], "", ""]
    assert column(table, "Segmenter") == ["unetplusplus", "", "", "", "", ""]
    assert "up to 2.0% and 10.0% of the image" in table.caption
    rows = results.rows[results.rows["recipe"] == RECIPES[0]]
    for text, size in zip(column(table, "IoU")[:3], SIZES, strict=True):
        mean = rows[(rows["metric"] == "iou") & (rows["reduction"] == f"micro-imagewise-{size}")]["value"].mean()
        assert text.startswith(f"{mean:.3f} ± ")
    assert {record["reduction"] for record in table.records} == {f"micro-imagewise-{size}" for size in SIZES}


def test_every_score_of_every_reduction_is_that_of_its_images_and_has_an_interval(results):
    rows = results.rows
    for metric, reduction in rows[["metric", "reduction"]].drop_duplicates().itertuples(index=False):
        for score in scores(results, metric, reduction):
            own = rows[(rows["metric"] == metric) & (rows["reduction"] == reduction)]
            assert score.mean == pytest.approx(own[own["recipe"] == score.key.recipe]["value"].mean())
            assert "per-image scores give" not in score.caveat
            bounds = segmentation_metrics()[metric]
            assert bounds.lower <= score.low <= score.mean + 1e-9
            assert score.mean - 1e-9 <= score.high <= bounds.upper
            sized = (results.images["size"] == reduction.rpartition("-")[2]).sum() // 4
            assert score.images == (sized if reduction.endswith(SIZES) else 45)


def test_a_size_that_no_image_has_is_a_dash_and_not_a_missing_run(study):
    large = np.ones((6, 20, 20), np.uint8)
    results = study_of(study(dict.fromkeys(RECIPES, 0.0)), large, drawn(1, 200))
    (table,) = list(size_tables(Findings(results)))
    assert column(table, "IoU")[:2] == ["–", "–"]
    assert 0 < float(column(table, "IoU")[2].split()[0]) <= 1
    found = scores(results, "iou", "micro-imagewise-small")
    assert {score.caveat for score in found} == {NO_VALUE}
    assert "incomplete" not in table.markdown()


def test_studies_of_before_have_neither_table(study):
    results = study(dict.fromkeys(RECIPES, 0.0))
    assert list(clinical_tables(Findings(results))) == []
    assert list(size_tables(Findings(results))) == []


@pytest.mark.parametrize(
    "longest", ["real=100,dcgan=300", "real=all,real-repeated=1000", "real=all,singan-seg-st=1000,dcgan=1000"]
)
def test_all_compile_in_an_article_in_readable_type(results, tmp_path, longest):
    rows, images = (
        pd.concat([table.assign(segmenter=name) for name in ("unetplusplus", "deeplabv3plus-resnet34")])
        .replace({"recipe": {RECIPES[1]: longest}})
        .reset_index(drop=True)
        for table in (results.rows, results.images)
    )
    segmenters = list(rows["segmenter"].unique())
    changed = replace(results, rows=rows, images=images, segmenters=segmenters, recipes=[RECIPES[0], longest])
    findings = Findings(changed)
    tables = [*clinical_tables(findings), *size_tables(findings), *score_tables(findings)]
    written = [table.latex() for table in tables]
    assert len(written) == 4
    assert not any(r"\tiny" in text for text in written)
    assert all(text.count("deeplabv3plus") == 1 and text.count(longest) == 2 for text in written)
    if shutil.which("pdflatex") is None:
        pytest.skip("needs pdflatex")
    preamble = "\\documentclass[a4paper]{article}\n\\usepackage[margin=2cm]{geometry}\n\\usepackage{booktabs}\n"
    body = "\n".join(written)
    (tmp_path / "t.tex").write_text(f"{preamble}\\begin{{document}}\n{body}\n\\end{{document}}\n", encoding="utf-8")
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout

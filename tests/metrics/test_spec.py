"""What a metric is, once: built-in ones are told in full, and one in an extension is known everywhere."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness.errors import DeclarationError
from harness.metrics.spec import (
    fidelity_metrics,
    found_fidelity,
    found_segmentation,
    owner_of,
    quantity_called,
    scored_metrics,
    segmentation_metric,
    segmentation_metrics,
    sides_of,
)

EXTENSION = '''
"""A metric of images and a score of masks."""

import numpy as np

from harness.metrics.spec import FidelityMetric, Fraction, Quantity, SegmentationMetric


def brightness(sets, *, power: int = 1):
    real, synthetic = (np.asarray(side.images, dtype=float).mean() for side in (sets.real, sets.synthetic))
    return {"brightness": abs(real - synthetic) ** power, "brightness-made": synthetic, "network": "eyes"}


BRIGHTNESS = FidelityMetric(
    name="brightness",
    label="Brightness gap",
    heading="Brightness\\ngap",
    on="images",
    better="lower",
    lower=0.0,
    digits=1,
    definition="Difference of the mean grey levels.",
    compute=brightness,
    beside=(Quantity(name="brightness-made", label="Brightness", table="fidelity", digits=2),),
)

MISSED = SegmentationMetric(
    name="missed",
    label="Missed polyps",
    aliases=("blind",),
    better="lower",
    lower=0.0,
    upper=1.0,
    definition="Share of images with polyp in which nothing is predicted.",
    fraction=lambda masks: Fraction(
        (masks.truth.any(axis=(1, 2)) & ~masks.predicted.any(axis=(1, 2))).astype(float),
        masks.truth.any(axis=(1, 2)).astype(float),
    ),
    undefined="left-out",
)
'''


# what is built in


def test_listing_imports_nothing_heavy() -> None:
    heavy = "print([m for m in ('torch', 'scipy', 'PIL', 'matplotlib', 'pandas') if m in sys.modules])"
    program = f"import sys; from harness.metrics.spec import *; fidelity_metrics(), segmentation_metrics(); {heavy}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_metrics_that_are_built_in() -> None:
    assert list(fidelity_metrics()) == [
        "fid", "kid", "prdc", "sifid", "frechet-distance", "sim", "mask-area", "memorisation", "thumbnail-distance",
        "agreement",
    ]  # fmt: skip
    assert list(segmentation_metrics()) == [
        "iou", "f1", "accuracy", "precision", "recall", "dice-loss", "detection-rate", "false-positives",
        "iou-below-half", "hausdorff-95", "surface-dice",
    ]  # fmt: skip
    assert {found.origin for found in [*found_fidelity().values(), *found_segmentation().values()]} == {"built-in"}
    higher = {name for name, metric in fidelity_metrics().items() if metric.better == "higher"}
    assert higher == {"prdc", "sim", "agreement"}
    assert {n for n, metric in fidelity_metrics().items() if metric.needs_weights} == {"fid", "kid", "prdc", "sifid"}
    assert {n for n, metric in fidelity_metrics().items() if metric.needs_segmenter} == {"agreement"}
    lower = {name for name, metric in segmentation_metrics().items() if metric.better == "lower"}
    assert lower == {"dice-loss", "false-positives", "iou-below-half", "hausdorff-95"}
    assert [metric.name for metric in scored_metrics(None)] == list(segmentation_metrics())


def test_every_quantity_belongs_to_one_metric_and_has_a_direction_where_it_is_a_metric() -> None:
    quantities = [q for metric in fidelity_metrics().values() for q in metric.quantities]
    names = [name for q in quantities for name in (sides_of(q) if q.two_sided else (q.name,))]
    assert len(names) == len(set(names))
    for metric in fidelity_metrics().values():
        assert metric.better is not None
        assert all(owner_of(name) is metric for q in metric.quantities if not q.two_sided for name in (q.name,))
        assert metric.shown_as == "" or metric.quantity(metric.shown_as) is not None
    assert owner_of("mean-area-synthetic") is fidelity_metrics()["mask-area"]
    assert all(metric.better is not None for metric in segmentation_metrics().values())
    assert quantity_called("iou").label == "IoU"
    assert quantity_called("nobody-knows").label == "nobody-knows"


def test_dice_is_f1() -> None:
    assert segmentation_metric("dice") is segmentation_metric("f1")
    with pytest.raises(DeclarationError, match="no segmentation metric 'dise'; did you mean 'dice'"):
        segmentation_metric("dise")


# an extension


@pytest.fixture
def extended(temp_study: Any) -> Any:
    """The study of twelve images in a project that has a metric of images and a score of masks of its own."""
    folder = temp_study.project / "extensions"
    folder.mkdir()
    (folder / "more_metrics.py").write_text(textwrap.dedent(EXTENSION))
    return temp_study


SETTINGS = ("fidelity={metrics: [brightness, mask-area]}", "evaluate={metrics: [iou, blind]}", "seeds=1")


def options(*settings: str) -> list[str]:
    return [part for setting in settings for part in ("--set", setting)]


def test_the_command_line_lists_both_with_what_they_are(extended: Any, command: Any) -> None:
    rows = {row["name"]: row for row in command("metrics", "list", "--json").json}
    assert {"fid", "iou", "brightness", "missed"} <= set(rows)
    assert rows["brightness"] == {
        "kind": "fidelity", "name": "brightness", "aliases": [], "label": "Brightness gap", "better": "lower",
        "needs": ["2 pairs a side"], "definition": "Difference of the mean grey levels.", "source": "",
        "origin": str(extended.project / "extensions" / "more_metrics.py"),
    }  # fmt: skip
    assert (rows["missed"]["kind"], rows["missed"]["aliases"]) == ("segmentation", ["blind"])
    assert rows["fid"]["origin"] == "built-in"
    assert rows["fid"]["needs"] == ["weights fid-inception", "2 pairs a side"]
    printed = command("metrics", "list").out
    assert all(name in printed for name in rows)
    helped = command("metrics", "--help").out
    assert "brightness" in helped
    assert "missed" in helped


def test_each_has_a_command_with_the_options_that_it_reads(extended: Any, command: Any, tmp_path: Path) -> None:
    twelve = str(tmp_path / "twelve")
    said = command("metrics", "brightness", "twelve:fit", twelve, "--json").json
    assert said["brightness"] > 0
    assert (said["network"], said["n_synthetic"]) == ("eyes", 12)
    squared = command("metrics", "brightness", "twelve:fit", twelve, "--power", "2", "--json").json
    assert squared["brightness"] == pytest.approx(said["brightness"] ** 2)
    for name in ("missed", "blind"):
        scores = command("metrics", name, f"{twelve}/masks", f"{twelve}/masks", "--json").json
        assert scores == {"missed": {"micro": 0.0, "micro-imagewise": 0.0}}
    assert "missed" in command("metrics", "segmentation", f"{twelve}/masks", f"{twelve}/masks", "--json").json
    answer = command("metrics", "brightnes", twelve, twelve)
    assert answer.code == 2
    assert "There is no metric 'brightnes'; did you mean 'brightness'?" in answer.err


def test_a_study_measures_scores_selects_and_reports_by_both(extended: Any) -> None:
    selected = "generators.paint.pairs.select={by: brightness, then: thumbnail-distance, samples: 8}"
    answer = extended.run(*options(*SETTINGS, selected, "compare.metric=blind-micro"))
    assert answer.code == 0, answer.err
    rows = pd.read_csv(extended.results, keep_default_na=False)
    measured = rows[(rows.kind == "fidelity") & (rows.generator == "paint")]
    assert [m for m in measured.metric if m.startswith("bright")] == ["brightness", "brightness-made"]
    assert set(measured[measured.metric == "brightness"].reduction) == {"eyes"}
    scored = rows[rows.kind == "segmentation"]
    assert set(scored.metric) == {"iou", "missed"}
    assert set(scored[scored.metric == "missed"].reduction) >= {"micro", "micro-imagewise", "micro-imagewise-small"}
    chosen = rows[(rows.kind == "selection") & (rows.metric == "brightness")]
    best = chosen[chosen.reduction == "selected"].value.astype(float)
    assert best.tolist() == [chosen.value.astype(float).min()]
    report = extended.results.parent
    fidelity = (report / "tables" / "fidelity.md").read_text()
    assert "Brightness gap" in fidelity
    line = next(line for line in fidelity.splitlines() if line.startswith("| paint"))
    value = float(measured[measured.metric == "brightness"].value.iloc[0])
    assert f"{value:.1f}" in line
    assert "Missed polyps" in (report / "tables" / "scores-micro.md").read_text()
    page = (report / "report.html").read_text()
    assert "Brightness gap" in page
    assert "primary metric is Missed polyps (micro" in page


def test_mlflow_has_both(extended: Any) -> None:
    answer = extended.command(
        "study", "run", "twelve", "--executor", "in-process", "--profile", "short", *options(*SETTINGS[:2])
    )
    assert answer.code == 0, answer.err
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{extended.project / 'mlruns' / 'mlflow.db'}")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    logged = {name for run in client.search_runs(experiments) for name in run.data.metrics}
    assert "brightness" in logged
    assert "missed micro" in logged


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("fidelity={metrics: [brigthness]}", "no fidelity metric 'brigthness'; did you mean 'brightness'?"),
        ("evaluate={metrics: [mised]}", "no segmentation metric 'mised'; did you mean 'missed'?"),
        ("evaluate={metrics: []}", "evaluate.metrics: tuple should have at least 1 item"),
        ("compare.metric=mised-micro", "no metric 'mised-micro'; did you mean 'missed-micro'?"),
        ("compare.metric=hausdorff-95-micro", "no metric 'hausdorff-95-micro'; did you mean 'hausdorff-95-imagewise'?"),
        ("compare.metric=missed-micro", "compare.metric: missed is not computed; add it to evaluate.metrics"),
        ("generators.paint.pairs.select.by=brightnes", "no fidelity metric 'brightnes'; did you mean 'brightness'?"),
    ],
)
def test_mistakes_name_the_nearest_of_all_metrics(extended: Any, setting: str, said: str) -> None:
    answer = extended.run(*options(setting))
    assert answer.code == 2
    assert said in answer.err


def test_the_code_of_an_extension_is_part_of_the_keys_of_what_it_computes(extended: Any) -> None:
    from harness.engine.load import load_study
    from harness.engine.plan import build_plan

    def keys() -> dict[str, set[str]]:
        plan = build_plan(load_study("twelve", settings=SETTINGS))
        kinds = {stage.kind for stage in plan.stages.values()}
        return {kind: {key for key, stage in plan.stages.items() if stage.kind == kind} for kind in kinds}

    before = keys()
    file = extended.project / "extensions" / "more_metrics.py"
    file.write_text(file.read_text().replace("** power", "** power * 1.0"))
    after = keys()
    assert {kind for kind in before if before[kind] != after[kind]} == {"fidelity", "evaluate", "trivial"}
    assert not before["fidelity"] & after["fidelity"]
    file.write_text(file.read_text() + "\n# a comment computes nothing\n")
    assert keys() == after


def test_dice_is_accepted_where_f1_is_and_the_same_stages_run(temp_study: Any) -> None:
    from harness.engine.load import load_study
    from harness.engine.plan import build_plan

    plans = [
        build_plan(load_study("twelve", settings=(f"compare.metric={name}-micro", f"evaluate.metrics=[{name}, iou]")))
        for name in ("dice", "f1")
    ]
    assert set(plans[0].stages) == set(plans[1].stages)
    assert plans[0].loaded.study.compare.primary == ("f1", "micro")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "Two of a kind"),
        (
            {"brightness": "iou", "missed": "lost", "blind": "eyeless"},
            "'iou' is both a fidelity and a segmentation metric",
        ),
        ({"brightness": "gloom", "missed": "lost", "blind": "dice"}, "'dice' means two scores, f1 and lost"),
    ],
)
def test_two_metrics_of_one_name_are_refused(extended: Any, command: Any, changes: dict[str, str], said: str) -> None:
    text = textwrap.dedent(EXTENSION)
    for old, new in changes.items():
        text = text.replace(f'"{old}', f'"{new}')
    (extended.project / "extensions" / "other.py").write_text(text)
    for arguments in (("list",), ("fid", "a", "b")):
        answer = command("metrics", *arguments)
        assert answer.code == 2
        assert said in answer.err
        assert "rename one" in answer.err

"""Leaks of several kinds, planted in stored results, that the guard must find when a segmenter is about to be scored.

The engine does not make such results by itself, so each test tampers with one: a generator fitted on a scored image,
one whose checkpoint was selected on one, a refiner that saw one, a near-duplicate across roles, and a segmenter
selected on what it is scored on.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.engine.graph import Plan
from harness.engine.load import load_study
from harness.engine.plan import build_plan
from harness.engine.run import specification
from harness.engine.worker import run_stage
from harness.store.results import Store


@pytest.fixture
def ran(finished_study: Any) -> tuple[Plan, Store]:
    """The study, run; what is scored can then be tampered with and scored again."""
    return build_plan(load_study("twelve")), Store()


def stage_of(plan: Plan, label: str) -> Any:
    return next(stage for stage in plan.stages.values() if stage.label == label)


def folder_of(plan: Plan, store: Store, label: str) -> Path:
    stage = stage_of(plan, label)
    return store.result_folder(stage.kind, stage.key)


def run_again(plan: Plan, store: Store, *labels: str, change: Callable[[dict[str, Any]], None] | None = None) -> str:
    """Run stages anew and return the status of the last: ``done`` or that of its failure."""
    status = ""
    for label in labels:
        stage = stage_of(plan, label)
        shutil.rmtree(store.result_folder(stage.kind, stage.key), ignore_errors=True)
        spec = specification(stage, plan, store)
        if change is not None:
            change(spec)
        done = run_stage(spec)
        failure = store.failure(stage.key) or {}
        status = "done" if done else f"{failure['status']}: {failure['reason']}"
    return status


TRAIN = "train tiny * real=4,paint=8 * seed=0"
EVALUATE = "evaluate tiny * real=4,paint=8 * seed=0"
POOL = "refine paint with dimmer"


def scored_id(plan: Plan) -> str:
    return f"twelve/{plan.splits[0].ids('report')[0]}"


def test_without_a_plant_it_scores(ran: tuple[Plan, Store]) -> None:
    assert run_again(*ran, TRAIN, EVALUATE) == "done"


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("fitted", "the generator of its synthetic images was fitted on it"),
        ("selected", "the checkpoint of its generator was selected on it"),
        ("refined", "its synthetic images were refined with it"),
        ("masks", "the masks of its synthetic images come from a generator that saw it"),
    ],
)
def test_synthetic_images_that_saw_a_scored_one_are_refused(ran: tuple[Plan, Store], how: str, said: str) -> None:
    plan, store = ran
    folder, stolen = folder_of(plan, store, POOL), scored_id(plan)
    pairs = json.loads((folder / "pairs" / "pairs.json").read_text())
    pairs["lineages"][pairs["lineage"][0]].append(stolen)
    (folder / "pairs" / "pairs.json").write_text(json.dumps(pairs))
    provenance = json.loads((folder / "provenance.json").read_text())
    provenance = {name: [i for i in ids if i != stolen] for name, ids in provenance.items()} | {how: [stolen]}
    (folder / "provenance.json").write_text(json.dumps(provenance))
    status = run_again(plan, store, TRAIN, EVALUATE)
    assert status.startswith("refused")
    assert stolen in status
    assert said in status


def test_lineage_alone_is_enough_even_when_nobody_says_how(ran: tuple[Plan, Store]) -> None:
    plan, store = ran
    folder, stolen = folder_of(plan, store, POOL), scored_id(plan)
    pairs = json.loads((folder / "pairs" / "pairs.json").read_text())
    pairs["lineages"][pairs["lineage"][7]].append(stolen)
    (folder / "pairs" / "pairs.json").write_text(json.dumps(pairs))
    assert run_again(plan, store, TRAIN, EVALUATE).startswith("refused")


def test_a_near_duplicate_of_a_training_image_is_refused(ran: tuple[Plan, Store]) -> None:
    plan, store = ran
    dataset = store.result_folder("dataset", plan.datasets[0])
    groups = json.loads((dataset / "groups.json").read_text())
    seen = json.loads((folder_of(plan, store, TRAIN) / "seen.json").read_text())
    trained = next(name for name, how in seen.items() if "trained" in how)
    groups[scored_id(plan)] = groups[trained]
    (dataset / "groups.json").write_text(json.dumps(groups))
    status = run_again(plan, store, EVALUATE)
    assert status.startswith("refused")
    assert f"near-duplicate or group of {trained}" in status


def test_a_segmenter_selected_on_what_it_is_scored_on_is_refused(ran: tuple[Plan, Store]) -> None:
    plan, store = ran

    def select_on_report(spec: dict[str, Any]) -> None:
        spec["parts"]["parameters"]["select-role"] = "report"

    assert run_again(plan, store, TRAIN, change=select_on_report) == "done"
    status = run_again(plan, store, EVALUATE)
    assert status.startswith("refused")
    assert "the segmenter's checkpoint was selected on it" in status


def test_the_same_frames_in_another_dataset_are_refused(temp_study: Any, tmp_path: Path) -> None:
    copies = tmp_path / "copies"
    for kind in ("images", "masks"):
        (copies / kind).mkdir(parents=True)
        for path in sorted((tmp_path / "twelve" / kind).glob("*.png")):
            shutil.copy(path, copies / kind / f"other-{path.name}")
    answer = temp_study.command("data", "import", "folder", "--from", str(copies), "--name", "copies")
    assert answer.code == 0, answer.err
    answer = temp_study.run("--profile", "short", "--set", "evaluate.on=[report, copies]", "--set", "train=[{real: 4}]")
    assert answer.code == 1
    assert "refused" in answer.err
    assert "copies/other-frame" in answer.err
    assert "near-duplicate" in answer.err


def test_imported_samples_know_the_real_images_behind_them(temp_study: Any, tmp_path: Path) -> None:
    made = tmp_path / "made"
    assert temp_study.run("--profile", "short", "--set", "fidelity=null").code == 0
    answer = temp_study.command(
        "generator", "sample", "--from", "sample paint", "--out", str(made), "-n", "9", "--device", "cpu"
    )
    assert answer.code == 0, answer.err
    answer = temp_study.command("data", "import", "folder", "--from", str(made), "--name", "made")
    assert answer.code == 0, answer.err
    assert "the leak guard knows the" in answer.err
    alone = ("--profile", "short", "--set", "dataset.name=made", "--set", "train=[{real: 2}]", "--set", "generators={}")
    alone += ("--set", "fidelity=null", "--set", "compare.against=null", "--set", "evaluate.on=[report, twelve]")
    answer = temp_study.run(*alone)
    assert answer.code == 1
    assert "refused" in answer.err
    assert "which was made from it" in answer.err

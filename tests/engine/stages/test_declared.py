"""A kind of stage from one file of the project: declared in a study, run, stored, and seen wherever numbers are."""

from __future__ import annotations

import csv
from typing import Any

import pytest

from harness.engine.load import load_study
from harness.engine.plan import build_plan
from harness.engine.stages import kinds

EXTENSION = '''
"""How bright the images of each generator are."""

from pydantic import Field

from harness.engine.graph import Measurement
from harness.engine.stages.declared import DeclaredStage
from harness.learning import Parameters


class BrightnessStage(DeclaredStage[float]):
    """Measures the mean grey level of each pool, and the share of its pixels above a level."""

    name = "brightness"

    class Parameters(Parameters):
        above: int = Field(128, ge=0, le=255, description="grey level")

    @classmethod
    def declare(cls, builder, parameters):
        found = []
        for pool in builder.plan.pools:
            inputs = {"pool": (pool.key,)}
            key = builder.plan.add(cls, f"brightness of {pool.label}", parameters.model_dump(), inputs)
            found.append(Measurement(pool.label, pool.fold, key, pool.generator))
        return found

    @classmethod
    def run(cls, stage):
        images = stage.input("pool").pairs.images
        return {"mean": float(images.mean()), "bright": float((images > stage.parameters["above"]).mean())}

    @classmethod
    def read(cls, result):
        return result.values["mean"]
'''
ASKED = ("--profile", "short", "--set", "stages=[{kind: brightness, above: 100}]")


@pytest.fixture
def extended(temp_study: Any) -> Any:
    folder = temp_study.project / "extensions"
    folder.mkdir()
    (folder / "brightness.py").write_text(EXTENSION)
    return temp_study


def rows_of(study: Any) -> list[dict[str, str]]:
    with (study.project / "reports" / "twelve-short" / "results.csv").open() as file:
        return [row for row in csv.DictReader(file) if row["kind"] == "brightness"]


def test_a_declared_stage_is_planned_run_stored_and_counted(extended: Any) -> None:
    assert kinds()["brightness"].origin.endswith("brightness.py")
    assert "brightness of paint" in extended.command("study", "plan", "twelve", *ASKED).out
    answer = extended.run(*ASKED)
    assert answer.code == 0, answer.err
    rows = rows_of(extended)
    assert [(row["cell"], row["generator"], row["metric"], row["status"]) for row in rows] == [
        ("paint", "paint", "bright", "done"),
        ("paint", "paint", "mean", "done"),
    ]
    assert 0 < float(rows[1]["value"]) < 255
    assert 0 <= float(rows[0]["value"]) <= 1
    again = extended.run(*ASKED, "--json")
    assert again.json["ran"] == 0


def test_its_parameters_and_its_code_are_part_of_its_key(extended: Any) -> None:
    def key(*settings: str) -> str:
        plan = build_plan(load_study("twelve", settings=settings))
        return plan.measurements[0].key

    first = key("stages=[{kind: brightness}]")
    assert first != key("stages=[{kind: brightness, above: 100}]")
    (stage,) = [
        s
        for s in build_plan(load_study("twelve", settings=("stages=[{kind: brightness}]",))).stages.values()
        if s.key == first
    ]
    assert list(stage.parts["code"]) == ["stage plugin"]


@pytest.mark.parametrize(
    ("declared", "sentence"),
    [
        ("[{kind: britness}]", "no kind of stage 'britness' can be declared; did you mean 'brightness'?"),
        ("[{kind: train}]", "no kind of stage 'train' can be declared"),
        ("[{kind: brightness, above: 300}]", "stages.0.above: input should be less than or equal to 255, got 300"),
        ("[{kind: brightness, level: 3}]", "stages.0.level: unknown key 'level'; allowed: above"),
    ],
)
def test_a_wrong_declaration_says_what_is_allowed(extended: Any, declared: str, sentence: str) -> None:
    answer = extended.command("study", "plan", "twelve", "--set", f"stages={declared}")
    assert answer.code == 2
    assert sentence in answer.err


def test_a_stage_that_fails_leaves_a_row_without_a_value(extended: Any) -> None:
    file = extended.project / "extensions" / "brightness.py"
    file.write_text(file.read_text().replace('images = stage.input("pool").pairs.images', 'raise ValueError("dark")'))
    answer = extended.run(*ASKED)
    assert answer.code == 1
    (row,) = rows_of(extended)
    assert (row["value"], row["status"]) == ("", "failed")

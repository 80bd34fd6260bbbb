"""A report says who scored its report images before, and whether their groups are known."""

from __future__ import annotations

from typing import Any

from harness.engine.earlier_looks import notes_on_report_role
from harness.engine.load import load_study
from harness.engine.plan import build_plan
from harness.store.results import Store

ONE = ("--only", "tiny * real=4 * seed=0")


def notes(*settings: str) -> list[str]:
    return list(notes_on_report_role(build_plan(load_study("twelve", settings=settings)), Store()))


def test_a_study_alone_has_no_earlier_looks_and_no_groups(temp_study: Any) -> None:
    assert temp_study.run(*ONE).code == 0
    [groups] = notes()
    assert groups.startswith("No groups (patient, video) are known for twelve")
    assert notes("train=[]", "compare.against=null", "controls=[]") == []


def test_other_studies_and_other_splits_are_counted(temp_study: Any) -> None:
    study = temp_study.project / "studies" / "twelve.yaml"
    (study.parent / "rival.yaml").write_text(study.read_text())
    assert temp_study.command("study", "run", "rival", *ONE, "--no-track").code == 0
    looks = notes()[0]
    assert "by 1 other study (rival)," in looks
    assert "split" not in looks
    # Another seed of the same study makes another split; that it scored it counts although its plan is gone.
    assert temp_study.run(*ONE, "--set", "dataset.seed=5").code == 0
    assert temp_study.run(*ONE).code == 0
    assert "by 1 other study (rival) and under 1 other split," in notes()[0]


def test_a_plan_that_scored_nothing_is_no_look(temp_study: Any) -> None:
    study = temp_study.project / "studies" / "twelve.yaml"
    (study.parent / "rival.yaml").write_text(study.read_text())
    assert temp_study.command("study", "plan", "rival").code == 0
    assert len(notes()) == 1

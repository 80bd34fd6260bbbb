"""Looks at which a study stops or goes on, and what it could see, through the real command line."""

from __future__ import annotations

from typing import Any

import pytest

REPORT = ("report.tables=[comparison]",)


def settings(*more: str) -> list[str]:
    return [part for setting in ("seeds=null", *REPORT, *more) for part in ("--set", setting)]


@pytest.fixture(autouse=True)
def learned(monkeypatch: Any) -> None:
    """Four weights trained for a few steps learn nothing; here it is about replicates, so nobody minds."""
    monkeypatch.setattr("harness.report.findings.marks", lambda results, scores: {})


def page(study: Any) -> str:
    return str((study.project / "reports" / "twelve" / "report.md").read_text())


def test_a_study_gets_replicates_until_it_is_decided_or_has_the_most(temp_study: Any) -> None:
    asked = settings("decide={margin: 0.0001, looks: [2, 3], at-most: 3}")
    answer = temp_study.run(*asked)
    assert answer.code == 0, answer.err
    assert "Look 2 of 2, after 3 replicates" in page(temp_study)
    assert temp_study.run(*asked, "--json").json["ran"] == 0
    assert "Look 2 of 2" in page(temp_study)


def test_a_study_that_is_decided_stops_at_that_look(temp_study: Any) -> None:
    """The margin is wider than any score: whatever runs do, no difference matters."""
    asked = settings("decide={margin: 1000, looks: [2, 3], at-most: 3}")
    assert temp_study.run(*asked).code == 0
    said = page(temp_study)
    assert "Look 1 of 2, after 2 replicates: every primary comparison is decided" in said
    assert "no relevant difference" in said
    assert temp_study.command("study", "status", "twelve", *asked, "--json").json["left"] == 0


def test_power_is_by_own_runs_or_by_those_of_a_study_like_it_or_says_what_to_do(temp_study: Any) -> None:
    def plan(*more: str) -> str:
        answer = temp_study.command("study", "plan", "twelve", "--power", *settings(*more))
        assert answer.code == 0, answer.err
        return str(answer.out)

    assert "run two first" in plan("replicates=3")
    assert temp_study.run("--set", "report.tables=[comparison]").code == 0
    assert "by its own runs" in plan("replicates=2", "compare.margin=0.01")
    similar = plan("replicates=3", "budget.steps=7", "compare.margin=0.01")
    assert "by runs of twelve" in similar
    assert "the margin of 0.010" in similar

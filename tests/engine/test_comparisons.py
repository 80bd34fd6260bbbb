"""Which training sets are compared with which, and as which family."""

from __future__ import annotations

import math
from typing import Any

import pytest

from harness.engine.comparisons import CONTROLS, PRIMARY, comparisons
from harness.engine.load import load_study
from harness.results.schema import Comparison
from harness.study.expand import expand_recipes

TRAIN = "train=[{real: [4, 6]}, {real: 4, synthetic: {paint: [4, 8]}}, {real: 4, synthetic: {other: 8}}]"
OTHER = "generators.other={pairs: {plugin: resample}}"


def families(*settings: str) -> dict[str, Comparison]:
    study = load_study("twelve", None, [OTHER, TRAIN, "controls=[resample, real-repeated]", *settings]).study
    return {family.name: family for family in comparisons(study, expand_recipes(study))}


def test_controls_leave_the_primary_family(temp_study: Any) -> None:
    found = families("compare={}")
    assert found[PRIMARY].baselines == {
        "real=4,paint=4": "real=4",
        "real=4,paint=8": "real=4",
        "real=4,other=8": "real=4",
    }
    assert found[CONTROLS].baselines == {
        "real=4,control:resample=8": "real=4",
        "real=4,control:real-repeated=8": "real=4",
    }
    assert math.isnan(found[PRIMARY].margin)


def test_other_numbers_of_real_images_stand_with_the_controls(temp_study: Any) -> None:
    found = families("compare={against: {real: 4}}")
    assert found[CONTROLS].baselines["real=6"] == "real=4"
    assert "real=6" not in found[PRIMARY].baselines


def test_a_list_brings_further_families_at_equal_counts(temp_study: Any) -> None:
    found = families(
        "compare=[{margin: 0.01}, {against: {control: resample}, margin: 0.02}, {against: {generator: other}}]"
    )
    assert list(found) == [PRIMARY, CONTROLS, "from control resample at equal counts", "from other at equal counts"]
    control = found["from control resample at equal counts"]
    assert control.baselines == {
        "real=4,paint=8": "real=4,control:resample=8",
        "real=4,other=8": "real=4,control:resample=8",
    }
    assert (found[PRIMARY].margin, found[CONTROLS].margin, control.margin) == (0.01, 0.01, 0.02)
    assert found["from other at equal counts"].baselines == {"real=4,paint=8": "real=4,other=8"}


@pytest.mark.parametrize(
    ("compare", "said"),
    [
        ("[{}, {against: {control: copy-paste}}]", "compare.1.against: no control 'copy-paste' in this study"),
        ("[{}, {against: {generator: pant}}]", "did you mean 'paint'"),
        ("[{metric: iou-imagewize}]", "compare.0.metric: no metric 'iou-imagewize'; did you mean 'iou-imagewise'"),
        ("{margin: 0}", "compare.margin"),
        ("{margn: 0.1}", "did you mean 'margin'"),
        ("{against: {generator: paint, real: 4}}", "one of a recipe"),
        ("[]", "compare"),
    ],
)
def test_mistakes_name_their_place(temp_study: Any, compare: str, said: str) -> None:
    answer = temp_study.command("study", "plan", "twelve", "--set", f"compare={compare}")
    assert answer.code == 2
    assert said in answer.err


def test_a_run_has_a_table_for_each_family(temp_study: Any, monkeypatch: Any) -> None:
    # Four weights learn nothing, and verdicts would say so instead.
    monkeypatch.setattr("harness.report.findings.marks", lambda results, scores: {})
    settings = [
        "seeds=2", "compare=[{against: {real: 4}, margin: 0.5}, {against: {control: resample}}]",
        "report.tables=[comparison]",
    ]  # fmt: skip
    answer = temp_study.run(*(part for setting in settings for part in ("--set", setting)))
    assert answer.code == 0, answer.err
    tables = {path.stem for path in (temp_study.project / "reports" / "twelve" / "tables").glob("*.tex")}
    expected = {
        "comparison",
        "comparison-of-controls-from-the-baseline",
        "comparison-from-control-resample-at-equal-counts",
    }
    assert tables == expected
    text = (temp_study.project / "reports" / "twelve" / "tables" / "comparison.md").read_text()
    assert "differences below 0.500 do not matter" in text
    assert "over trainings and pools of one fit and one subset" in text

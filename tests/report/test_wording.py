"""What a comparison could have found: a number that the metric can have, or in words that it could find nothing."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace
from typing import Any

import pytest

from harness.report.findings import Findings
from harness.report.tables.scores import comparison_table
from harness.report.wording import answer, describe, detectable, shows_any

COPIES = {"real=100": 0.0, "real=100,dcgan=300": 0.0}
NONE = "no evidence either way"


@pytest.fixture
def effect(study: Any) -> Any:
    """A comparison that found nothing, with a smallest detectable effect of choice."""
    (found,) = Findings(study(COPIES)).effects
    assert found.verdict == NONE
    return lambda size: replace(found, detectable=size)


def test_two_seeds_that_disagree_say_in_words_that_they_cannot_show_anything(study: Any) -> None:
    results = study(COPIES, seeds=2, run_noise=0.1, images=20, random=1)
    compared = [e for e in Findings(results).effects if not shows_any(e)]
    # The case is real: two runs of two arms have one degree of freedom, which asks for what no score can have.
    assert compared
    assert compared[0].detectable > 1
    compared = compared[:1]
    table = comparison_table(results, results.comparison, compared, "comparison")
    column = table.columns.index("Detectable")
    assert table.rows[0][column].text == "none"
    assert "none: too few runs" in table.notes[0]
    sentence = describe(compared[0])
    assert sentence.endswith("; so few runs cannot show any effect), over trainings.")
    said = " ".join(answer(results, compared))
    assert "In 1 comparison the runs are too few to show any effect" in said
    for text in (table.markdown(), table.latex(), sentence, said):
        assert not [n for n in re.findall(r"\d+\.\d+", text) if float(n) > 95]
    # The number itself is for those who compute with it.
    (record,) = csv.DictReader(io.StringIO(table.csv()))
    assert float(record["detectable"]) == pytest.approx(compared[0].detectable)


@pytest.mark.parametrize(
    ("size", "text", "seen"),
    [(0.25, "0.250", True), (1.0, "1.000", True), (1.001, "none", False), (2e9, "none", False),
     (float("inf"), "none", False), (float("nan"), "–", True)],
)  # fmt: skip
def test_no_effect_is_larger_than_a_score_can_be(effect: Any, size: float, text: str, seen: bool) -> None:
    assert detectable(effect(size)) == text
    assert shows_any(effect(size)) == seen
    assert ("cannot show any effect" in describe(effect(size))) != seen


def test_what_some_comparisons_could_have_found_is_not_hidden_by_those_that_could_find_nothing(
    study: Any, effect: Any
) -> None:
    results = study(COPIES)
    said = " ".join(answer(results, [effect(0.02), effect(2e9), effect(0.3)]))
    assert "a true effect of 0.020 to 0.300 would have been found" in said
    assert "In 1 comparison the runs are too few" in said
    assert "too few" not in " ".join(answer(results, [effect(0.02)]))
    blind = " ".join(answer(results, [effect(2e9), effect(3e9)]))
    assert "would have been found" not in blind
    assert "In 2 comparisons the runs are too few" in blind
    usual = comparison_table(results, results.comparison, [effect(0.02)], "comparison").notes[0]
    assert usual == "Detectable: the smallest true difference that would be found in 80 % of repetitions of this study."

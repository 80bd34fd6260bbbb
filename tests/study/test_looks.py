"""What each look may spend."""

from __future__ import annotations

import math

import pytest

from harness.study.looks import spent


def test_all_looks_together_spend_the_whole_rate():
    for looks in ((3,), (3, 6, 12), (2, 3, 4, 5, 6)):
        assert sum(spent(looks, place, 0.05) for place in range(len(looks))) == pytest.approx(0.05)


def test_the_spending_function_is_lan_and_demets_s():
    assert spent((3, 6, 12), 0, 0.05) == pytest.approx(0.05 * math.log(1 + (math.e - 1) * 0.25))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (("decide={margin: 0.1, looks: [3, 2], at-most: 2}",), "rise"),
        (("decide={margin: 0.1, looks: [2, 3], at-most: 4}",), "the last look is at-most"),
        (("decide={margin: 0.1}", "seeds=2"), "decide says itself"),
        (("decide={margin: 0.1}", "replicates=2"), "decide says itself"),
        (("decide={margin: 0.1}", "compare.margin=0.2"), "say it in one place"),
        (("decide={margn: 0.1}",), "did you mean 'margin'"),
    ],
)
def test_mistakes_are_said(temp_study, settings, said):
    given = [part for setting in ("seeds=null", *settings) for part in ("--set", setting)]
    answer = temp_study.command("study", "plan", "twelve", *given)
    assert answer.code == 2
    assert said in answer.err

"""The table of trivial predictions, and the marks of arms whose segmenters did not learn."""

from __future__ import annotations

from harness.report.findings import Findings
from harness.report.page import pages
from harness.report.tables.scores import comparison_tables, score_tables
from harness.report.tables.trivial import trivial_tables
from tests.stats.test_learned import HELPS, MIXED, REAL, with_training, with_trivial


def test_a_row_a_prediction_and_nothing_without_them(study) -> None:
    assert list(trivial_tables(Findings(study(HELPS)))) == []
    results = with_trivial(study(HELPS), {"all polyp": 0.15, "none": 0.1, "mean mask": 0.2})
    (table,) = trivial_tables(Findings(results))
    assert [[cell.text for cell in row][:3] for row in table.rows] == [
        ["all polyp", "0.150", "–"],
        ["none", "0.100", "–"],
        ["mean mask", "0.200", "–"],
    ]
    assert {(record["prediction"], record["metric"], record["value"]) for record in table.records} == {
        ("all polyp", "iou", 0.15),
        ("none", "iou", 0.1),
        ("mean mask", "iou", 0.2),
    }
    assert "no pixel is" in table.markdown()


def test_arms_are_marked_in_tables_of_scores_and_comparisons(study) -> None:
    results = with_trivial(study({REAL: 0.0, MIXED: -0.4}), {"mean mask": 0.5})
    findings = Findings(with_training(results, "last-rise", {REAL: [0.02] * 3}))
    table = next(iter(score_tables(findings)))
    assert {row[1].text: row[1].mark for row in table.rows} == {REAL: "↑", MIXED: "‡"}
    text = table.markdown()
    assert f"↑ undertrained: unetplusplus, {REAL}: the selection score still rose by 0.020" in text
    assert f"‡ did not learn: unetplusplus, {MIXED}: IoU 0.2" in text
    (compared,) = comparison_tables(findings)
    assert compared.rows[0][-1].mark == "(a)"
    assert f"(a) Did not learn ({MIXED}: IoU 0.2" in compared.markdown()
    assert compared.records[0]["mark"].startswith("did not learn")
    assert r"\uparrow" in table.latex()


def test_the_page_says_first_which_arms_did_not_learn(study) -> None:
    results = with_trivial(study(HELPS), {"mean mask": 0.99})
    page = pages(Findings(results), [], [])["report.md"]
    alarm = next(line for line in page.splitlines() if "Segmenters did not learn" in line)
    assert f"unetplusplus, {REAL}: IoU 0." in alarm
    assert f"unetplusplus, {MIXED}: IoU 0." in alarm
    assert "where mean mask gives 0.990" in alarm
    assert "Read this first" in page.split(alarm)[0]

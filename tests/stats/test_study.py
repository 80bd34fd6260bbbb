"""From a results table to scores and verdicts, on studies with a known answer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from harness.report.findings import Findings
from harness.results.schema import Comparison, score_columns
from harness.stats import scores

HELPS = {"real=100": 0.0, "real=100,dcgan=300": 0.10}
COPIES = {"real=100": 0.0, "real=100,dcgan=300": 0.0}


def effects(results):
    return Findings(results).effects


def only(found):
    assert len(found) == 1
    return found[0]


def test_data_that_help_by_construction_help(study):
    effect = only(effects(study(HELPS, seeds=3)))
    assert effect.verdict == "helps"
    assert effect.low > 0.05
    assert effect.p_adjusted <= 0.05


def test_data_that_harm_hurt(study):
    assert only(effects(study({"real=100": 0.0, "synthetic=0,dcgan=300": -0.15}))).verdict == "hurts"


def test_copies_give_no_evidence_and_say_what_could_have_been_seen(study):
    effect = only(effects(study(COPIES)))
    assert effect.verdict == "no evidence either way"
    assert 0 < effect.detectable < 0.1
    assert effect.low < 0 < effect.high


def test_a_leak_is_not_comparable_and_not_tested(study):
    effect = only(effects(study(HELPS, leaks={"real=100,dcgan=300": "the generator saw 3 report images"})))
    assert effect.verdict == "not comparable"
    assert "the generator saw 3 report images" in effect.reason
    assert np.isnan(effect.p)
    assert effect.difference > 0.05


def test_a_missing_cell_is_not_averaged_away(study, lose):
    results = lose(study(HELPS), "real=100,dcgan=300", 1)
    effect = only(effects(results))
    assert effect.verdict == "not comparable"
    assert effect.reason == "missing cells (real=100,dcgan=300: 2/3)"
    score = next(s for s in scores(results, "iou", "micro-imagewise") if s.key.recipe == "real=100,dcgan=300")
    assert np.isnan(score.mean)
    assert (score.runs, score.planned, score.complete) == (2, 3, False)


def test_a_missing_cell_of_the_baseline_is_not_comparable_either(study, lose):
    assert only(effects(lose(study(HELPS), "real=100", 0))).verdict == "not comparable"


def test_a_baseline_that_does_not_exist_is_not_comparable(study):
    results = replace(study(HELPS), comparison=Comparison({"real=100,dcgan=300": "real=50"}))
    assert only(effects(results)).reason.startswith("missing cells")


def test_a_budget_in_epochs_is_not_comparable(study):
    results = study(HELPS)
    results.facts["budget"] = "Every arm was trained for 50 epochs."
    assert "different budgets" in only(effects(results)).reason


def test_declared_steps_decide_whether_budgets_differ(study):
    results = study(HELPS)
    results.facts["steps"] = {"real=100": 4000, "real=100,dcgan=300": 8000}
    assert "different budgets" in only(effects(results)).reason
    results.facts["steps"]["real=100,dcgan=300"] = 4000
    assert only(effects(results)).verdict == "helps"


def test_one_seed_cannot_tell_a_recipe_from_luck(study):
    results = study(HELPS, seeds=1)
    effect = only(effects(results))
    assert (effect.verdict, effect.reason) == ("not comparable", "one training run an arm")
    assert "luck of training" in scores(results, "iou", "micro-imagewise")[0].caveat


def test_arms_scored_on_different_images_are_not_comparable(study):
    results = study(HELPS)
    images = results.images
    odd = (images["recipe"] == "real=100,dcgan=300") & (images["image"] == "phantom/0-000")
    renamed = images.assign(image=images["image"].where(~odd, "phantom/other"))
    assert only(effects(replace(results, images=renamed))).verdict == "not comparable"


@pytest.mark.parametrize(("metric", "verdict"), [("f1", "helps"), ("dice-loss", "helps")])
def test_the_direction_of_the_metric_turns_the_verdict(study, metric, verdict):
    results = study(HELPS)
    comparison = replace(results.comparison, metric=metric)
    effect = only(effects(replace(results, comparison=comparison)))
    assert effect.verdict == verdict
    assert (effect.difference < 0) == (metric == "dice-loss")


def test_a_family_is_all_segmenters_and_recipes_of_a_comparison(study):
    recipes = {"real=100": 0.0, "real=100,dcgan=100": 0.03, "real=100,dcgan=300": 0.06}
    found = effects(study(recipes, segmenters=("unetplusplus", "fpn")))
    assert len(found) == 4
    smallest = min(found, key=lambda e: e.p)
    assert smallest.p_adjusted == pytest.approx(min(1, 4 * smallest.p))
    assert {e.comparisons for e in found} == {4}


@pytest.mark.parametrize("reduction", ["micro", "micro-imagewise"])
@pytest.mark.parametrize("folds", [1, 3])
def test_scores_are_the_means_of_the_table_and_lie_in_their_intervals(study, reduction, folds):
    results = study(HELPS, folds=folds, images=40)
    rows = results.rows
    for metric in ("iou", "f1", "accuracy", "precision", "recall"):
        for score in scores(results, metric, reduction):
            part = rows[(rows["metric"] == metric) & (rows["reduction"] == reduction)]
            assert score.mean == pytest.approx(part[part["recipe"] == score.key.recipe]["value"].mean())
            assert score.low < score.mean < score.high
            assert score.images == 40 * folds
            assert score.groups == 20 * folds


def test_an_interval_is_left_out_when_images_do_not_give_the_number(study):
    results = study(HELPS)
    shifted = results.rows.assign(value=results.rows["value"] + 0.01)
    score = scores(replace(results, rows=shifted), "iou", "micro-imagewise")[0]
    assert np.isnan(score.low)
    assert "per-image scores give" in score.caveat


def test_undefined_images_are_left_out_of_the_mean(study):
    results = study(HELPS)
    images, rows = results.images.copy(), results.rows.copy()
    above, below = score_columns("iou")
    images.loc[images["image"] == "phantom/0-003", [above, below]] = 0.0
    results.facts["zero_division"] = float("nan")
    means = images.assign(iou=images[above] / images[below]).groupby(["recipe", "seed"])["iou"].mean()
    chosen = (rows["metric"] == "iou") & (rows["reduction"] == "micro-imagewise")
    rows.loc[chosen, "value"] = [means[r, s] for r, s in zip(rows[chosen]["recipe"], rows[chosen]["seed"], strict=True)]
    score = scores(replace(results, images=images, rows=rows), "iou", "micro-imagewise")[0]
    assert score.mean == pytest.approx(means["real=100"].mean())
    assert not np.isnan(score.low)


def test_the_order_of_the_image_table_changes_nothing(study):
    results = study(HELPS)
    shuffled = replace(results, images=results.images.sample(frac=1, random_state=1))
    pd.testing.assert_frame_equal(pd.DataFrame(effects(results)), pd.DataFrame(effects(shuffled)))


def test_a_difference_that_the_images_do_not_give_is_not_comparable(study):
    """Stated means and images of another run of the study: neither is trusted."""
    results = study(HELPS)
    moved = results.rows["value"].where(results.rows["recipe"] != "real=100,dcgan=300", results.rows["value"] + 0.01)
    effect = only(effects(replace(results, rows=results.rows.assign(value=moved))))
    assert effect.verdict == "not comparable"
    assert "the per-image scores give another difference" in effect.reason


def test_leaks_of_another_role_leave_an_arm_with_its_own(study):
    """Scores of the select role are leaked by definition; those of the report role are not, and stay in one block."""
    results = study(HELPS)
    selected = results.rows.assign(role="select", leak="seen")
    both = replace(
        results,
        rows=pd.concat([results.rows, selected]),
        images=pd.concat([results.images, results.images.assign(role="select")]),
    )
    verdicts = {effect.key.role: effect.verdict for effect in Findings(both).effects}
    assert verdicts == {"report": "helps", "select": "not comparable"}


def test_arms_near_the_best_are_marked_and_worse_ones_are_not(study):
    effects = {"real=100": -0.15, "real=100,dcgan=100": 0.0, "real=100,dcgan=300": 0.003}
    best, tied = Findings(study(effects)).best("iou", "micro-imagewise")
    together = {key.recipe for key in best | tied}
    assert together == {"real=100,dcgan=100", "real=100,dcgan=300"}
    assert len(best) == 1
    turned, tied = Findings(study(effects)).best("dice-loss", "micro-imagewise")
    assert {key.recipe for key in turned | tied} == together


def test_an_empty_study_has_no_scores(study):
    results = study(HELPS)
    empty = replace(results, rows=results.rows.iloc[:0], images=results.images.iloc[:0])
    assert scores(empty, "iou", "micro") == []
    assert effects(empty) == []

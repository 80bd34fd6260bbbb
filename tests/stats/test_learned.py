"""Segmenters that learned nothing, or were stopped early: what marks them, and what becomes of verdicts on them."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest

from harness.report.findings import Findings
from harness.report.wording import answer, describe
from harness.results.schema import COLUMNS, Comparison
from harness.stats.learned import judged_by, marks, trivial_scores
from harness.stats.verdicts import Mark, in_words

REAL, MIXED = "real=100", "real=100,dcgan=300"
HELPS = {REAL: 0.0, MIXED: 0.10}
PLACE = ("phantom", "report")


def with_trivial(results, scores, metric="iou", reduction="micro-imagewise", fold=0):
    """The study with what trivial predictions score."""
    base = dict.fromkeys(COLUMNS, "") | {"kind": "trivial", "dataset": "phantom", "role": "report", "fold": fold}
    base |= {"metric": metric, "reduction": reduction}
    rows = pd.DataFrame([base | {"cell": name, "value": value} for name, value in scores.items()])
    return replace(results, rows=pd.concat([results.rows, rows.assign(leak="")], ignore_index=True))


def with_training(results, metric, values):
    """The study with what its trainings say of themselves: of each recipe, a value a run."""
    base = dict.fromkeys(COLUMNS, "") | {"kind": "training", "dataset": "phantom", "role": "report", "fold": 0}
    base |= {"segmenter": results.segmenters[0], "metric": metric}
    rows = pd.DataFrame(
        [
            base | {"recipe": recipe, "seed": seed, "value": value}
            for recipe, runs in values.items()
            for seed, value in enumerate(runs)
        ]
    )
    return replace(results, rows=pd.concat([results.rows, rows.assign(leak="")], ignore_index=True))


def only(results):
    (effect,) = Findings(results).effects
    return effect


def kinds(results):
    return {key.recipe: mark.kind for key, mark in Findings(results).marks.items()}


def test_a_baseline_below_a_trivial_prediction_is_compared_with_nothing(study) -> None:
    results = with_trivial(study(HELPS), {"all polyp": 0.65, "none": 0.1})
    effect = only(results)
    assert kinds(results) == {REAL: "did not learn"}
    assert effect.verdict == "not comparable"
    assert effect.reason.startswith(f"the segmenters of {REAL} did not learn (IoU 0.6")
    assert effect.reason.endswith("where all polyp gives 0.650)")
    assert effect.p != effect.p
    assert effect.mark == ""


def test_two_arms_that_did_not_learn_are_not_comparable(study) -> None:
    effect = only(with_trivial(study(HELPS), {"mean mask": 0.95}))
    assert effect.reason.startswith("the segmenters did not learn (IoU ")
    assert "found in 80 %" not in " ".join(answer(with_trivial(study(HELPS), {"mean mask": 0.95}), [effect]))


def test_segmenters_above_every_trivial_prediction_are_not_marked(study) -> None:
    results = study(HELPS)
    beside = with_trivial(results, {"all polyp": 0.15, "none": 0.05, "mean mask": 0.3})
    assert kinds(beside) == {}
    assert only(beside) == only(results)


def test_results_from_before_there_were_trivial_predictions_are_not_marked(study) -> None:
    assert Findings(study(HELPS)).marks == {}
    unknown = {REAL: [float("nan")] * 3}
    assert kinds(with_training(with_training(study(HELPS), "last-rise", unknown), "constant", unknown)) == {}


def test_the_whole_interval_must_lie_above(study) -> None:
    results = study(HELPS)
    score = next(score for score in Findings(results).primary if score.key.recipe == REAL)
    just_below, just_above = score.low - 1e-6, score.low + 1e-6
    assert kinds(with_trivial(results, {"none": just_below})) == {}
    assert kinds(with_trivial(results, {"none": just_above})) == {REAL: "did not learn"}
    # Where the mean itself is above, its interval says why that is not enough.
    assert f"[{score.low:.3f}, {score.high:.3f}]" in only(with_trivial(results, {"none": just_above})).reason


def test_an_arm_alone_that_did_not_learn_keeps_its_verdict_and_is_marked(study) -> None:
    results = with_trivial(study({REAL: 0.0, MIXED: -0.4}), {"mean mask": 0.5})
    effect = only(results)
    assert effect.verdict == "hurts"
    assert effect.mark.startswith(f"did not learn ({MIXED}: IoU 0.2")
    assert effect.mark in describe(effect)
    assert "the segmenters of the baseline learned, those of the arm did not" in " ".join(answer(results, [effect]))


def test_a_study_of_constant_predictors_is_not_comparable(study) -> None:
    results = with_training(study(dict.fromkeys(HELPS, 0.0)), "constant", {REAL: [0, 1, 1], MIXED: [1, 1, 1]})
    effect = only(results)
    assert effect.verdict == "not comparable"
    assert effect.reason == "the segmenters did not learn (one mask for every image in 2 of 3 runs)"
    text = " ".join(answer(results, [effect]))
    assert text.startswith("Does synthetic data help? Cannot be said.")
    assert "would have been found" not in text


def test_one_run_that_collapsed_is_enough(study) -> None:
    assert kinds(with_training(study(HELPS), "constant", {REAL: [0, 0, 0], MIXED: [0, 1, 0]})) == {
        MIXED: "did not learn"
    }


@pytest.mark.parametrize(
    ("rises", "margin", "marked"),
    [
        ([0.02, 0.02, 0.02], float("nan"), True),
        ([0.009, 0.009, 0.009], float("nan"), False),
        ([0.05, -0.05, 0.01], float("nan"), False),  # by chance, in one run
        ([0.02, 0.02, 0.02], 0.03, False),
        ([0.04, 0.04, 0.04], 0.03, True),
        ([float("nan"), 0.02, 0.02], float("nan"), True),
        ([-0.02, -0.01, 0.0], float("nan"), False),
    ],
)
def test_scores_that_still_rise_by_more_than_the_margin_are_undertrained(study, rises, margin, marked) -> None:
    results = with_training(study(HELPS), "last-rise", {REAL: rises})
    results = replace(results, comparison=replace(results.comparison, margin=margin))
    assert kinds(results) == ({REAL: "undertrained"} if marked else {})


def test_undertrained_is_carried_by_the_verdict_its_sentence_and_the_headline(study) -> None:
    results = with_training(study(HELPS), "last-rise", {REAL: [0.021] * 3})
    effect = only(results)
    assert effect.verdict == "helps"
    assert effect.mark == f"undertrained ({REAL}: the selection score still rose by 0.021 at the last validation)"
    assert describe(effect).endswith(f", {effect.mark}.")
    headline = answer(results, [effect])[0]
    assert headline.startswith("Does synthetic data help? Yes (")
    assert "undertrained)" in headline


def test_a_margin_in_pixels_says_nothing_of_a_selection_score(study) -> None:
    results = with_training(study(HELPS), "last-rise", {REAL: [0.02] * 3})
    comparison = Comparison({MIXED: REAL}, metric="hausdorff-95", margin=2.0)
    assert [
        mark.kind for mark in marks(replace(results, comparison=comparison), Findings(results).primary).values()
    ] == ["undertrained"]


def test_a_score_that_is_better_when_lower_must_lie_below(study) -> None:
    results = replace(study(HELPS), comparison=Comparison({MIXED: REAL}, metric="dice-loss"))
    score = next(score for score in Findings(results).primary if score.key.recipe == REAL)
    assert kinds(with_trivial(results, {"all polyp": 0.9, "none": score.high + 1e-6}, "dice-loss")) == {}
    # The best trivial prediction is the lowest.
    low = with_trivial(results, {"all polyp": 0.9, "none": score.high - 1e-6}, "dice-loss")
    assert kinds(low) == {REAL: "did not learn"}
    assert "where none gives" in only(low).reason


def test_where_a_trivial_prediction_is_perfect_iou_tells(study) -> None:
    results = replace(study(HELPS), comparison=Comparison({MIXED: REAL}, metric="recall"))
    results = with_trivial(results, {"all polyp": 1.0, "none": 0.0}, "recall")
    assert judged_by(results, [PLACE]) == ("iou", "micro-imagewise")
    assert kinds(with_trivial(results, {"all polyp": 0.15})) == {}
    assert kinds(with_trivial(results, {"all polyp": 0.65})) == {REAL: "did not learn"}


def test_trivial_scores_are_means_over_folds_of_those_that_all_have(study) -> None:
    results = with_trivial(study(HELPS, folds=2), {"all polyp": 0.2, "none": 0.1})
    results = with_trivial(results, {"all polyp": 0.4, "none": float("nan")}, fold=1)
    assert trivial_scores(results, *PLACE, "iou", "micro-imagewise") == {"all polyp": pytest.approx(0.3)}
    assert trivial_scores(results, "other", "report", "iou", "micro-imagewise") == {}


def test_arms_with_missing_runs_are_not_judged(study, lose) -> None:
    results = with_trivial(lose(study(HELPS), REAL, 0), {"all polyp": 0.99})
    assert kinds(results) == {MIXED: "did not learn"}
    assert only(results).reason.startswith("missing cells")


def test_a_sweep_from_a_baseline_that_did_not_learn_says_nothing(study) -> None:
    sweep = {"real=100": 0.0, **{f"real=100,dcgan={n}": n / 2000 for n in (100, 200, 300)}}
    assert len(Findings(study(sweep)).sweeps) == 1
    assert Findings(with_training(study(sweep), "constant", {"real=100": [1, 1, 1]})).sweeps == []


def test_an_arm_of_real_images_that_did_not_learn_is_no_point_of_the_learning_curve(study) -> None:
    arms = {"real=50": -0.1, "real=100": 0.0, "real=200": 0.1, "real=100,dcgan=300": 0.05}
    assert len(Findings(study(arms)).worths) == 1
    assert Findings(with_training(study(arms), "constant", {"real=100": [1, 1, 1]})).worths == []


def test_marks_of_two_arms_are_one_clause() -> None:
    early, failed = Mark("undertrained", "it rose"), Mark("did not learn", "it fell")
    assert in_words(None, "a", None, "b") == ""
    assert in_words(early, "a", early, "b") == "undertrained (a: it rose; b: it rose)"
    assert in_words(failed, "a", early, "b") == "did not learn (a: it fell), undertrained (b: it rose)"

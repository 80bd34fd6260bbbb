"""What replicates share in a plan and what they have of their own, down to the results table."""

from __future__ import annotations

from typing import Any

import pytest

from harness.engine.collect import collect
from harness.engine.graph import Plan, Stage
from harness.engine.load import load_study
from harness.engine.plan import build_plan
from harness.store.results import Store


def plan_of(*settings: str) -> Plan:
    return build_plan(load_study("twelve", None, ["seeds=null", *settings]))


def stages(plan: Plan, kind: str) -> list[Stage]:
    return [stage for stage in plan.stages.values() if stage.kind == kind]


def cells(plan: Plan, recipe: str) -> list[Any]:
    return [cell for cell in plan.cells if cell.recipe.label == recipe]


def test_each_replicate_has_a_training_and_a_pool_and_all_share_one_fit(temp_study: Any) -> None:
    plan = plan_of("replicates=3")
    own = cells(plan, "real=4,paint=8")
    assert len({cell.pools[0].key for cell in own}) == len({cell.train for cell in own}) == 3
    assert len({cell.pools[0].fits for cell in own}) == 1
    assert [plan.stages[cell.train].parts["seed"] for cell in own] == [0, 1, 2]


def test_the_first_replicate_is_the_one_that_is_measured_and_chosen_by(temp_study: Any) -> None:
    one, three = plan_of("replicates=1"), plan_of("replicates=3")
    for kind in ("fit", "select", "measure"):
        assert {s.key for s in stages(one, kind)} == {s.key for s in stages(three, kind)}
    assert [pool.key for pool in one.pools] == [pool.key for pool in three.pools]
    assert set(one.stages) <= set(three.stages)


def test_more_replicates_keep_the_ones_before(temp_study: Any) -> None:
    assert set(plan_of("replicates=2").stages) < set(plan_of("replicates=4").stages)


def test_a_fit_that_varies_is_made_and_chosen_anew(temp_study: Any) -> None:
    plan = plan_of("replicates={count: 4, of: [training, pool, fit], share: {fit: 2}}")
    own = cells(plan, "real=4,paint=8")
    fits = [cell.pools[0].fits for cell in own]
    assert fits[0] == fits[1] != fits[2] == fits[3]
    assert len({cell.pools[0].key for cell in own}) == 4
    learned = [stage for stage in stages(plan, "fit") if "paint" in stage.label]
    assert sorted(stage.parts["seed"] for stage in learned) == [0, 10_000]
    assert len(stages(plan, "select")) == 2


def test_a_subset_that_varies_is_the_arm_s_the_fit_s_and_the_control_s(temp_study: Any) -> None:
    plan = plan_of("replicates={count: 2, of: [training, subset]}", "generators.paint.sees=recipe")
    for recipe in ("real=4", "real=4,paint=8", "real=4,control:resample=8"):
        orders = [plan.stages[cell.train].parts["parameters"]["order-seed"] for cell in cells(plan, recipe)]
        assert orders == [0, 10_000]
    fits = [fit for cell in cells(plan, "real=4,paint=8") for fit in cell.pools[0].fits]
    assert [plan.stages[fit].parts["parameters"]["order-seed"] for fit in fits] == [0, 10_000]


def test_all_real_pairs_are_no_subset(temp_study: Any) -> None:
    plan = plan_of("replicates={count: 2, of: [training, subset]}", "train=[{real: all}]", "controls=[]", "compare={}")
    orders = {plan.stages[cell.train].parts["parameters"]["order-seed"] for cell in plan.cells}
    assert orders == {0}


def test_the_order_of_subsets_can_change_without_the_split(temp_study: Any) -> None:
    def of(*settings: str) -> tuple[Any, Any]:
        plan = plan_of(*settings)
        (dataset,) = stages(plan, "dataset")
        return dataset.key, plan.stages[cells(plan, "real=4")[0].train].parts["parameters"]["order-seed"]

    assert of()[0] == of("dataset.order=5")[0]
    assert (of()[1], of("dataset.order=5")[1]) == (0, 5)
    assert of("dataset.seed=5")[1] == 5


def test_folds_as_replicates_score_each_once(temp_study: Any) -> None:
    split = "dataset.split={kfold: 3, select: 0.2}"
    plan = plan_of(split, "replicates={count: 3, of: [training, pool, fold]}")
    assert [(cell.seed, cell.fold) for cell in cells(plan, "real=4")] == [(0, 0), (1, 1), (2, 2)]
    assert len(cells(plan_of(split, "replicates=3"), "real=4")) == 9


@pytest.mark.parametrize("factor", ["pool", "fit", "subset"])
def test_results_say_what_varied(temp_study: Any, factor: str) -> None:
    settings = ["seeds=null", f"replicates={{count: 2, of: [training, {factor}]}}", "generators.paint.sees=recipe"]
    chosen = [part for setting in settings for part in ("--set", setting)]
    assert temp_study.run(*chosen).code == 0
    rows = collect(plan_of(*settings[1:]), Store()).rows
    own = rows[(rows["recipe"] == "real=4,paint=8") & (rows["metric"] == "iou") & (rows["reduction"] == "micro")]
    # Another fit, or another subset to fit on, makes another pool too.
    different = {"pool": {"pool"}, "fit": {"pool", "fit"}, "subset": {"pool", "fit", "subset"}}[factor]
    for column in ("pool", "fit", "subset"):
        assert own[column].nunique() == (2 if column in different else 1), column
    assert own["training"].tolist() == [0, 1]

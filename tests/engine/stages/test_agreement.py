"""Agreement in a study: its segmenter is a training like any other, declared or taken over, and there when asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from harness.data.pairs import PairSet
from harness.engine.graph import Plan
from harness.engine.load import load_study
from harness.engine.plan import build_plan
from harness.engine.preflight import missing_weights
from harness.engine.stages.dataset import RealPairs
from harness.errors import DeclarationError
from harness.store.results import Store

ASKED = "fidelity={metrics: [agreement, mask-area]}"
BASE = """title: t
dataset: {name: phantom, size: 32}
generators:
  noise: {pairs: {plugin: noise}}
fidelity:
  metrics: [sim, agreement]
"""


def plan_of(*settings: str) -> Plan:
    return build_plan(load_study("twelve", None, settings))


def judges(plan: Plan) -> list[str]:
    """Keys of the trainings that measurements read."""
    return [key for stage in plan.stages.values() if stage.kind == "fidelity" for key in stage.inputs.get("train", ())]


def problems(folder: Path, text: str) -> list[str]:
    (folder / "s.yaml").write_text(text)
    with pytest.raises(DeclarationError) as caught:
        load_study(str(folder / "s.yaml"))
    return caught.value.problems


# the plan


def test_the_segmenter_is_the_training_of_the_cell_that_a_study_has_anyway(temp_study: Any) -> None:
    real = "train=[{real: all}, {real: 4, synthetic: {paint: 4}}]"
    plan = plan_of(real, ASKED, "compare.against=null")
    (cell,) = [c for c in plan.cells if c.recipe.label == "real=all" and c.seed == 0]
    measured = [pool for pool in plan.pools if pool.fidelity]
    assert len(judges(plan)) == len(measured) + len(plan.references) == 2
    assert set(judges(plan)) == {cell.train}
    assert plan.stages[cell.train].label == "train tiny * real=all * seed=0"
    assert set(plan.stages) == set(plan_of(real, ASKED, "compare.against=null", "fidelity.segmenter=null").stages)


def test_without_that_cell_one_training_is_added_with_the_first_segmenter_seed_and_budget(temp_study: Any) -> None:
    before, after = plan_of("seeds=[3, 5]"), plan_of("seeds=[3, 5]", ASKED)
    (key,) = set(judges(after))
    assert set(after.stages) - set(before.stages) == {key} | {
        stage.key for stage in after.stages.values() if stage.kind == "fidelity"
    }
    stage = after.stages[key]
    assert (stage.label, stage.parts["seed"], stage.amount) == ("train tiny * real=all * seed=3", 3, 4)
    assert stage.inputs["pools"] == ()
    parameters = stage.parts["parameters"]
    assert (parameters["real"], parameters["validations"], parameters["select-role"]) == (None, 2, "select")


def test_there_is_one_segmenter_a_fold_whatever_the_pools(temp_study: Any) -> None:
    folds = "dataset.split={kfold: 3, select: 0.2}"
    more = "generators.noise={pairs: {plugin: noise}}"
    plan = plan_of(folds, more, "seeds=1", "train=[]", "controls=[]", "compare.against=null", ASKED)
    assert len(judges(plan)) == 9  # two pools and a reference in each fold
    assert len(set(judges(plan))) == 3
    for stage in plan.stages.values():
        if stage.kind == "fidelity":
            (train,) = stage.inputs["train"]
            assert plan.stages[train].inputs["dataset"] == stage.inputs["dataset"]


def test_measurements_without_agreement_read_no_segmenter_and_keep_their_keys(temp_study: Any) -> None:
    plan = plan_of("train=[]", "controls=[]", "compare.against=null")
    assert judges(plan) == []
    assert not any(stage.kind == "train" for stage in plan.stages.values())
    (measured,) = [s for s in plan.stages.values() if s.label == "measure paint"]
    assert set(measured.inputs) == {"dataset", "pool"}
    assert set(measured.parts["parameters"]) >= {"metrics", "against", "samples", "network"}
    assert not {"segmenter", "budget"} & set(measured.parts["parameters"])


def test_a_declared_segmenter_and_budget_are_its_own(temp_study: Any) -> None:
    declared = (
        f'fidelity={{metrics: [agreement], segmenter: {{plugin: "{temp_study.plugins}:Tiny", rate: 0.25, name: judge}},'
        " budget: {epochs: 3, validations: 1}}"
    )
    plan = plan_of("seeds=1", declared)
    (key,) = set(judges(plan))
    stage = plan.stages[key]
    fit = len(plan.splits[0].ids("fit"))
    assert stage.label == "train judge * real=all * seed=0"
    assert stage.parts["plugin-parameters"]["rate"] == 0.25
    assert stage.parts["parameters"]["steps"] == 3 * -(-fit // 4)  # batches of 4
    assert stage.parts["parameters"]["validations"] == 1
    assert plan.segmenters == ["tiny"]  # it has no row in the scores
    assert all(cell.segmenter == "tiny" for cell in plan.cells)
    cells = {c.train for c in plan.cells}
    assert cells == {c.train for c in plan_of("seeds=1").cells}


def test_another_segmenter_is_another_measurement(temp_study: Any) -> None:
    def measured(*settings: str) -> str:
        return next(pool.fidelity for pool in plan_of(*settings).pools if pool.generator == "paint")

    first = measured(ASKED)
    assert first != measured(ASKED, "budget.steps=5")
    assert first == measured(ASKED, "budget.steps=5", "fidelity.budget={steps: 4, validations: 2}")
    assert first == measured(ASKED, "seeds=3")
    assert measured() == measured("budget.steps=5", "seeds=[4]")


def test_missing_weights_of_the_segmenter_are_said_with_its_place(temp_study: Any, monkeypatch: Any) -> None:
    import harness.weights.locate

    monkeypatch.setattr(harness.weights.locate, "find", lambda name: None)
    judge = "fidelity={metrics: [agreement], segmenter: {plugin: smp, arch: FPN, encoder: resnet34}}"
    (sentence,) = missing_weights(plan_of(judge))
    assert ": fidelity.segmenter: needs the weights resnet34-imagenet" in sentence
    assert "encoder_weights: random" in sentence


# the declaration


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BASE, ":6:18: fidelity.metrics.1: agreement asks a segmenter that is trained on real pairs, and none is"),
        (
            BASE.replace(", agreement", "") + "  segmenter: {plugin: smp, encoder_weights: random}\n",
            ":7:3: fidelity.segmenter: is read by agreement only, which is not measured",
        ),
        (
            BASE.replace(", agreement", "") + "  budget: {steps: 5}\n",
            ":7:3: fidelity.budget: is read by agreement only, which is not measured",
        ),
        (
            BASE + "  segmenter: {plugin: smp, arch: Unett}\n",
            ":7:28: fidelity.segmenter.arch: there is no architecture 'Unett'; did you mean 'Unet'?",
        ),
        (
            BASE + "  segmenter: {plugin: smpp}\n",
            ":7:15: fidelity.segmenter.plugin: There is no segmenter 'smpp'; did you mean 'smp'?",
        ),
        (BASE + "  segmenter: {plugin: smp}\n  budget: {}\n", ":8:3: fidelity.budget: say either steps or epochs"),
        (
            BASE.replace("plugin: noise", "plugin: noise, select: {by: agreement}"),
            ":4:43: generators.noise.pairs.select.by: agreement cannot choose a checkpoint, since a selection has no",
        ),
        (
            BASE.replace("plugin: noise", "plugin: noise, select: {by: sim, then: agreement}"),
            "generators.noise.pairs.select.then: agreement cannot choose a checkpoint",
        ),
    ],
)
def test_mistakes_say_where_and_what_to_do(tmp_path: Path, text: str, said: str) -> None:
    lines = problems(tmp_path, text)
    assert any(said in line for line in lines), lines


def test_a_metric_that_cannot_select_is_not_offered_for_selecting(tmp_path: Path) -> None:
    text = BASE.replace("plugin: noise", "plugin: noise, select: {by: agreementt}")
    (line,) = [line for line in problems(tmp_path, text) if "select.by" in line]
    assert "allowed: fid," in line
    assert "agreement" not in line.partition("allowed: ")[2]


# the run


def test_a_run_asks_the_trained_segmenter_about_every_pool_and_about_real_pairs(temp_study: Any) -> None:
    settings = (
        "train=[]",
        "segmenters=[]",
        "controls=[]",
        "compare.against=null",
        "generators.noise={pairs: {plugin: noise}}",
        "fidelity={metrics: [agreement], samples: 12, budget: {steps: 150, validations: 3}, segmenter: "
        f'{{plugin: "{temp_study.plugins}:Tiny", rate: 2.0}}}}',
        "dataset={name: phantom, size: 32, split: {holdout: {report: 0.3, select: 0.2}}, options: {count: 30}}",
    )
    answer = temp_study.run(*[part for setting in settings for part in ("--set", setting)])
    assert answer.code == 0, answer.err
    plan, store = plan_of(*settings), Store()
    (train,) = set(judges(plan))
    trained, dataset = store.find("train", train), store.find("dataset", plan.datasets[0])
    assert trained is not None
    assert dataset is not None
    real = RealPairs(dataset.folder)
    assert trained.values["training-pairs"] == len(real.role("fit"))
    weight, bias = weights_of(trained.folder / trained.values["weights"])

    def expected(pairs: PairSet) -> tuple[float, float, int]:
        """The same by another way: the one convolution as a dot product, and a double loop."""
        predicted = (pairs.images / 255 - 0.5) @ weight + bias > 0
        table = np.full((len(pairs), len(pairs)), np.nan)
        for i, prediction in enumerate(predicted):
            for j, mask in enumerate(pairs.masks.astype(bool)):
                if (prediction | mask).any():
                    table[i, j] = (prediction & mask).sum() / (prediction | mask).sum()
        own, others = np.diag(table), table[~np.eye(len(pairs), dtype=bool)]
        return float(np.nanmean(own)), float(np.nanmean(others)), int((~np.isnan(own)).sum())

    cells = {"real (report)": (plan.references[0].key, real.role("report"))}
    for pool in plan.pools:
        made = store.find(plan.stages[pool.key].kind, pool.key)
        assert made is not None
        cells[pool.generator] = (pool.fidelity, PairSet.load(made.folder / "pairs").first(12))
    rows = pd.read_csv(temp_study.results, keep_default_na=False)
    for name, (key, pairs) in cells.items():
        result = store.find("fidelity", key)
        assert result is not None
        values = result.values["measured"]["agreement"]
        own, chance, counted = expected(pairs)
        assert values["agreement"] == pytest.approx(own, abs=1e-3), name
        assert values["agreement-chance"] == pytest.approx(chance, abs=1e-3), name
        assert values["agreement-pairs"] == counted
        assert values["network"] == "tiny"
        shown = rows[(rows.generator == name) & (rows.metric == "agreement")]
        assert shown.value.astype(float).tolist() == pytest.approx([own], abs=1e-3)
    assert "Agreement by chance" in (temp_study.results.parent / "tables" / "fidelity.md").read_text()


def weights_of(path: Path) -> tuple[np.ndarray, float]:
    from safetensors.torch import load_file

    state = load_file(path)
    return state["layer.weight"].double().numpy()[0, :, 0, 0], float(state["layer.bias"].to(torch.float64)[0])

"""What a stage's key depends on, and what it must not."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from harness.engine.graph import Plan
from harness.engine.load import load_study
from harness.engine.plan import build_plan
from harness.engine.preflight import missing_weights
from harness.engine.stages.pool import item_seeds
from harness.errors import DeclarationError


def keys(*settings: str, profile: str | None = None, name: str = "twelve") -> dict[str, str]:
    plan = build_plan(load_study(name, profile, settings))
    return {stage.label: stage.key for stage in plan.stages.values()}


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {label.split(" ")[0] for label in before if label in after and before[label] != after[label]}


@pytest.mark.parametrize(
    ("setting", "kinds"),
    [
        ("title=other", set()),
        ("report.tables=[scores]", set()),
        ("report.predictions=4", set()),
        ("seeds=3", set()),
        ("compare.metric=f1-micro", set()),
        ("fidelity.metrics=[sim]", {"measure"}),
        ("evaluate.zero_division=0", {"evaluate", "score"}),
        ("budget.steps=5", {"train", "evaluate"}),
        ("segmenters.0.rate=0.25", {"train", "evaluate"}),
        ("generators.paint.pairs.shift=1", {"fit", "select", "sample", "refine", "measure", "train", "evaluate"}),
        ("dataset.seed=5", {"dataset", "fit", "select", "sample", "refine", "measure", "train", "evaluate", "score"}),
        (
            "dataset.geometry=crop",
            {"dataset", "fit", "select", "sample", "refine", "measure", "train", "evaluate", "score"},
        ),
    ],
)
def test_a_setting_changes_the_stages_that_depend_on_it_and_no_others(
    temp_study: Any, setting: str, kinds: set[str]
) -> None:
    assert changed(keys(), keys(setting)) == kinds


def test_real_only_training_does_not_depend_on_generators(temp_study: Any) -> None:
    before, after = keys(), keys("generators.paint.pairs.shift=1")
    for label in ("train tiny * real=4 * seed=0", "train tiny * real=4,control:resample=8 * seed=0"):
        assert before[label] == after[label]
    assert before["train tiny * real=4,paint=8 * seed=0"] != after["train tiny * real=4,paint=8 * seed=0"]


def test_what_a_plugin_takes_from_this_machine_is_part_of_its_keys(temp_study: Any, monkeypatch: Any) -> None:
    before = keys()
    monkeypatch.setattr("harness.plugins.contract.Generator.environment_key", lambda self: {"weights": "others"})
    assert changed(before, keys()) >= {"fit", "sample"}
    assert "dataset" not in changed(before, keys())


def test_keys_hold_contents_never_places(temp_study: Any, monkeypatch: Any) -> None:
    before = keys()
    moved = temp_study.project.parent / "moved"
    shutil.copytree(temp_study.project, moved)
    text = (moved / "studies" / "twelve.yaml").read_text()
    (moved / "studies" / "twelve.yaml").write_text(text.replace(str(temp_study.project), str(moved)))
    monkeypatch.setenv("HARNESS_HOME", str(moved / ".harness"))
    monkeypatch.chdir(moved)
    assert keys() == before


def test_changed_data_changes_every_key(temp_study: Any, tmp_path: Path) -> None:
    before = keys()
    from PIL import Image

    path = tmp_path / "twelve" / "images" / "frame03.png"
    with Image.open(path) as image:
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(path)
    shutil.rmtree(temp_study.project / ".harness" / "data" / "twelve")
    answer = temp_study.command("data", "import", "folder", "--from", str(tmp_path / "twelve"), "--name", "twelve")
    assert answer.code == 0
    after = keys()
    assert all(before[label] != after[label] for label in before if label in after)


def plan_of(*settings: str) -> Plan:
    return build_plan(load_study("twelve", None, settings))


def test_recipes_share_one_pool_and_take_its_first_pairs(temp_study: Any) -> None:
    plan = plan_of()
    pools = [pool for pool in plan.pools if pool.generator == "paint"]
    assert [(pool.count, pool.n_fit) for pool in pools] == [(8, None)]
    parameters = {s.label: s.parts["parameters"] for s in plan.stages.values() if s.kind == "train"}
    assert parameters["train tiny * real=4,paint=4 * seed=0"]["synthetic"] == [4]


def test_a_larger_pool_leaves_the_trainings_on_its_first_pairs_alone(temp_study: Any) -> None:
    before, after = keys(), keys("train.1.synthetic.paint=[4, 8, 12]")
    assert before["sample paint"] != after["sample paint"]
    for label in before:
        if label.startswith(("train", "evaluate")) and "control" not in label:
            assert before[label] == after[label]


def test_a_generator_fitted_on_the_recipe_sees_no_more_than_it(temp_study: Any) -> None:
    plan = plan_of("generators.paint.sees=recipe", "controls=[]")
    assert [pool.n_fit for pool in plan.pools] == [4]
    assert not any("fitted on" in note for note in plan.notes)
    assert any("was fitted on" in note and "more than these training sets hold" in note for note in plan_of().notes)


def test_controls_are_made_from_the_real_pairs_of_their_arm(temp_study: Any) -> None:
    assert [(p.generator, p.n_fit, p.count) for p in plan_of().pools if p.control] == [("control:resample", 4, 8)]


def test_a_generator_that_says_that_it_is_a_control_is_one(temp_study: Any) -> None:
    folder = temp_study.project / "extensions"
    folder.mkdir()
    text = temp_study.plugins.read_text().replace('card = Card(cost="nothing")', "card = Card(control=True)")
    (folder / "shuffled.py").write_text(text.replace('name = "painter"', 'name = "shuffled"'))
    pools = [pool for pool in plan_of("controls=[real-repeated, shuffled]").pools if pool.control]
    assert [(pool.generator, pool.n_fit, pool.count) for pool in pools] == [("control:shuffled", 4, 8)]


def test_equal_steps_for_every_recipe_and_unequal_ones_for_epochs(temp_study: Any) -> None:
    def steps(*settings: str) -> set[int]:
        return {s.parts["parameters"]["steps"] for s in plan_of(*settings).stages.values() if s.kind == "train"}

    assert steps() == {4}
    # 4, 8 and 12 pairs in batches of 4, three times over
    assert steps("budget={epochs: 3}") == {3, 6, 9}


def test_folds_have_their_own_stages(temp_study: Any) -> None:
    plan = plan_of("dataset.split={kfold: 3, select: 0.2}", "seeds=1", "train=[{real: 4}]")
    assert sorted({cell.fold for cell in plan.cells}) == [0, 1, 2]
    reported = [name for split in plan.splits for name in split.ids("report")]
    assert sorted(reported) == sorted(entry.id for entry in plan.dataset.entries)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("train.1.real=99", "asks for 99 real pairs, but the fit role of twelve has"),
        ("generators.paint.sees=99", "would be fitted on 99"),
        ("train.1.sees=[2, 99]", r"train\.1\.sees: asks for 99 real pairs, but the fit role of twelve has"),
    ],
)
def test_more_than_there_is_is_refused_before_anything_runs(temp_study: Any, setting: str, said: str) -> None:
    with pytest.raises(DeclarationError, match=said):
        plan_of("generators.paint.sees=recipe", setting)


@pytest.mark.parametrize(("key", "train"), [("sees", "{sees: [4, 1]"), ("real", "{real: [0, 4, 1, all]")])
def test_fewer_than_a_generator_can_be_fitted_on_are_refused_too(temp_study: Any, key: str, train: str) -> None:
    generators = "generators={gan: {pairs: {plugin: dcgan}, sees: recipe}}"
    said = rf"train\.0\.{key}: dcgan of generator gan needs at least 2 real pairs and would be fitted on 1"
    with pytest.raises(DeclarationError, match=said):
        plan_of(generators, f"train=[{train}, synthetic: {{gan: 4}}}}]", "compare.against=null")


def test_a_pool_has_as_many_pairs_as_its_own_recipes_take(temp_study: Any) -> None:
    recipes = "train=[{sees: [2, 3], synthetic: {paint: {per-real: 5}}}, {real: 4, synthetic: {paint: 7}}]"
    plan = plan_of("generators.paint.sees=recipe", recipes, "controls=[]", "compare.against=null")
    assert [(pool.n_fit, pool.count) for pool in plan.pools] == [(2, 10), (3, 15), (4, 7)]
    assert not any("fitted on" in note for note in plan.notes)


def test_a_generator_that_sees_more_than_its_recipe_holds_is_told_of(temp_study: Any) -> None:
    plan = plan_of("generators.paint.sees=recipe", "train.1.sees=[4, 5]", "controls=[]")
    (note,) = [note for note in plan.notes if "was fitted on" in note]
    assert "paint was fitted on 5 real pairs, more than these training sets hold: real=4,sees=5,paint=4; real" in note


def test_seeds_of_items_nest() -> None:
    assert item_seeds(3, 10).tolist() == item_seeds(3, 1000)[:10].tolist()
    assert item_seeds(3, 10).tolist() != item_seeds(4, 10).tolist()


def test_missing_weights_are_said_before_anything_runs(temp_study: Any, monkeypatch: Any, tmp_path: Path) -> None:
    for cache in ("HF_HOME", "TORCH_HOME", "HOME"):
        monkeypatch.setenv(cache, str(tmp_path / "no-cache"))
    segmenter = "segmenters=[{plugin: smp, arch: FPN, encoder: resnet34}]"
    plan = build_plan(load_study("twelve", None, (segmenter, "fidelity.metrics=[fid]")))
    sentences = missing_weights(plan)
    assert len(sentences) == 2
    assert "harness weights fetch resnet34-imagenet" in sentences[0]
    assert "encoder_weights: random" in sentences[0]
    assert "fid-inception" in sentences[1]
    transfer = "generators.paint.refine=[{plugin: style-transfer, network: vgg19-imagenet}]"
    (sentence,) = missing_weights(build_plan(load_study("twelve", None, (transfer,))))
    assert ": generators.paint.refine.0: needs the weights vgg19-imagenet" in sentence
    answer = temp_study.run("--set", segmenter)
    assert answer.code == 2
    assert "resnet34-imagenet" in answer.err
    assert not (temp_study.project / ".harness" / "store" / "results").exists()

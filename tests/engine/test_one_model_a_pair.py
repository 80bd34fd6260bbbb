"""Generators of one model a pair: whose turn it is, one fit for pools of every size, what each pair was made from."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.data.pairs import PairSet
from harness.engine.collect import collect
from harness.engine.executors import make_executor
from harness.engine.graph import Plan, Pool
from harness.engine.load import load_study
from harness.engine.plan import build_plan
from harness.engine.run import run_plan, targets
from harness.engine.stages.dataset import RealPairs
from harness.engine.stages.pool import PoolResult, item_seeds
from harness.store.results import Result, Store

PLUGINS = '''

class Imitator(Painter):
    """One model a pair: the colours of that pair alone. Checkpoint k has models of the first k pairs."""

    name = "imitator"
    card = Card(one_model_a_pair=True)
    sampling = frozenset({"silent"})

    class Parameters(Parameters):
        every: bool = Field(False, description="a checkpoint for each pair, not for all of them only")
        swap: bool = Field(False, description="make each item from the next pair")
        silent: bool = Field(False, description="name no sources")

    def fit(self, pairs, context):
        models = {}
        for step, pair in enumerate(pairs, start=1):
            models[pair.id] = {
                "inside": pair.image[pair.mask == 1].mean(0).tolist(),
                "outside": pair.image[pair.mask == 0].mean(0).tolist(),
            }
            if step == len(pairs) or self.parameters.every:
                folder = context.checkpoint_folder(step)
                (folder / "models.json").write_text(json.dumps(models))
                yield Checkpoint(step, folder, frozenset(models))

    def sample(self, checkpoint, seeds, context, masks=None):
        models = json.loads((checkpoint.folder / "models.json").read_text())
        height, width = context.pairs.size
        y, x = np.mgrid[:height, :width]
        images, made, sources = [], [], []
        for seed in seeds:
            name = context.pairs.ids[(int(seed) + self.parameters.swap) % len(context.pairs)]
            draw = np.random.default_rng(int(seed))
            cy, cx, r = draw.uniform(0.3, 0.7) * height, draw.uniform(0.3, 0.7) * width, draw.uniform(0.1, 0.3) * height
            mask = ((y - cy) ** 2 + (x - cx) ** 2 < r * r).astype(np.uint8)
            image = np.where(mask[..., None], models[name]["inside"], models[name]["outside"])
            images.append(image.astype(np.uint8))
            made.append(mask)
            sources.append((name,))
        named = None if self.parameters.silent else tuple(sources)
        return Sample(masks=np.stack(made), images=np.stack(images), sources=named)


class Frank(Dimmer):
    """Dims, and says that it used the source alone."""

    name = "frank"

    def refine(self, synthetic, sources, seeds, context):
        made = super().refine(synthetic, sources, seeds, context)
        return Sample(masks=made.masks, images=made.images, sources=tuple((name,) for name in sources.ids))
'''


@pytest.fixture
def study(temp_study: Any) -> Any:
    temp_study.plugins.write_text(temp_study.plugins.read_text() + PLUGINS)
    return temp_study


def settings(study: Any, train: str, use: str = "", declared: str = "sees: recipe", *more: str) -> tuple[str, ...]:
    pairs = f'{{plugin: "{study.plugins}:Imitator"{use}}}'
    return (
        f"generators={{imitate: {{pairs: {pairs}, {declared}}}}}", f"train={train}", "seeds=1", "controls=[]",
        "compare.against=null", "fidelity={metrics: [mask-area], references: []}", *more,
    )  # fmt: skip


def plan_of(*chosen: str) -> Plan:
    return build_plan(load_study("twelve", settings=chosen))


def ran(*chosen: str) -> tuple[Plan, Store]:
    """Run a study without its report."""
    plan, store = plan_of(*chosen), Store()
    summary = run_plan(plan, store, make_executor("in-process", None))
    assert summary.complete, summary.failures
    return plan, store


def labels(plan: Plan, kind: str) -> list[str]:
    return [stage.label for stage in plan.stages.values() if stage.kind == kind]


def result(plan: Plan, store: Store, key: str) -> Result:
    found = store.find(plan.stages[key].kind, key)
    assert found is not None
    return found


def first(plan: Plan, store: Store, count: int) -> PairSet:
    return RealPairs(result(plan, store, plan.datasets[0]).folder).first(count, plan.loaded.study.dataset.seed)


def pool_on(plan: Plan, real: int | None) -> Pool:
    (found,) = [pool for pool in plan.pools if pool.n_fit == real and not pool.control]
    return found


# whose turn it is


def test_the_seeds_of_an_ordinary_generator_are_what_they_were() -> None:
    drawn = np.random.default_rng([7, 0x5EED]).integers(0, 2**62, size=5, dtype=np.int64)
    assert item_seeds(7, 5).tolist() == drawn.tolist()
    assert item_seeds(7, 5, 1).tolist() == drawn.tolist()
    assert item_seeds(0, 2).tolist() == [2568142161697545026, 170421536956256513]


@given(st.integers(0, 2**31), st.integers(1, 60), st.integers(0, 5), st.integers(0, 59))
def test_pairs_take_turns_whatever_the_size_of_a_pool(seed: int, pairs: int, rounds: int, rest: int) -> None:
    count = rounds * pairs + rest % pairs
    seeds = item_seeds(seed, count, pairs)
    assert (seeds % pairs).tolist() == [i % pairs for i in range(count)]
    assert seeds.tolist() == item_seeds(seed, count + 13, pairs)[:count].tolist()
    plain = item_seeds(seed, count)
    assert (seeds // pairs).tolist() == (plain // pairs).tolist()
    assert seeds.dtype == np.int64
    assert not count or 0 <= seeds.min() <= seeds.max() < 2**62 + pairs


def test_items_of_one_pair_have_seeds_of_their_own() -> None:
    assert len(set(item_seeds(0, 4000, 4).tolist())) == 4000


# one fit for pools of every size


TRAIN = "[{real: [2, 5]}, {sees: [2, 5], synthetic: {imitate: {per-real: 3}}}]"


def test_one_fit_serves_pools_on_its_first_pairs(study: Any) -> None:
    plan = plan_of(*settings(study, TRAIN))
    assert labels(plan, "fit") == ["fit imitate on 5 real"]
    assert labels(plan, "sample") == ["sample imitate on 2 real", "sample imitate on 5 real"]
    assert [(pool.n_fit, pool.count) for pool in plan.pools] == [(2, 6), (5, 15)]
    assert plan.stages[pool_on(plan, 2).key].parts["parameters"] == {"count": 6, "real": 2}
    # What is all that the fit has need not be said, so that keys are those of a study of this size alone.
    assert plan.stages[pool_on(plan, 5).key].parts["parameters"] == {"count": 15}
    alone = plan_of(*settings(study, "[{sees: 5, synthetic: {imitate: 15}}]"))
    assert pool_on(alone, 5).key == pool_on(plan, 5).key


def test_a_fit_on_all_serves_those_on_a_few(study: Any) -> None:
    plan = plan_of(*settings(study, "[{synthetic: {imitate: 8}}, {real: 3, synthetic: {imitate: 6}}]"))
    assert labels(plan, "fit") == ["fit imitate"]
    assert plan.stages[pool_on(plan, 3).key].parts["parameters"] == {"count": 6, "real": 3}
    assert plan.stages[pool_on(plan, None).key].parts["parameters"] == {"count": 8}


def test_each_fold_and_each_declared_generator_has_a_fit(study: Any) -> None:
    folds = plan_of(*settings(study, TRAIN, "", "sees: recipe", "dataset.split={kfold: 2, select: 0.1}"))
    assert sorted(labels(folds, "fit")) == [f"fit imitate on 5 real * fold={fold}" for fold in (0, 1)]


def test_generators_that_differ_in_how_they_sample_share_a_fit(study: Any) -> None:
    def fits(one: str, other: str) -> int:
        uses = ", ".join(
            f'{name}: {{pairs: {{plugin: "{study.plugins}:Imitator", {use}}}}}'
            for name, use in (("a", one), ("b", other))
        )
        train = "[{synthetic: {a: 4, b: 4}}]"
        plan = plan_of(f"generators={{{uses}}}", f"train={train}", "seeds=1", "controls=[]", "compare.against=null")
        assert len(labels(plan, "sample")) == 2
        return len(labels(plan, "fit"))

    assert fits("silent: true", "silent: false") == 1
    assert fits("every: true", "every: false") == 2


def test_other_generators_are_fitted_on_what_each_pool_sees(study: Any) -> None:
    plan = plan_of(
        f'generators={{paint: {{pairs: {{plugin: "{study.plugins}:Painter"}}, sees: recipe}}}}', "seeds=1",
        "train=[{sees: [2, 5], synthetic: {paint: {per-real: 3}}}]", "controls=[]", "compare.against=null",
    )  # fmt: skip
    assert labels(plan, "fit") == ["fit paint on 2 real", "fit paint on 5 real"]
    for pool in plan.pools:
        assert "real" not in plan.stages[plan.stages[pool.key].key].parts["parameters"]


def test_the_choice_of_a_checkpoint_is_shared_and_told_of_once(study: Any) -> None:
    use = ", every: true, select: {by: thumbnail-distance, samples: 6}"
    plan = plan_of(*settings(study, TRAIN, use))
    assert labels(plan, "select") == ["select imitate on 5 real"]
    assert [len(pool.selections) for pool in plan.pools] == [0, 1]
    assert {plan.stages[pool.key].inputs["select"] for pool in plan.pools} == {(pool_on(plan, 5).selections[0][1],)}


# what each pair was made from


def test_every_real_pair_of_a_pool_is_used_in_turn_and_named(study: Any) -> None:
    refine = f'sees: recipe, refine: [{{plugin: "{study.plugins}:Frank"}}]'
    plan, store = ran(*settings(study, TRAIN, "", refine))
    assert plan.stages[pool_on(plan, 2).key].kind == "refine"
    for count in (2, 5):
        real, refined = first(plan, store, count), pool_on(plan, count).key
        (sampled,) = plan.stages[refined].inputs["pool"]
        for key in (sampled, refined):
            folder = result(plan, store, key).folder
            pairs = PairSet.load(folder / "pairs")
            assert pairs.lineage == tuple(frozenset({real.ids[i % count]}) for i in range(3 * count))
            assert json.loads((folder / "provenance.json").read_text())["fitted"] == sorted(real.ids)
        rows = json.loads((result(plan, store, sampled).folder / "manifest.json").read_text())["pairs"]
        assert [row["seed"] for row in rows] == item_seeds(0, 3 * count, count).tolist()
        # Frank halves the way to the mean colour of the source: of the right one, since its colours differ.
        before = PairSet.load(result(plan, store, sampled).folder / "pairs")
        after = PairSet.load(result(plan, store, refined).folder / "pairs")
        for i in range(3 * count):
            target = real.images[i % count].mean(axis=(0, 1))
            np.testing.assert_array_equal(after.images[i], ((before.images[i] + target) / 2).astype(np.uint8))


def test_a_training_set_of_synthetic_pairs_has_seen_only_what_it_says(study: Any) -> None:
    plan, store = ran(*settings(study, TRAIN))
    for count in (2, 5):
        (cell,) = [cell for cell in plan.cells if cell.recipe.label == f"sees={count},imitate={3 * count}"]
        seen = json.loads((result(plan, store, cell.train).folder / "seen.json").read_text())
        made_from = {name for name, how in seen.items() if "selected" not in how}
        assert made_from == set(first(plan, store, count).ids)
    rows = collect(plan, store).rows
    scores = rows[rows["kind"] == "segmentation"].drop_duplicates("recipe").set_index("recipe")
    assert scores["real"].to_dict() == {"real=2": 2, "real=5": 5, "sees=2,imitate=6": 0, "sees=5,imitate=15": 0}
    assert scores["n_fit"].to_dict() == {"real=2": "", "real=5": "", "sees=2,imitate=6": 2, "sees=5,imitate=15": 5}
    measured = rows[(rows["kind"] == "fidelity") & (rows["metric"] == "mask-area")]
    assert measured["cell"].tolist() == ["imitate on 2 real", "imitate on 5 real"]
    assert measured["real"].tolist() == measured["n_fit"].tolist() == [2, 5]


def test_only_names_a_recipe_by_what_it_sees(study: Any) -> None:
    plan = plan_of(*settings(study, TRAIN))
    needed = plan.needed(targets(plan, ["tiny * sees=2,imitate=6"]))
    kinds = Counter(plan.stages[key].kind for key in needed)
    assert kinds == {"dataset": 1, "fit": 1, "sample": 1, "train": 1, "evaluate": 1}
    assert pool_on(plan, 2).key in needed


def test_a_chosen_checkpoint_leaves_the_source_of_each_pair_known(study: Any) -> None:
    use = ", every: true, select: {by: thumbnail-distance, samples: 6, among: [3]}"
    refine = f'sees: recipe, refine: [{{plugin: "{study.plugins}:Frank"}}]'
    measured = "fidelity={metrics: [mask-area], references: [], samples: 6}"
    plan, store = ran(*settings(study, "[{sees: 5, synthetic: {imitate: 6}}]", use, refine, measured))
    # The third checkpoint has models of three pairs, so these three take turns.
    real = first(plan, store, 3)
    (pool,) = plan.pools
    every = set(RealPairs(result(plan, store, plan.datasets[0]).folder).role("fit").ids)
    (sampled,) = plan.stages[pool.key].inputs["pool"]
    for key in (sampled, pool.key):
        stored = PoolResult(result(plan, store, key).folder)
        assert set(stored.pairs.lineage) == {frozenset(every)}
        assert stored.sources == tuple(frozenset({real.ids[i % 3]}) for i in range(6))
    provenance = json.loads((result(plan, store, pool.key).folder / "provenance.json").read_text())
    assert provenance["fitted"] == sorted(real.ids)
    assert set(provenance["selected"]) == every
    diversity = np.load(result(plan, store, pool.fidelity).folder / "diversity.npz")
    assert sorted(diversity["ids"].tolist()) == sorted(real.ids)
    assert diversity["count"].tolist() == [2, 2, 2]


def test_what_was_made_from_each_real_pair_is_shown_before_and_after_refinement(study: Any) -> None:
    refine = f'sees: recipe, refine: [{{plugin: "{study.plugins}:Frank"}}]'
    plan, store = ran(*settings(study, TRAIN, "", refine))
    found = collect(plan, store)
    real = first(plan, store, 2)
    assert [(one.cell, one.source.ids) for one in found.made if one.source is not None] == [
        ("imitate on 2 real", (name,)) for name in real.ids
    ]
    (sampled,) = plan.stages[pool_on(plan, 2).key].inputs["pool"]
    pool = PairSet.load(result(plan, store, sampled).folder / "pairs")
    for i, one in enumerate(found.made):
        assert one.before is not None
        np.testing.assert_array_equal(one.before.images, pool.images[i::2])
        assert one.made.ids == one.before.ids
        assert not np.array_equal(one.made.images, one.before.images)
    (maker,), (refiner,) = found.pipelines["imitate"].makers, found.pipelines["imitate"].refiners
    assert (maker.name, refiner.name) == ("imitator", "frank")
    assert maker.parameters == {"every": False, "swap": False, "silent": False}


def test_a_synthetic_set_is_compared_with_the_real_pairs_that_it_was_made_from(study: Any) -> None:
    more = "{real: 5, synthetic: {imitate: 5}}, {real: 2, sees: 5, synthetic: {imitate: 4}}"
    plan = plan_of(*settings(study, f"{TRAIN[:-1]}, {more}]"))
    assert collect(plan, Store()).comparison.baselines == {
        "sees=2,imitate=6": "real=2", "sees=5,imitate=15": "real=5", "real=5,imitate=5": "real=5",
        "real=2,sees=5,imitate=4": "real=2",
    }  # fmt: skip
    (note,) = [note for note in plan.notes if note.startswith("Generator imitate")]
    assert "more than these training sets hold: real=2,sees=5,imitate=4." in note


@pytest.mark.parametrize("broken", ["swap", "silent"])
def test_a_generator_that_skips_its_turn_is_refused(study: Any, broken: str) -> None:
    plan = plan_of(*settings(study, "[{sees: 3, synthetic: {imitate: 3}}]", f", {broken}: true"))
    failure = run_plan(plan, Store(), make_executor("in-process", None)).failures[plan.pools[0].key]
    assert "imitator has one model a pair, so with 3 pairs seed" in failure["reason"]
    assert failure["reason"].endswith("got none.") == (broken == "silent")


def test_a_checkpoint_without_a_model_of_any_pair_of_the_pool_is_told(study: Any) -> None:
    from harness.engine.stages.pool import sampled_pairs
    from harness.errors import HarnessError
    from harness.plugins.contract import Card, Checkpoint, Generator

    class Modelled(Generator):
        name = "modelled"
        card = Card(one_model_a_pair=True)

        def fit(self, pairs: Any, context: Any) -> Any: ...
        def sample(self, checkpoint: Any, seeds: Any, context: Any, masks: Any = None) -> Any: ...

    blank = np.zeros((3, 4, 4), np.uint8)
    pairs = PairSet.real(np.zeros((3, 4, 4, 3), np.uint8), blank, ["d/a", "d/b", "d/c"])
    later = Checkpoint(1, Path("nowhere"), frozenset({"d/c", "d/b", "d/z"}))
    assert sampled_pairs(Modelled(), later, pairs).ids == ("d/b", "d/c")
    assert sampled_pairs(Modelled(), Checkpoint(1, Path("nowhere")), pairs) is pairs
    with pytest.raises(HarnessError, match="Checkpoint 1 of modelled has a model of none of the 1 real pairs"):
        sampled_pairs(Modelled(), later, pairs.first(1))


# sampling from a fit


def test_a_fitted_generator_makes_the_items_of_the_pool_that_it_is_taken_from(study: Any, tmp_path: Path) -> None:
    from harness.engine.fitted_generator import FittedGenerator
    from harness.engine.sampling import find_fitted, write_samples

    plan, store = ran(*settings(study, TRAIN))
    for count in (2, 5):
        pool = PairSet.load(result(plan, store, pool_on(plan, count).key).folder / "pairs")
        found = find_fitted(pool_on(plan, count).key, store=store)
        assert found.real.ids == first(plan, store, count).ids
        found.save(tmp_path / str(count))
        for fitted in (found, FittedGenerator.load(tmp_path / str(count))):
            made = fitted.sample(fitted.pool_seeds(0, 3 * count), torch.device("cpu"))
            np.testing.assert_array_equal(made.images, pool.images)
            assert tuple(fitted.lineage(made)) == pool.lineage
        manifest = write_samples(found, 7, 0, tmp_path / f"samples-{count}", torch.device("cpu"))
        assert [row["seed"] for row in manifest["pairs"]] == item_seeds(0, 7, count).tolist()
    fit = next(stage.key for stage in plan.stages.values() if stage.kind == "fit")
    assert find_fitted(fit, store=store).real.ids == first(plan, store, 5).ids


def test_a_model_in_mlflow_deals_the_seeds_of_its_pool(study: Any, tmp_path: Path) -> None:
    from types import SimpleNamespace

    from harness.engine.sampling import find_fitted
    from harness.tracking.generator_model import GeneratorModel

    plan, store = ran(*settings(study, TRAIN))
    find_fitted(pool_on(plan, 2).key, store=store).save(tmp_path / "model")
    model = GeneratorModel()
    model.load_context(SimpleNamespace(artifacts={"generator": str(tmp_path / "model")}))
    made = model.predict(None, pd.DataFrame({"seed": [0], "n": [6]}))
    pool = PairSet.load(result(plan, store, pool_on(plan, 2).key).folder / "pairs")
    np.testing.assert_array_equal(np.stack([one["image"] for one in made]), pool.images)
    assert [one["lineage"] for one in made] == [sorted(names) for names in pool.lineage]

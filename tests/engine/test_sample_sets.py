"""Several sample sets in a study: which pairs they are, what is stored and reported of them, and that one stays one."""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from harness.data.pairs import PairSet
from harness.engine.graph import Plan
from harness.engine.load import load_study
from harness.engine.plan import build_plan
from harness.engine.stages.dataset import RealPairs
from harness.engine.stages.fidelity import FidelityStage
from harness.errors import DeclarationError
from harness.metrics.fidelity.measure import measure
from harness.metrics.spec import Sets, fidelity_metric
from harness.store.results import Result, Store, digest

GENERATORS = "{resample: {pairs: {plugin: resample}}, phantom: {pairs: {plugin: phantom}}}"
STUCK = '''

class Stuck(Painter):
    """Paints, but for the second six of a pool, which are one picture."""

    name = "stuck"

    def sample(self, checkpoint, seeds, context, masks=None):
        from harness.engine.stages.pool import item_seeds

        made = super().sample(checkpoint, seeds, context, masks)
        images = made.images.copy()
        images[np.isin(seeds, item_seeds(0, 12)[6:])] = images.dtype.type(7)
        return Sample(masks=made.masks, images=images)
'''


def settings(fidelity: str, generators: str = GENERATORS, *more: str) -> tuple[str, ...]:
    return (
        f"generators={generators}", "train=[]", "segmenters=[]", "controls=[]", "compare.against=null",
        f"fidelity={fidelity}", *more,
    )  # fmt: skip


def plan_of(fidelity: str, generators: str = GENERATORS, *more: str) -> Plan:
    return build_plan(load_study("twelve", settings=settings(fidelity, generators, *more)))


def ran(study: Any, fidelity: str, generators: str = GENERATORS, *more: str) -> tuple[Plan, Store]:
    chosen = [part for setting in settings(fidelity, generators, *more) for part in ("--set", setting)]
    answer = study.run(*chosen)
    assert answer.code == 0, answer.err
    return plan_of(fidelity, generators, *more), Store()


def pool_named(plan: Plan, name: str) -> Any:
    (found,) = [pool for pool in plan.pools if pool.generator == name]
    return found


def measured(store: Store, key: str) -> Result:
    found = store.find("fidelity", key)
    assert found is not None
    return found


def pairs_of(plan: Plan, store: Store, name: str) -> PairSet:
    made = store.find("sample", pool_named(plan, name).key)
    assert made is not None
    return PairSet.load(made.folder / "pairs")


def real(plan: Plan, store: Store, role: Any) -> PairSet:
    dataset = store.find("dataset", plan.datasets[0])
    assert dataset is not None
    return RealPairs(dataset.folder).role(role)


# the plan


def test_a_pool_has_as_many_pairs_as_all_sets_take(temp_study: Any) -> None:
    assert {pool.count for pool in plan_of("{samples: 6, sets: 3}").pools} == {18}
    assert {pool.count for pool in plan_of("{samples: 6}").pools} == {6}
    recipe = f'segmenters=[{{plugin: "{temp_study.plugins}:Tiny"}}]'
    larger = plan_of("{samples: 6, sets: 3}", GENERATORS, "train=[{synthetic: {resample: 24}}]", recipe)
    assert pool_named(larger, "resample").count == 24
    assert pool_named(larger, "phantom").count == 18


@pytest.mark.parametrize("fidelity", ["{samples: 6}", "{samples: 6, sets: 1}"])
def test_a_single_set_is_what_it_was_before_there_were_several(temp_study: Any, fidelity: str) -> None:
    plan = plan_of(fidelity)
    defaults = {"metrics": ["thumbnail-distance", "mask-area", "sim"], "network": None, "against": "fit"}
    for pool in plan.pools:
        inputs = {"dataset": [plan.datasets[0]], "pool": [pool.key]}
        parts = {"kind": "fidelity", "version": FidelityStage.version, "seed": 0, "inputs": inputs}
        assert pool.fidelity == digest({**parts, "parameters": {**defaults, "samples": 6}})
    several = plan_of("{samples: 6, sets: 2}")
    assert not {pool.fidelity for pool in several.pools} & {pool.fidelity for pool in plan.pools}
    # Real images are one set, however many there are of a generator.
    assert several.references == plan.references


@pytest.mark.parametrize(
    ("fidelity", "said"),
    [
        ("{sets: 3}", "fidelity: 3 sets need samples, the size of each; add it, such as samples: 1000"),
        ("{samples: 6, sets: 0}", "fidelity.sets: input should be greater than or equal to 1, got 0"),
    ],
)
def test_mistakes_in_sets(temp_study: Any, fidelity: str, said: str) -> None:
    with pytest.raises(DeclarationError, match=said):
        plan_of(fidelity)


# the stage


def test_each_set_is_measured_on_its_own_and_the_first_is_that_of_a_single_set(temp_study: Any) -> None:
    judge = f'segmenter: {{plugin: "{temp_study.plugins}:Tiny"}}, budget: {{steps: 2, validations: 1}}'
    names = ["thumbnail-distance", "mask-area", "sim"]
    plan, store = ran(temp_study, f"{{metrics: [{', '.join(names)}, agreement], samples: 6, sets: 3, {judge}}}")
    pool, reference = pairs_of(plan, store, "resample"), real(plan, store, "fit")
    assert len(pool) == 18
    found = measured(store, pool_named(plan, "resample").fidelity).values["measured"]
    for name in names:
        sets = [Sets(reference, pool.take(range(at, at + 6)), torch.device("cpu")) for at in (0, 6, 12)]
        each = [measure([fidelity_metric(name)], one)[name][name] for one in sets]
        assert len(set(each)) == 3
        assert [found[name][f"{name}-set-{number}"] for number in (1, 2, 3)] == pytest.approx(each)
        assert found[name][name] == pytest.approx(statistics.fmean(each))
        assert found[name][f"{name}-between-sets"] == pytest.approx(statistics.stdev(each))
        assert (found[name]["n_synthetic"], found[name]["n_real"]) == (6, len(reference))
    judged = [found["agreement"][f"agreement-set-{number}"] for number in (1, 2, 3)]
    assert found["agreement"]["agreement"] == pytest.approx(statistics.fmean(judged))
    (real_key,) = [reference.key for reference in plan.references]
    assert not any("set" in name for name in measured(store, real_key).values["measured"]["mask-area"])

    single, store = ran(temp_study, f"{{metrics: [{', '.join(names)}], samples: 6}}")
    first = pairs_of(single, store, "resample")
    np.testing.assert_array_equal(first.images, pool.images[:6])
    alone = measured(store, pool_named(single, "resample").fidelity).values["measured"]
    assert {name: alone[name][name] for name in names} == {name: found[name][f"{name}-set-1"] for name in names}
    assert not any(name.endswith(("-between-sets", "-set-1")) for values in alone.values() for name in values)


def test_copies_are_looked_for_and_figures_drawn_in_all_sets(temp_study: Any) -> None:
    generators = "{twice: {pairs: {plugin: resample}}}"
    fidelity = "{metrics: [memorisation, mask-area], samples: 6, sets: 2, references: []}"
    plan, store = ran(temp_study, fidelity, generators)
    pool, fitted = pairs_of(plan, store, "twice"), real(plan, store, "fit")
    result = measured(store, plan.pools[0].fidelity)
    values = result.values["measured"]["memorisation"]

    def compared(pairs: PairSet) -> dict[str, Any]:
        sets = Sets(fitted, pairs, torch.device("cpu"), held_out=real(plan, store, "select"))
        return measure([fidelity_metric("memorisation")], sets)["memorisation"]

    whole, halves = compared(pool), [compared(pool.take(range(start, start + 6))) for start in (0, 6)]
    for name in ("memorisation", "copied", "copied-p-value", "exact-copies", "copies", "notes"):
        assert values[name] == whole[name], name
    assert [values[f"memorisation-set-{number}"] for number in (1, 2)] == [half["memorisation"] for half in halves]
    assert values["memorisation"] == pytest.approx(statistics.fmean(half["memorisation"] for half in halves))
    areas = np.load(result.folder / "areas.npz")
    np.testing.assert_allclose(areas["synthetic"], pool.masks.mean(axis=(1, 2)))
    closest = np.load(result.folder / "closest.npz")
    assert {str(name) for name in closest["synthetic_ids"]} == set(pool.ids)


def test_pairs_behind_the_sets_are_not_measured(temp_study: Any) -> None:
    recipe = ("train=[{synthetic: {phantom: 20}}]", f'segmenters=[{{plugin: "{temp_study.plugins}:Tiny"}}]', "seeds=1")
    generators = "{phantom: {pairs: {plugin: phantom}}}"
    plan, store = ran(temp_study, "{metrics: [mask-area], samples: 6, sets: 2, references: []}", generators, *recipe)
    assert len(pairs_of(plan, store, "phantom")) == 20
    kept = np.load(measured(store, plan.pools[0].fidelity).folder / "areas.npz")["synthetic"]
    np.testing.assert_allclose(kept, pairs_of(plan, store, "phantom").masks[:12].mean(axis=(1, 2)))


def test_a_set_without_a_value_is_told_and_leaves_no_mean(temp_study: Any) -> None:
    temp_study.plugins.write_text(temp_study.plugins.read_text() + STUCK)
    generators = f'{{stuck: {{pairs: {{plugin: "{temp_study.plugins}:Stuck"}}}}}}'
    ran(temp_study, "{metrics: [thumbnail-distance], samples: 6, sets: 3, references: []}", generators)
    rows = pd.read_csv(temp_study.results, keep_default_na=False).set_index("metric")["value"]
    assert (
        rows["thumbnail-distance"] == rows["thumbnail-distance-between-sets"] == rows["thumbnail-distance-set-2"] == ""
    )
    assert float(rows["thumbnail-distance-set-1"]) > 0
    assert float(rows["thumbnail-distance-set-3"]) > 0
    page = (temp_study.results.parent / "report.md").read_text()
    assert "stuck, thumbnail-distance: Set 2 of 3: All 6 synthetic images are the same picture" in page
    (row,) = [line for line in page.splitlines() if line.startswith("| stuck |")]
    assert row.endswith("| – | fit | – |")


def test_results_have_a_row_for_the_mean_the_deviation_and_each_set(temp_study: Any) -> None:
    plan, _ = ran(temp_study, "{metrics: [thumbnail-distance], samples: 6, sets: 2}")
    rows = pd.read_csv(temp_study.results, keep_default_na=False)
    own = rows[rows["generator"] == "phantom"].set_index("metric")
    named = [
        "thumbnail-distance",
        "thumbnail-distance-between-sets",
        "thumbnail-distance-set-1",
        "thumbnail-distance-set-2",
    ]
    assert sorted(own.index) == sorted([*named, "n_real"])
    values = [float(own.loc[name, "value"]) for name in named]
    assert values[0] == pytest.approx((values[2] + values[3]) / 2)
    assert values[1] == pytest.approx(abs(values[2] - values[3]) / 2**0.5)
    assert set(own["images"].astype(int)) == {6}
    assert set(own["synthetic"].astype(int)) == {12}
    assert set(own["reduction"]) == {"pixels-8"}
    reference = rows[rows["generator"] == "real (report)"]
    assert sorted(reference["metric"]) == ["n_real", "thumbnail-distance"]
    page = (temp_study.results.parent / "report.md").read_text()
    fit = len(plan.splits[0].ids("fit"))
    assert f"| 2 × 6 | {fit} fit | {values[0]:.3f} ± {values[1]:.3f} |" in page.replace("**", "")
    assert "over 2 sets of 6 images of a generator, each measured on its own." in page

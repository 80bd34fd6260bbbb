"""Measuring in a study: pools, real images of other roles beside them, and what is kept for figures."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from harness.engine.graph import Plan
from harness.engine.load import load_study
from harness.engine.plan import build_plan
from harness.engine.run import specification
from harness.engine.stages.dataset import RealPairs
from harness.engine.worker import run_stage
from harness.errors import DeclarationError
from harness.store.results import Result, Store

GENERATORS = """{
  resample: {pairs: {plugin: resample}},
  phantom: {pairs: {plugin: phantom}},
}"""
NETWORK = '''
import torch


class Corner(torch.nn.Module):
    """Four by four pixels of the corner."""

    side = 16

    def forward(self, images):
        return images[:, :, :4, :4].flatten(1) / 255
'''


def settings(fidelity: str) -> list[str]:
    one_line = " ".join(GENERATORS.split())
    pairs = [f"generators={one_line}", "train=[]", "segmenters=[]", "controls=[]", f"fidelity={fidelity}"]
    return [part for pair in pairs for part in ("--set", pair)] + ["--set", "compare.against=null"]


def ran(study: Any, fidelity: str) -> tuple[Plan, Store]:
    answer = study.run(*settings(fidelity))
    assert answer.code == 0, answer.err
    return build_plan(load_study("twelve", settings=tuple(settings(fidelity)[1::2]))), Store()


def result(store: Store, key: str) -> Result:
    found = store.find("fidelity", key)
    assert found is not None
    return found


def test_real_images_of_the_report_role_are_measured_like_synthetic_ones(temp_study: Any) -> None:
    plan, store = ran(temp_study, "{metrics: [thumbnail-distance, mask-area, memorisation], references: [report]}")
    (reference,) = plan.references
    dataset = store.find("dataset", plan.datasets[0])
    assert dataset is not None
    real = RealPairs(dataset.folder)
    assert reference.count == len(real.split.ids("report"))
    from harness.metrics.fidelity.masks import MASK_AREA
    from harness.metrics.fidelity.measure import Sets, measure

    expected = measure([MASK_AREA], Sets(real.role("fit"), real.role("report"), torch.device("cpu")))
    measured = result(store, reference.key).values["measured"]
    assert measured["mask-area"] == expected["mask-area"]
    assert measured["memorisation"]["reference"] == "held-out"
    rows = pd.read_csv(temp_study.results, keep_default_na=False)
    shown = rows[(rows.generator == "real (report)") & (rows.metric == "mask-area")]
    assert shown.value.astype(float).tolist() == pytest.approx([expected["mask-area"]["mask-area"]])


@pytest.mark.parametrize(("role", "yardstick"), [("report", "select"), ("select", "report")])
def test_real_images_are_compared_with_those_of_the_other_role_never_with_themselves(
    temp_study: Any, role: str, yardstick: str
) -> None:
    from harness.metrics.fidelity.memorisation import describe, memorisation

    plan, store = ran(temp_study, f"{{metrics: [memorisation], references: [{role}]}}")
    (reference,) = plan.references
    dataset = store.find("dataset", plan.datasets[0])
    assert dataset is not None
    real = RealPairs(dataset.folder)
    fit, measured, other = (describe(real.role(name).images) for name in ("fit", role, yardstick))
    found = result(store, reference.key).values["measured"]["memorisation"]
    assert found["memorisation"] == pytest.approx(memorisation(fit, measured, other).closer)


def test_what_the_measurement_is_against_is_no_reference_to_it(temp_study: Any) -> None:
    study = load_study("twelve", settings=tuple(settings("{against: report, references: [select, report]}")[1::2]))
    assert [reference.role for reference in build_plan(study).references] == ["select"]


def test_a_generator_that_has_seen_nothing_is_measured_but_cannot_be_called_a_copy(temp_study: Any) -> None:
    plan, store = ran(temp_study, "{metrics: [memorisation, mask-area], samples: 6, references: []}")
    by_name = {pool.generator: result(store, pool.fidelity) for pool in plan.pools}
    values = by_name["phantom"].values["measured"]["memorisation"]
    assert np.isnan(values["memorisation"])
    assert "no real image" in values["notes"]
    assert not (by_name["phantom"].folder / "closest.npz").exists()
    assert np.isfinite(by_name["resample"].values["measured"]["memorisation"]["memorisation"])
    assert (by_name["resample"].folder / "closest.npz").exists()


def test_closest_pairs_areas_and_diversity_are_kept_for_figures(temp_study: Any) -> None:
    plan, store = ran(temp_study, "{metrics: [memorisation, mask-area], samples: 12, references: []}")
    pool = next(pool for pool in plan.pools if pool.generator == "resample")
    kept = result(store, pool.fidelity)
    dataset, made = store.find("dataset", plan.datasets[0]), store.find("sample", pool.key)
    assert dataset is not None
    assert made is not None
    from harness.data.pairs import PairSet
    from harness.metrics.fidelity.memorisation import describe

    fitted, pairs = RealPairs(dataset.folder).role("fit"), PairSet.load(made.folder / "pairs").first(12)
    closest = np.load(kept.folder / "closest.npz")
    table = np.linalg.norm(describe(pairs.images)[:, None] - describe(fitted.images)[None], axis=2)
    np.testing.assert_allclose(closest["distance"], np.sort(table.min(axis=1)), atol=1e-6)
    for synthetic, real, name, near in zip(
        closest["synthetic"], closest["real"], closest["synthetic_ids"], closest["real_ids"], strict=True
    ):
        i, j = pairs.ids.index(str(name)), fitted.ids.index(str(near))
        np.testing.assert_array_equal(synthetic, pairs.images[i])
        np.testing.assert_array_equal(real, fitted.images[j])
        assert table[i, j] == pytest.approx(table[i].min(), abs=1e-6)
    assert (kept.folder / "images" / "closest" / "0.png").is_file()
    areas = np.load(kept.folder / "areas.npz")
    np.testing.assert_allclose(areas["synthetic"], pairs.masks.mean(axis=(1, 2)))
    np.testing.assert_allclose(areas["real"], fitted.masks.mean(axis=(1, 2)))
    diversity = np.load(kept.folder / "diversity.npz")
    for i, name in enumerate(diversity["ids"]):
        own = [j for j, seen in enumerate(pairs.lineage) if seen == {str(name)}]
        assert diversity["count"][i] == len(own) > 1
        np.testing.assert_allclose(diversity["mean"][i], pairs.masks[own].mean(axis=0))
        np.testing.assert_allclose(diversity["deviation"][i], pairs.masks[own].std(axis=0), atol=1e-7)
        np.testing.assert_array_equal(diversity["real"][i], fitted.masks[fitted.ids.index(str(name))])


def test_a_network_of_the_users_is_named_beside_its_distance_and_its_code_is_in_the_key(temp_study: Any) -> None:
    file = temp_study.project / "corner.py"
    file.write_text(NETWORK)
    fidelity = f"{{metrics: [frechet-distance], network: '{file}:Corner', references: []}}"
    plan, store = ran(temp_study, fidelity)
    pool = next(pool for pool in plan.pools if pool.generator == "phantom")
    measured = result(store, pool.fidelity).values["measured"]["frechet-distance"]
    assert measured["network"].startswith("corner.py:Corner")
    assert measured["frechet-distance"] > 0
    assert str(file) not in json.dumps(plan.stages[pool.fidelity].parts)
    file.write_text(NETWORK.replace("/ 255", "/ 510"))
    changed = build_plan(load_study("twelve", settings=tuple(settings(fidelity)[1::2])))
    other = next(pool for pool in changed.pools if pool.generator == "phantom")
    assert other.key == pool.key
    assert other.fidelity != pool.fidelity


METRICS = "thumbnail-distance, mask-area, sim, memorisation"


def seen_plan(study: Any, train: str, fidelity: str, *more: str) -> Plan:
    return build_plan(
        load_study(
            "twelve",
            settings=(
                "generators={resample: {pairs: {plugin: resample}, sees: recipe}, phantom: {pairs: {plugin: phantom}}}",
                f"train={train}", f"fidelity={fidelity}", "seeds=1", "controls=[]", "compare.against=null", *more,
            ),
        )
    )  # fmt: skip


def measured_all(plan: Plan) -> Store:
    """Run what the fidelity of a plan needs."""
    store = Store()
    for key in plan.needed([pool.fidelity for pool in plan.pools]):
        stage = plan.stages[key]
        assert store.find(stage.kind, key) or run_stage(specification(stage, plan, store)), store.failure(key)
    return store


def test_each_pool_is_compared_with_as_many_as_it_was_made_from(temp_study: Any) -> None:
    train = "[{sees: [3, 5], synthetic: {resample: {per-real: 4}}}]"
    plan = seen_plan(temp_study, train, f"{{metrics: [{METRICS}], against: seen, samples: seen, sets: 2}}")
    assert plan.references == []
    store = measured_all(plan)
    dataset = store.find("dataset", plan.datasets[0])
    assert dataset is not None
    from harness.data.pairs import PairSet
    from harness.metrics.fidelity.measure import Sets, measure
    from harness.metrics.spec import fidelity_metric

    pools = [pool for pool in plan.pools if pool.generator == "resample"]
    assert [(pool.n_fit, pool.count) for pool in pools] == [(3, 12), (5, 20)]
    for pool in pools:
        made = store.find("sample", pool.key)
        assert made is not None
        pairs, real = PairSet.load(made.folder / "pairs"), RealPairs(dataset.folder).first(pool.n_fit, 0)
        found = result(store, pool.fidelity).values["measured"]
        size = len(real)
        for name in ("thumbnail-distance", "mask-area", "sim"):
            sets = [Sets(real, pairs.take(range(at, at + size)), torch.device("cpu")) for at in (0, size)]
            each = [measure([fidelity_metric(name)], one)[name][name] for one in sets]
            assert [found[name][f"{name}-set-{number}"] for number in (1, 2)] == pytest.approx(each)
            assert (found[name]["n_real"], found[name]["n_synthetic"]) == (size, size)
        areas = np.load(result(store, pool.fidelity).folder / "areas.npz")
        assert sorted(areas["real"]) == pytest.approx(sorted(real.masks.mean(axis=(1, 2))))
        assert len(areas["synthetic"]) == 2 * size


def test_a_pool_grows_to_what_its_sets_take_of_what_it_has_seen(temp_study: Any) -> None:
    train = "[{sees: [3, 5], synthetic: {resample: 4}}]"
    plan = seen_plan(temp_study, train, "{metrics: [sim], samples: seen, sets: 5}")
    available = len(plan.splits[0].ids("fit"))
    assert {(p.generator, p.n_fit): p.count for p in plan.pools} == {
        ("resample", 3): 15, ("resample", 5): 25, ("phantom", None): 5 * available,
    }  # fmt: skip
    # A size that is said as what it is has the key of the same size in figures.
    plain = seen_plan(temp_study, "[{sees: 3, synthetic: {resample: 15}}]", "{metrics: [sim], samples: 3, sets: 5}")
    assert plain.pools[0].fidelity == plan.pools[0].fidelity


@pytest.mark.parametrize("count", [1, 2, 3, 5, 6])
@pytest.mark.usefixtures("inception")
def test_small_sets_lose_a_number_never_the_stage(temp_study: Any, count: int) -> None:
    from harness.metrics.spec import fidelity_metrics

    metrics = f"fid, kid, prdc, sifid, {METRICS}"
    train = f"[{{sees: {count}, synthetic: {{resample: {count}}}}}]"
    chosen = f"{{metrics: [{metrics}], against: seen, samples: seen}}"
    plan = seen_plan(temp_study, train, chosen, f'segmenters=[{{plugin: "{temp_study.plugins}:Tiny"}}]')
    (pool,) = [pool for pool in plan.pools if pool.generator == "resample"]
    store = Store()
    for key in plan.needed([pool.fidelity]):
        stage = plan.stages[key]
        assert run_stage(specification(stage, plan, store)), store.failure(key)
    found = result(store, pool.fidelity)
    values = {name: found.values["measured"][name][name] for name in metrics.split(", ")}
    lacking = {name for name, value in values.items() if value is None or np.isnan(value)}
    of_one = {name for name, metric in fidelity_metrics().items() if metric.fewest > 1} | {"memorisation"}
    assert lacking == (of_one & set(values) if count < 2 else {"prdc"} if count < 6 else set())
    if lacking == {"prdc"}:
        assert any(
            f"prdc: It needs at least 6 pairs a side, and there are {count} real and {count} synthetic." in note
            for note in found.notes
        )


def test_a_generator_that_has_seen_nothing_has_nothing_to_be_compared_with(temp_study: Any) -> None:
    plan = seen_plan(temp_study, "[]", f"{{metrics: [{METRICS}], against: seen, samples: 4}}", "segmenters=[]")
    store = measured_all(plan)
    (pool,) = [pool for pool in plan.pools if pool.generator == "phantom"]
    values = result(store, pool.fidelity).values["measured"]
    assert all(np.isnan(values[name][name]) for name in values)
    assert "there are 0 real and 4 synthetic" in values["mask-area"]["notes"]
    assert not (result(store, pool.fidelity).folder / "areas.npz").exists()


@pytest.mark.parametrize(
    ("fidelity", "said"),
    [
        ("{metrics: [frechet-distance]}", "fidelity: frechet-distance needs a feature network"),
        ("{metrics: [sim], network: resnet34}", "fidelity.network: 'resnet34' is read by frechet-distance only"),
        ("{metrics: [sim, sim]}", "'sim' stands twice"),
        ("{metrics: [sim], references: [fit]}", "'fit' is not allowed"),
    ],
)
def test_mistakes_in_what_is_measured(temp_study: Any, fidelity: str, said: str) -> None:
    with pytest.raises(DeclarationError, match=said.replace("(", r"\(")):
        load_study("twelve", settings=tuple(settings(fidelity)[1::2]))


def test_a_network_that_cannot_be_had_is_told_before_the_run(temp_study: Any) -> None:
    answer = temp_study.run(*settings("{metrics: [frechet-distance], network: resnet999, references: []}"))
    assert answer.code == 2
    assert "fidelity.network" in answer.err
    assert "resnet999" in answer.err

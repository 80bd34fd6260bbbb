"""Pipelines of masks and then images: what can be declared, selected, measured and shown of each part."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.data.pairs import PairSet
from harness.engine.collect import collect
from harness.engine.executors import make_executor
from harness.engine.graph import Plan
from harness.engine.load import load_study
from harness.engine.plan import build_plan
from harness.engine.run import run_plan, specification
from harness.engine.stages.dataset import RealPairs
from harness.engine.worker import run_stage
from harness.errors import DeclarationError
from harness.learning.judge import TrainedSegmenter
from harness.metrics.fidelity.measure import measure, of_masks
from harness.metrics.spec import Sets, fidelity_metric
from harness.report.render import render
from harness.store.results import Result, Store

PLUGINS = '''

class Stamper(Generator):
    """Stamps squares as large as the mean mask, one checkpoint a factor on their size."""

    name = "mask-ddpm"
    card = Card(needs="masks", makes="masks")

    class Parameters(Parameters):
        factors: tuple[float, ...] = Field((0.5, 1.0, 2.0), description="of each checkpoint")

    def fit(self, pairs, context):
        side = float(np.sqrt(pairs.masks.mean()))
        for step, factor in enumerate(self.parameters.factors):
            folder = context.checkpoint_folder(max(1, 50000 * step))
            (folder / "side.json").write_text(json.dumps(side * factor))
            yield Checkpoint(max(1, 50000 * step), folder)

    def sample(self, checkpoint, seeds, context, masks=None):
        height, width = context.pairs.size
        side = max(2, round(json.loads((checkpoint.folder / "side.json").read_text()) * height))
        made = np.zeros((len(seeds), height, width), np.uint8)
        for i, seed in enumerate(seeds):
            y, x = np.random.default_rng(int(seed)).integers(0, height - side + 1, 2)
            made[i, y : y + side, x : x + side] = 1
        return Sample(masks=made)


class Colourer(Painter):
    """Paints given masks in the mean colours, with noise of the seed."""

    name = "mask-ldm"
    card = Card(makes="images")

    def sample(self, checkpoint, seeds, context, masks=None):
        colours = json.loads((checkpoint.folder / "colours.json").read_text())
        images = []
        for seed, mask in zip(seeds, masks, strict=True):
            noise = np.random.default_rng(int(seed)).normal(0, 9, (*mask.shape, 3))
            image = np.where(mask[..., None] == 1, colours["inside"], colours["outside"]) + noise
            images.append(np.clip(image, 0, 255).astype(np.uint8))
        return Sample(masks=np.asarray(masks), images=np.stack(images))
'''


@pytest.fixture
def study(temp_study: Any) -> Any:
    temp_study.plugins.write_text(temp_study.plugins.read_text() + PLUGINS)
    return temp_study


def masks_of(study: Any, select: str = "") -> str:
    return f'masks: {{plugin: "{study.plugins}:Stamper"{select}}}'


def images_of(study: Any, select: str = "") -> str:
    return f'images: {{plugin: "{study.plugins}:Colourer"{select}}}'


#: A study without segmenters, training sets or anything that measures.
ALONE = ("segmenters=[]", "train=[]", "controls=[]", "compare.against=null", "fidelity=null")


def plan_of(generators: str, *more: str) -> Plan:
    return build_plan(load_study("twelve", settings=(f"generators={generators}", *ALONE, *more)))


def ran(generators: str, *more: str) -> tuple[Plan, Store]:
    plan, store = plan_of(generators, *more), Store()
    summary = run_plan(plan, store, make_executor("in-process", None))
    assert summary.complete, summary.failures
    return plan, store


def result(plan: Plan, store: Store, key: str) -> Result:
    found = store.find(plan.stages[key].kind, key)
    assert found is not None
    return found


def kinds(plan: Plan) -> list[str]:
    return [stage.kind for stage in plan.stages.values()]


def drawn(plan: Plan, store: Store, folder: Path, *figures: str) -> set[str]:
    """Render the report with the named kinds of figures and return the names of those that were drawn."""
    render(replace(collect(plan, store), figures=list(figures)), folder)
    return {path.stem for path in (folder / "figures").glob("*.png")}


# masks alone


CHOSEN = ", select: {by: mask-area, then: sim, samples: 6}"


def test_a_study_may_do_nothing_but_choose_a_checkpoint_of_a_generator_of_masks(study: Any) -> None:
    plan, store = ran(f"{{squares: {{{masks_of(study, CHOSEN)}}}}}")
    assert kinds(plan) == ["dataset", "fit", "select", "sample"]
    results = collect(plan, store)
    rows = results.rows
    assert set(rows["kind"]) == {"selection"}
    assert set(rows["cell"]) == {"squares masks"}
    assert dict(zip(rows["step"], rows["metric"], strict=False)).keys() == {1, 50000, 100000}
    assert rows[rows["reduction"] == "selected"]["step"].unique().tolist() == [50000]
    (pool,) = plan.pools
    assert (pool.makes, pool.count) == ("masks", 24)
    assert results.pipelines["squares"].makes == "masks"


def test_no_training_set_takes_masks_alone(study: Any) -> None:
    generators = f"{{squares: {{{masks_of(study)}}}, both: {{{masks_of(study)}, {images_of(study)}}}}}"
    with pytest.raises(DeclarationError, match=r"train\.0\.synthetic\.squares: squares makes masks alone"):
        load_study("twelve", settings=(f"generators={generators}", "train=[{synthetic: {both: 4, squares: 4}}]"))


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ("{images: {plugin: noise}}", "say either pairs"),
        ("{pairs: {plugin: noise}, images: {plugin: noise}}", "take one of the two out"),
        ("{pairs: {plugin: noise}, masks: {plugin: noise}}", "say either pairs"),
        ("{masks: {plugin: noise}, refine: [{plugin: colour-transfer}]}", "refine needs images"),
        ("{masks: {plugin: noise}}", "noise makes pairs, not masks"),
    ],
)
def test_mistakes_in_a_pipeline(study: Any, declared: str, said: str) -> None:
    with pytest.raises(DeclarationError, match=said):
        load_study("twelve", settings=(f"generators={{g: {declared}}}", *ALONE))


METRICS = "thumbnail-distance, mask-area, sim, memorisation"


def test_masks_alone_are_measured_against_masks_and_so_are_real_ones(study: Any) -> None:
    generators = f"{{squares: {{{masks_of(study)}}}, both: {{{masks_of(study)}, {images_of(study)}}}}}"
    plan, store = ran(generators, f"fidelity={{metrics: [{METRICS}], samples: 6, references: [report]}}")
    real = RealPairs(result(plan, store, plan.datasets[0]).folder)
    squares, both = plan.pools
    made = PairSet.load(result(plan, store, squares.key).folder / "pairs")
    cpu = torch.device("cpu")
    metrics = [fidelity_metric("thumbnail-distance"), fidelity_metric("sim")]
    expected = measure(metrics, Sets(of_masks(real.role("fit")), of_masks(made.first(6)), cpu))
    found = result(plan, store, squares.fidelity).values["measured"]
    for name, values in expected.items():
        assert found[name][name] == pytest.approx(values[name])
    # The masks of the pipeline are the same, its images are not.
    other = result(plan, store, both.fidelity).values["measured"]
    assert other["sim"]["sim"] == found["sim"]["sim"]
    assert other["thumbnail-distance"]["thumbnail-distance"] != found["thumbnail-distance"]["thumbnail-distance"]
    assert [reference.label for reference in plan.references] == ["real (report)", "real masks (report)"]
    report = real.role("report")
    for reference, pairs, fit in zip(
        plan.references, (report, of_masks(report)), (real.role("fit"), of_masks(real.role("fit"))), strict=True
    ):
        wanted = measure(metrics[:1], Sets(fit, pairs, cpu))["thumbnail-distance"]["thumbnail-distance"]
        values = result(plan, store, reference.key).values["measured"]["thumbnail-distance"]
        assert values["thumbnail-distance"] == pytest.approx(wanted)
    # A training image is no picture of a mask: what lies closest to a mask is a mask.
    closest = np.load(result(plan, store, squares.fidelity).folder / "closest.npz")
    assert set(np.unique(closest["real"])) == {0, 255}
    assert len(np.unique(np.load(result(plan, store, both.fidelity).folder / "closest.npz")["real"])) > 2
    assert any(note.startswith("What is made by squares are masks alone") for note in plan.notes)


def test_a_study_of_masks_alone_has_a_reference_of_masks_alone(study: Any) -> None:
    plan = plan_of(f"{{squares: {{{masks_of(study)}}}}}", "fidelity={metrics: [sim]}")
    assert [reference.label for reference in plan.references] == ["real masks (report)"]
    assert not any("masks alone" in note for note in plan.notes)


def test_fitting_one_generator_on_its_own_samples_nothing(study: Any) -> None:
    from harness.cli.generator import declare_fit
    from harness.engine.plan import plan_fit

    plan, key = plan_fit(declare_fit(f"{study.plugins}:Stamper", "twelve", 32, [], None, None, 0))
    assert kinds(plan) == ["dataset", "fit"]
    assert plan.stages[key].kind == "fit"


# Table 1 and Table 2 of paper A


def published(plan: Plan, store: Store, name: str) -> dict[tuple[str, str], float]:
    """Ours beside a printed table, by step and metric, where there is one."""
    from harness.report.papers.tables import published_tables

    (table,) = published_tables(replace(collect(plan, store), published=[name]))
    step = "iteration" if name.startswith("a_table1") else "epoch"
    return {
        (str(r[step]), str(r["metric"])): float(str(r["ours"])) for r in table.records or [] if r["ours"] == r["ours"]
    }


@pytest.mark.usefixtures("inception")
def test_checkpoints_of_each_part_stand_beside_the_paper_table_of_that_part(study: Any) -> None:
    chosen = ", select: {by: fid, then: sim, samples: 4}"
    # The images part has checkpoints at steps that Table 1 has too, and may not be taken for masks.
    images = images_of(study, ", checkpoints: 2, select: {by: fid, samples: 4}").replace("Colourer", "Renamed")
    study.plugins.write_text(
        study.plugins.read_text()
        + """

class Renamed(Colourer):
    def fit(self, pairs, context):
        for step, made in zip((10057, 50000), list(super().fit(pairs, context)), strict=True):
            folder = context.checkpoint_folder(step)
            (folder / "colours.json").write_text((made.folder / "colours.json").read_text())
            yield Checkpoint(step, folder)
"""
    )
    plan, store = ran(f"{{diffusion: {{{masks_of(study, chosen)}, {images}}}, other: {{pairs: {{plugin: noise}}}}}}")
    rows = collect(plan, store).rows
    selected = {(c, s, m): v for c, s, m, v in zip(rows.cell, rows.step, rows.metric, rows.value, strict=True)}
    steps = {"0": 1, "50000": 50000, "100000": 100000}
    # Of few samples by a random network FID is tiny, so that nothing absolute is near enough.
    assert published(plan, store, "a_table1_mask_fid_sim") == pytest.approx(
        {(printed, "fid"): selected["diffusion masks", step, "fid"] for printed, step in steps.items()}
        | {(printed, "sim"): 100 * selected["diffusion masks", step, "sim"] for printed, step in steps.items()},
        abs=0,
    )
    assert published(plan, store, "a_table2_polyp_fid") == pytest.approx(
        {("88", "fid"): selected["diffusion images", 10057, "fid"]}, abs=0
    )


# figures


def pipeline(study: Any, more: str = "", masks: str = ", factors: [1]", images: str = ", checkpoints: 3") -> str:
    return f"{{both: {{{masks_of(study, masks)}, {images_of(study, images)}, variations: {{}}{more}}}}}"


def test_several_images_are_kept_for_each_of_the_first_masks(study: Any, tmp_path: Path) -> None:
    plan, store = ran(pipeline(study))
    (pool,) = plan.pools
    kept = result(plan, store, pool.key)
    (masks,) = plan.stages[pool.key].inputs["masks"]
    mask_pool = PairSet.load(result(plan, store, masks).folder / "pairs")
    pairs = PairSet.load(kept.folder / "pairs")
    with np.load(kept.folder / "variations.npz") as stored:
        found = dict(stored)
    np.testing.assert_array_equal(found["masks"], [mask for mask in mask_pool.masks if mask.any()][:10])
    assert found["images"].shape == (10, 5, 32, 32, 3)
    assert len(
        {image.tobytes() for image in found["images"].reshape(50, -1)} | {i.tobytes() for i in pairs.images}
    ) == (50 + len(pairs))
    # Made by the checkpoint of the pool, each image for the mask of its row.
    fit = result(plan, store, plan.stages[pool.key].inputs["fit"][0])
    colours = json.loads((fit.folder / "checkpoints" / "3" / "colours.json").read_text())
    for mask, images in zip(found["masks"], found["images"], strict=True):
        inside = images[:, mask == 1].mean(axis=(0, 1))
        np.testing.assert_allclose(inside, colours["inside"], atol=4)
    (variations,) = collect(plan, store).variations
    assert variations.cell == "both"
    np.testing.assert_array_equal(variations.images, found["images"])
    assert drawn(plan, store, tmp_path / "report", "variations") == {"variations-0"}


def test_a_study_that_asks_for_no_variations_pays_for_none(study: Any) -> None:
    plan, store = ran(pipeline(study).replace(", variations: {}", ""))
    assert collect(plan, store).variations == []
    assert not (result(plan, store, plan.pools[0].key).folder / "variations.npz").exists()
    asked = plan_of(pipeline(study))
    assert plan.pools[0].key != asked.pools[0].key
    fewer = plan_of(pipeline(study).replace("variations: {}", "variations: {masks: 2, images: 3}"))
    assert len({asked.pools[0].key, fewer.pools[0].key}) == 2


def test_variations_are_of_images_made_for_masks(study: Any) -> None:
    with pytest.raises(DeclarationError, match="variations are of images made for masks; add images"):
        plan_of(f"{{squares: {{{masks_of(study)}, variations: {{}}}}}}")


def test_a_generator_of_pairs_or_of_masks_has_no_variations(study: Any) -> None:
    plan, store = ran(f"{{squares: {{{masks_of(study)}}}, noise: {{pairs: {{plugin: noise}}}}}}")
    assert collect(plan, store).variations == []


@pytest.mark.parametrize("ahead", [True, False])
def test_first_samples_of_every_checkpoint_are_kept_whoever_scored_it(study: Any, ahead: bool) -> None:
    plan, store = plan_of(pipeline(study, masks=CHOSEN, images=", checkpoints: 3" + CHOSEN)), Store()
    for key in plan.stages:
        spec = specification(plan.stages[key], plan, store)
        assert run_stage(spec if ahead else {**spec, "selections": []}), store.failure(key)
    masks, images = collect(plan, store).checkpoints
    assert (masks.cell, masks.part, masks.steps, masks.chosen) == ("both masks", "masks", (1, 50000, 100000), 50000)
    assert (images.cell, images.part, images.steps) == ("both images", "images", (1, 2, 3))
    assert masks.images.shape == images.images.shape == (3, 4, 32, 32, 3)
    # One seed through the checkpoints: squares that grow, and one mask with fading colours outside.
    areas = masks.masks.mean(axis=(2, 3))
    assert (np.diff(areas, axis=0) > 0).all()
    np.testing.assert_array_equal(masks.images[..., 0], masks.masks * 255)
    assert (images.masks == images.masks[0]).all()
    pool = PairSet.load(result(plan, store, plan.pools[0].key).folder / "pairs")
    np.testing.assert_array_equal(images.masks[0], pool.masks[:4])
    chosen = images.steps.index(images.chosen)
    np.testing.assert_array_equal(images.images[chosen], pool.images[:4])
    assert len({images.images[at].tobytes() for at in range(3)}) == 3


def test_a_killed_selection_keeps_the_samples_of_what_it_does_not_score_again(
    study: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.engine.stages import select as selecting

    plan, store = plan_of(f"{{squares: {{{masks_of(study, CHOSEN)}}}}}"), Store()
    stages = {stage.kind: stage for stage in plan.stages.values()}
    for kind in ("dataset", "fit"):
        assert run_stage({**specification(stages[kind], plan, store), "selections": []})
    original = selecting.sample_pairs

    def killed(stage: Any, generator: Any, checkpoint: Any, *rest: Any) -> PairSet:
        if checkpoint.step == 100000:
            raise KeyboardInterrupt
        return original(stage, generator, checkpoint, *rest)

    monkeypatch.setattr(selecting, "sample_pairs", killed)
    with pytest.raises(KeyboardInterrupt):
        run_stage(specification(stages["select"], plan, store))
    again: list[int] = []

    def watched(stage: Any, generator: Any, checkpoint: Any, *rest: Any) -> PairSet:
        again.append(checkpoint.step)
        return original(stage, generator, checkpoint, *rest)

    monkeypatch.setattr(selecting, "sample_pairs", watched)
    assert run_stage(specification(stages["select"], plan, store))
    assert again == [100000]
    (found,) = collect(plan, store).checkpoints
    assert found.steps == (1, 50000, 100000)


def test_masks_are_shown_below_real_ones_and_beside_the_most_similar_real_one(study: Any, tmp_path: Path) -> None:
    generators = f"{{squares: {{{masks_of(study)}}}, {pipeline(study)[1:]}"
    plan, store = ran(generators, "fidelity={metrics: [sim], samples: 6, references: []}")
    results = collect(plan, store)
    for pool in plan.pools:
        made = PairSet.load(result(plan, store, pool.key).folder / "pairs").masks
        np.testing.assert_array_equal(results.masks[pool.generator][:6], made[:6])
        (measured,) = [one for one in results.measured if one.cell == pool.generator]
        closest = measured.closest_masks
        assert closest is not None
        real = RealPairs(result(plan, store, plan.datasets[0]).folder).role("fit").masks
        np.testing.assert_array_equal(closest.synthetic, made[:6])
        shares = (closest.synthetic[:, None] == real[None]).mean(axis=(2, 3))
        np.testing.assert_allclose(closest.similarity, shares.max(axis=1))
        np.testing.assert_array_equal(closest.real, real[shares.argmax(axis=1)])
    figures = drawn(plan, store, tmp_path / "report", "masks", "closest-masks", "generators")
    assert figures == {"masks", "closest-masks-0", "closest-masks-1", "generators"}


def test_masks_alone_are_no_images_among_images(study: Any, tmp_path: Path) -> None:
    plan, store = ran(f"{{squares: {{{masks_of(study)}}}}}")
    assert drawn(plan, store, tmp_path / "alone", "masks", "generators", "samples", "sources") == {"masks", "samples"}


# several images a mask


def recipe_plan(study: Any, count: int, more: str = "", select: str = "") -> Plan:
    """A study that trains on so many pairs of a pipeline, and measures nothing."""
    generators = pipeline(study, more, images=f", checkpoints: 3{select}")
    chosen = (f"generators={generators}", f"train=[{{synthetic: {{both: {count}}}}}]", "fidelity=null")
    chosen += ("controls=[]", "compare.against=null", "seeds=1")
    return build_plan(load_study("twelve", settings=chosen))


def sampled(plan: Plan, part: str) -> Any:
    (stage,) = [s for s in plan.stages.values() if s.kind == "sample" and s.label == f"sample both {part}"]
    return stage


@pytest.mark.parametrize(("count", "each"), [(7, 1), (7, 3), (6, 3), (2, 5)])
def test_image_i_is_made_for_mask_i_div_k(study: Any, count: int, each: int) -> None:
    plan = recipe_plan(study, count, f", images_per_mask: {each}")
    store = Store()
    assert sampled(plan, "masks").parts["parameters"]["count"] == -(-count // each)
    for key in plan.needed([plan.pools[0].key]):
        assert run_stage(specification(plan.stages[key], plan, store)), store.failure(key)
    kept = result(plan, store, plan.pools[0].key)
    pairs = PairSet.load(kept.folder / "pairs")
    masks = PairSet.load(result(plan, store, sampled(plan, "masks").key).folder / "pairs")
    manifest = json.loads((kept.folder / "manifest.json").read_text())
    assert len(pairs) == count
    assert manifest["images-per-mask"] == each
    for i in range(count):
        np.testing.assert_array_equal(pairs.masks[i], masks.masks[i // each])
        assert manifest["pairs"][i]["mask"] == masks.ids[i // each]
        assert masks.lineage[i // each] <= pairs.lineage[i]
    assert len({image.tobytes() for image in pairs.images}) == count


def test_pools_of_several_images_a_mask_nest_and_so_do_their_keys(study: Any) -> None:
    more, select = ", images_per_mask: 3", ", select: {by: mask-area, samples: 6}"
    small, large = (recipe_plan(study, count, more, select) for count in (7, 20))
    assert [sampled(plan, "masks").parts["parameters"]["count"] for plan in (small, large)] == [3, 7]
    # What is chosen and trained does not depend on how large the pools are.
    for kind in ("select", "fit"):
        assert {s.key for s in small.stages.values() if s.kind == kind} == {
            s.key for s in large.stages.values() if s.kind == kind
        }
    assert sampled(small, "images").pool_key == sampled(large, "images").pool_key
    assert sampled(small, "images").key != sampled(large, "images").key
    other = recipe_plan(study, 7, ", images_per_mask: 2", select)
    assert sampled(other, "images").pool_key != sampled(small, "images").pool_key
    assert sampled(other, "masks").pool_key == sampled(small, "masks").pool_key


def test_one_image_a_mask_leaves_the_keys_as_they_are_and_a_selection_has_masks_of_its_own(study: Any) -> None:
    plain = recipe_plan(study, 4, "", ", select: {by: mask-area, samples: 9}")
    said = recipe_plan(study, 4, ", images_per_mask: 1", ", select: {by: mask-area, samples: 9}")
    assert list(plain.stages) == list(said.stages)
    assert not any("images-per-mask" in stage.parts["parameters"] for stage in plain.stages.values())
    assert sampled(plain, "masks").parts["parameters"]["count"] == 9
    assert sampled(plain, "images").parts["parameters"]["count"] == 4


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ("{pairs: {plugin: noise}, images_per_mask: 2}", "pairs bring a mask each; take it out"),
        ("{masks: {plugin: noise}, images_per_mask: 2}", "masks alone have no images; take it out"),
        ("{masks: {plugin: noise}, images: {plugin: noise}, images_per_mask: 0}", "greater than or equal to 1"),
    ],
)
def test_mistakes_in_images_per_mask(study: Any, declared: str, said: str) -> None:
    with pytest.raises(DeclarationError, match=said):
        load_study("twelve", settings=(f"generators={{g: {declared}}}", *ALONE))


def test_what_images_agree_with_their_masks_is_known_mask_by_mask(tmp_path: Path) -> None:
    """Of each mask the mean over its images, and the lowest beside the agreement of all."""
    from types import SimpleNamespace

    from harness.engine.stages import fidelity
    from harness.engine.stages.pool import PoolResult

    given = np.zeros((2, 4, 4), np.uint8)
    given[:, :2] = 1  # eight pixels of polyp
    shown = np.zeros((2, 3, 4, 4, 3), np.uint8)
    shown[0, :, :2] = 255  # of the first mask, all images show it
    shown[1, 0, :2] = 255  # of the second, one does, one shows half of it, one nothing
    shown[1, 1, :1] = 255
    pool, measured = tmp_path / "pool", tmp_path / "measured"
    pool.mkdir()
    measured.mkdir()
    np.savez(pool / "variations.npz", masks=given, images=shown)
    stage: Any = SimpleNamespace(inputs=lambda name: [PoolResult(pool)], folder=measured)
    segmenter: Any = TrainedSegmenter("bright", lambda images: (images[..., 0] > 127).astype(np.uint8))
    values = fidelity._agreement_by_mask(stage, segmenter)
    assert values == {"agreement-lowest-mask": pytest.approx(0.5)}
    with np.load(measured / "agreement_by_mask.npz") as stored:
        np.testing.assert_allclose(stored["agreement"], [1, 0.5])
    (pool / "variations.npz").unlink()
    assert fidelity._agreement_by_mask(stage, segmenter) == {}

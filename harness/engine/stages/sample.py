"""The ``sample`` stage: a pool of synthetic pairs, of which recipes take the first n."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from harness.data.lineage import interned
from harness.engine.graph import Plan
from harness.engine.keys import unless_default
from harness.engine.stages.pool import (
    PoolResult,
    PoolStage,
    as_pictures,
    behind,
    check_sample,
    images_of,
    mask_positions,
    pool_seeds,
    sample_pairs,
    sampled_pairs,
    write_manifest,
    write_pool,
    write_variations,
)
from harness.engine.stages.running import RunningStage
from harness.plugins.registry import load_plugin
from harness.study.schema import GeneratorUse, Variations

if TYPE_CHECKING:
    from harness.data.pairs import PairSet
    from harness.engine.stages.checkpoints import FitResult
    from harness.engine.stages.select import SelectResult
    from harness.plugins.contract import Checkpoint, Generator


class SampleStage(PoolStage):
    """Samples a pool from a fitted generator."""

    name: ClassVar[str] = "sample"
    large: ClassVar[bool] = True
    real_pairs: ClassVar[str] = "real"

    @classmethod
    def add(
        cls,
        plan: Plan,
        use: GeneratorUse,
        label: str,
        inputs: dict[str, tuple[str, ...]],
        *,
        count: int,
        seed: int,
        n_fit: int | None,
        images_per_mask: int,
        variations: Variations | None,
    ) -> str:
        """Add the pool of one plugin to a plan; return its key.

        Args:
            plan: to add to.
            use: the plugin.
            label: what its pool is called.
            inputs: dataset, fit, and where there are such select and masks.
            count: items in the pool.
            seed: of the items.
            n_fit: how many of the real pairs of the fit it is made from; None for all that the fit has.
            images_per_mask: images for each mask, where they are made for masks.
            variations: of the first masks, where a study asks for them.
        """
        plugin = load_plugin("generators", use.plugin).create(**use.values())
        asked: dict[str, Any] = {"real": n_fit, "images-per-mask": images_per_mask}
        asked["variations"] = variations.model_dump() if variations else None
        beside = unless_default(asked, {"real": None, "images-per-mask": 1, "variations": None})
        parameters = {"count": count, **beside}
        return plan.add(cls, f"sample {label}", parameters, inputs, plugin=plugin, use=use, seed=seed, amount=count)

    @classmethod
    def run(cls, stage: RunningStage) -> dict[str, Any]:
        """Sample the pool from the selected checkpoint, or the last one."""
        generator = stage.plugin("generators")
        fit: FitResult = stage.input("fit")
        chosen: list[SelectResult] = stage.inputs("select")
        checkpoint = fit.at(chosen[0].step) if chosen else fit.checkpoints[-1]
        seen_by_choice = chosen[0].seen if chosen else frozenset[str]()
        real = sampled_pairs(generator, checkpoint, fit.pairs(stage.dataset, stage.parameters.get("real")))
        given: list[PoolResult] = stage.inputs("masks")
        masks = given[0].pairs if given else None
        pool = sample_pairs(stage, generator, checkpoint, stage.parameters["count"], real, masks)
        joined = {one: one | seen_by_choice for one in set(pool.lineage)}
        provenance = {"fitted": sorted(behind(generator, checkpoint, real)), "selected": sorted(seen_by_choice)}
        if masks is not None:
            provenance["masks"] = sorted(masks.seen())
        whole = replace(pool, lineage=tuple(joined[one] for one in pool.lineage))
        write_pool(stage.folder, whole, pool.lineage, provenance)
        stage.context.log_images("samples", checkpoint.step, pool.images[:25])
        stage.context.log_images("masks", checkpoint.step, as_pictures(pool.masks[:25]))
        if masks is not None and stage.parameters.get("variations"):
            _keep_variations(stage, generator, checkpoint, real, masks)
        _keep_manifest(stage, generator, checkpoint, real, whole, masks)
        empty = int((pool.masks.reshape(len(pool), -1).max(axis=1) == 0).sum())
        return {"count": len(pool), "checkpoint": checkpoint.step, "empty-masks": empty}


def _keep_variations(
    stage: RunningStage, generator: Generator, checkpoint: Checkpoint, real: PairSet, masks: PairSet
) -> None:
    """Make several images for each of the first masks that are not empty, by seeds of their own, beside the pool."""
    asked = Variations(**stage.parameters["variations"])
    shown = masks.masks[masks.masks.any(axis=(1, 2))]
    few = (shown if len(shown) else masks.masks)[: asked.masks]
    seeds = np.random.default_rng([stage.seed, 0xF165]).integers(0, 2**62, len(few) * asked.images, np.int64)
    given = np.repeat(few, asked.images, axis=0)
    made = generator.sample(checkpoint, seeds, stage.sample_context(real), given)
    check_sample(generator.name, made, len(seeds), real)
    images = images_of([made], given)
    stage.context.log_images("variations", checkpoint.step, images)
    grid = (len(few), asked.images)
    write_variations(stage.folder, np.asarray(few), images.reshape(*grid, *images.shape[1:]), seeds.reshape(grid))


def _keep_manifest(
    stage: RunningStage,
    generator: Generator,
    checkpoint: Checkpoint,
    real: PairSet,
    pool: PairSet,
    masks: PairSet | None,
) -> None:
    """Write how to make each pair again: its seed, the mask it was made for and the checkpoint; and its lineage."""
    seeds = pool_seeds(generator, checkpoint, real, stage.seed, len(pool))
    positions = mask_positions(stage, len(pool))
    distinct, lineage = interned(pool.lineage)
    rows = [
        {
            "id": name,
            "seed": int(seeds[i]),
            "mask": None if masks is None else masks.ids[positions[i]],
            "lineage": lineage[i],
        }
        for i, name in enumerate(pool.ids)
    ]
    manifest = {
        "fit": stage.results("fit")[0].key,
        "checkpoint": checkpoint.step,
        "lineages": distinct,
        "pairs": rows,
    }
    if masks is not None:
        manifest["images-per-mask"] = stage.parameters.get("images-per-mask", 1)
    write_manifest(stage.folder, manifest)

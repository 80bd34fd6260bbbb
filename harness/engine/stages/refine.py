"""The ``refine`` stage: maps a pool to a better one, each pair with a real pair that it was made from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from harness.data.pairs import PairSet
from harness.engine.graph import Plan
from harness.engine.stages.pool import PoolResult, PoolStage, check_sample, item_seeds, write_pool
from harness.engine.stages.running import RunningStage
from harness.plugins.registry import load_plugin
from harness.store.results import Result
from harness.study.schema import PluginUse

#: Pairs refined between two reports of progress, after which work can be saved; as many as fill a GPU.
_CHUNK = 64


class RefineStage(PoolStage):
    """Refines a pool."""

    name: ClassVar[str] = "refine"
    version: ClassVar[int] = 2
    large: ClassVar[bool] = True
    resumable: ClassVar[bool] = True
    real_pairs: ClassVar[str] = "real"
    given_as: ClassVar[str] = "refined"

    @classmethod
    def add(
        cls,
        plan: Plan,
        use: PluginUse,
        label: str,
        fold: int,
        pool: str,
        *,
        n_fit: int | None,
        order: int,
        seed: int,
        count: int,
    ) -> str:
        """Add the refinement of a pool to a plan; return its key.

        Args:
            plan: to add to.
            use: the refiner.
            label: what the refined pool is called.
            fold: of the split.
            pool: key of the pool.
            n_fit: real pairs that the pool is made from; None for all of the fit role.
            order: seed of the order that these are the first of.
            seed: of what is drawn.
            count: pairs in the pool.
        """
        plugin = load_plugin("refiners", use.plugin).create(**use.values())
        parameters = {"real": n_fit, "order-seed": order}
        inputs = {"dataset": (plan.datasets[fold],), "pool": (pool,)}
        return plan.add(cls, f"refine {label}", parameters, inputs, plugin=plugin, use=use, seed=seed, amount=count)

    @classmethod
    def claims_less(cls, result: Result) -> bool:
        """Whether the refiner names fewer real pairs than it was shown; so it is taken where that was not noted."""
        used = len(cls.read(result).provenance[cls.given_as])
        return used < result.values.get("shown", used + 1) or super().claims_less(result)

    @classmethod
    def run(cls, stage: RunningStage) -> dict[str, Any]:
        """Refine the pool; the real pairs that the refiner used join the lineage of what it made."""
        refiner = stage.plugin("refiners")
        given: PoolResult = stage.input("pool")
        pool, made_from = given.pairs, given.sources
        real = stage.dataset.first(stage.parameters["real"], stage.parameters["order-seed"])
        seeds = item_seeds(stage.seed + 1, len(pool))
        position = {name: i for i, name in enumerate(real.ids)}
        sources = [_source(made_from[i], position, len(real), int(seeds[i])) for i in range(len(pool))]
        context = stage.sample_context(real)
        state = stage.context.restore_state() or {"images": [], "masks": [], "used": []}
        images: list[NDArray[np.uint8]] = [np.asarray(part) for part in state["images"]]
        masks: list[NDArray[np.uint8]] = [np.asarray(part) for part in state["masks"]]
        used = [frozenset(names) for names in state["used"]]
        for start in range(len(used), len(pool), _CHUNK):
            stop = min(len(pool), start + _CHUNK)
            part = pool.take(range(start, stop))
            made = refiner.refine(part, real.take(sources[start:stop]), seeds[start:stop], context)
            check_sample(refiner.name, made, stop - start, real)
            images.append(part.images if made.images is None else made.images)
            masks.append(made.masks)
            # A refiner that does not name its sources may have used every real pair that it was shown.
            shown = [real.seen()] * (stop - start)
            used += shown if made.sources is None else [frozenset(names) for names in made.sources]
            stage.context.progress(stop, len(pool), "images")
            if stage.context.should_save():
                stage.context.save_state(_state(images, masks, used))
        lineage = _joined(pool.lineage, used)
        refined = PairSet(np.concatenate(images), np.concatenate(masks), pool.ids, pool.groups, lineage)
        provenance = {**given.provenance, "refined": sorted(frozenset().union(*set(used)))}
        write_pool(stage.folder, refined, _joined(made_from, used), provenance)
        stage.context.log_images("refined", 0, refined.images[:25])
        for note in refiner.notes():
            stage.context.note(note)
        return {"count": len(refined), "shown": len(real)}


def _state(
    images: list[NDArray[np.uint8]], masks: list[NDArray[np.uint8]], used: list[frozenset[str]]
) -> dict[str, Any]:
    """Return what is refined so far: style transfer takes minutes an image, which a killed stage must not lose."""
    import torch

    parts = {
        name: [torch.from_numpy(np.array(part)) for part in arrays]
        for name, arrays in (("images", images), ("masks", masks))
    }
    return {**parts, "used": [sorted(names) for names in used]}


def _joined(sets: Sequence[frozenset[str]], others: Sequence[frozenset[str]]) -> tuple[frozenset[str], ...]:
    """Return the union of each set with its other; equal ones are one object."""
    joined = {pair: pair[0] | pair[1] for pair in set(zip(sets, others, strict=True))}
    return tuple(joined[pair] for pair in zip(sets, others, strict=True))


def _source(made_from: frozenset[str], position: dict[str, int], count: int, seed: int) -> int:
    """Return the position of the real pair that a synthetic one was made from; one of them when there are many."""
    candidates = sorted(position[name] for name in made_from if name in position)
    return candidates[seed % len(candidates)] if candidates else seed % count

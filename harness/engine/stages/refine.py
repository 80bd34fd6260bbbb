"""The ``refine`` stage: maps a pool to a better one, each pair with a real pair that it was made from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.data.pairs import PairSet
from harness.engine.stages.running import RunningStage, item_seeds, load_pool, save_sources
from harness.engine.stages.sample import check_sample

#: Pairs refined between two reports of progress, after which work can be saved; as many as fill a GPU.
_CHUNK = 64


def run(stage: RunningStage) -> dict[str, Any]:
    """Refine the pool; the real pairs that the refiner used join the lineage of what it made."""
    refiner = stage.plugin("refiners")
    pool, made_from = load_pool(stage.result("pool").folder)
    real = stage.dataset.first(stage.parameters["real"], stage.parameters["order-seed"])
    seeds = item_seeds(stage.seed + 1, len(pool))
    sources = [_source(made_from[i], real, int(seeds[i])) for i in range(len(pool))]
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
        used += [real.seen()] * (stop - start) if made.sources is None else [frozenset(names) for names in made.sources]
        stage.context.progress(stop, len(pool), "images")
        if stage.context.should_save():
            stage.context.save_state(_state(images, masks, used))
    lineage = _joined(pool.lineage, used)
    refined = PairSet(np.concatenate(images), np.concatenate(masks), pool.ids, pool.groups, lineage)
    refined.save(stage.folder / "pairs")
    if made_from != pool.lineage:
        save_sources(stage.folder, _joined(made_from, used))
    stage.context.log_images("refined", 0, refined.images[:25])
    for note in refiner.notes():
        stage.context.note(note)
    provenance = json.loads((stage.result("pool").folder / "provenance.json").read_text())
    provenance["refined"] = sorted(frozenset().union(*set(used)))
    (stage.folder / "provenance.json").write_text(json.dumps(provenance))
    return {"count": len(refined)}


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


def _source(made_from: frozenset[str], real: PairSet, seed: int) -> int:
    """Return the position of the real pair that a synthetic one was made from; one of them when there are many."""
    position = _positions(real)
    candidates = sorted(position[name] for name in made_from if name in position)
    return candidates[seed % len(candidates)] if candidates else seed % len(real)


def _positions(real: PairSet) -> dict[str, int]:
    return {name: i for i, name in enumerate(real.ids)}

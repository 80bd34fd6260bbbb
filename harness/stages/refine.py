"""The ``refine`` stage: maps a pool to a better one, each pair with a real pair that it was made from."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from harness.data.pairs import PairSet
from harness.stages.running import RunningStage, item_seeds
from harness.stages.sample import check_sample

_CHUNK = 256


def run(stage: RunningStage) -> dict[str, Any]:
    """Refine the pool; the real pairs that the refiner used join the lineage of what it made."""
    refiner = stage.plugin("refiners")
    pool = PairSet.load(stage.result("pool").folder / "pairs")
    real = stage.dataset.first(stage.parameters["real"], stage.parameters["order-seed"])
    seeds = item_seeds(stage.seed + 1, len(pool))
    sources = [_source(pool.lineage[i], real, int(seeds[i])) for i in range(len(pool))]
    context = stage.sample_context(real)
    images, masks = [], []
    used: list[frozenset[str]] = []
    for start in range(0, len(pool), _CHUNK):
        stop = min(len(pool), start + _CHUNK)
        part = pool.take(range(start, stop))
        made = refiner.refine(part, real.take(sources[start:stop]), seeds[start:stop], context)
        check_sample(refiner.name, made, stop - start, real)
        images.append(part.images if made.images is None else made.images)
        masks.append(made.masks)
        # A refiner that does not name its sources may have used every real pair that it was shown.
        used += [real.seen()] * (stop - start) if made.sources is None else [frozenset(names) for names in made.sources]
        stage.context.progress(stop, len(pool), "images")
    joined = {pair: pair[0] | pair[1] for pair in set(zip(pool.lineage, used, strict=True))}
    lineage = tuple(joined[pair] for pair in zip(pool.lineage, used, strict=True))
    refined = PairSet(np.concatenate(images), np.concatenate(masks), pool.ids, pool.groups, lineage)
    refined.save(stage.folder / "pairs")
    stage.context.log_images("refined", 0, refined.images[:25])
    provenance = json.loads((stage.result("pool").folder / "provenance.json").read_text())
    provenance["refined"] = sorted(frozenset().union(*set(used)))
    (stage.folder / "provenance.json").write_text(json.dumps(provenance))
    return {"count": len(refined)}


def _source(lineage: frozenset[str], real: PairSet, seed: int) -> int:
    """Return the position of the real pair that a synthetic one was made from; one of them when there are many."""
    position = _positions(real)
    candidates = sorted(position[name] for name in lineage if name in position)
    return candidates[seed % len(candidates)] if candidates else seed % len(real)


def _positions(real: PairSet) -> dict[str, int]:
    return {name: i for i, name in enumerate(real.ids)}

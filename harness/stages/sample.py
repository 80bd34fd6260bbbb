"""The ``sample`` stage: a pool of synthetic pairs, of which recipes take the first n. ``select`` samples likewise."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.data.pairs import PairSet
from harness.errors import PluginError
from harness.fitting import recorded_checkpoints
from harness.plugins import Checkpoint, Generator, Sample
from harness.stages.running import RunningStage, item_seeds
from harness.store import Result

#: Pairs sampled between two reports of progress.
_CHUNK = 256


def run(stage: RunningStage) -> dict[str, Any]:
    """Sample the pool from the selected checkpoint, or the last one."""
    generator = stage.plugin("generators")
    fit = stage.result("fit")
    checkpoints = recorded_checkpoints(fit.folder)
    selected = stage.results("select")
    step = selected[0].values["step"] if selected else checkpoints[-1].step
    checkpoint = next(c for c in checkpoints if c.step == step)
    real = fitted_pairs(stage, fit)
    masks = PairSet.load(stage.result("masks").folder / "pairs") if stage.results("masks") else None
    seen_by_selection = frozenset(selected[0].values["seen"]) if selected else frozenset[str]()
    count = stage.parameters["count"]
    pool = sample_pairs(stage, generator, checkpoint, count, real, masks, seen_by_selection)
    pool.save(stage.folder / "pairs")
    stage.context.log_images("samples", step, pool.images[:25])
    stage.context.log_images("masks", step, np.repeat(pool.masks[:25, ..., None] * np.uint8(255), 3, axis=3))
    fitted = checkpoint.seen if checkpoint.seen is not None else real.seen()
    provenance = {"fitted": sorted(fitted), "selected": sorted(seen_by_selection)}
    if masks is not None:
        provenance["masks"] = sorted(masks.seen())
    (stage.folder / "provenance.json").write_text(json.dumps(provenance))
    _write_manifest(stage, pool, step, masks)
    empty = int((pool.masks.reshape(len(pool), -1).max(axis=1) == 0).sum())
    return {"count": len(pool), "checkpoint": step, "empty-masks": empty}


def fitted_pairs(stage: RunningStage, fit: Result) -> PairSet:
    """Return the real pairs that a fit was given."""
    parameters = fit.record["parts"]["parameters"]
    return stage.dataset.first(parameters["real"], parameters["order-seed"])


def sample_pairs(
    stage: RunningStage,
    generator: Generator,
    checkpoint: Checkpoint,
    count: int,
    real: PairSet,
    masks: PairSet | None,
    seen_by_selection: frozenset[str] = frozenset(),
) -> PairSet:
    """Sample ``count`` pairs and give each its id and lineage.

    The lineage of a pair is what its checkpoint has seen (or the fewer ids that the generator names as its sources),
    what the choice
    of the checkpoint has seen, and the lineage of the mask that conditioned it.

    Raises:
        PluginError: the generator returned something of the wrong shape, type or range, or names sources it was not
            given.
    """
    seeds = item_seeds(stage.seed, count)
    conditions = None if masks is None else masks.masks[np.arange(count) % len(masks)]
    context = stage.sample_context(real)
    parts: list[Sample] = []
    for start in range(0, count, _CHUNK):
        stop = min(count, start + _CHUNK)
        given = None if conditions is None else conditions[start:stop]
        part = generator.sample(checkpoint, seeds[start:stop], context, given)
        check_sample(generator.name, part, stop - start, real)
        parts.append(part)
        stage.context.progress(stop, count, "images")
    made = np.concatenate([part.masks for part in parts]) if conditions is None else np.asarray(conditions)
    whole = checkpoint.seen if checkpoint.seen is not None else real.seen()
    lineage: list[frozenset[str]] = []
    for part in parts:
        sources = part.sources or (None,) * len(part.masks)
        lineage += [whole if names is None else frozenset(names) for names in sources]
    if seen_by_selection:
        joined = {one: one | seen_by_selection for one in set(lineage)}
        lineage = [joined[one] for one in lineage]
    if masks is not None:
        lineage = [one | masks.lineage[i % len(masks)] for i, one in enumerate(lineage)]
    ids = tuple(f"{generator.name}/{i:06d}" for i in range(count))
    return PairSet(_pictures(parts, made), np.ascontiguousarray(made), ids, ids, tuple(lineage))


def _pictures(parts: list[Sample], masks: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the sampled images, or, from a generator of masks, the masks as grey pictures."""
    images = [part.images for part in parts]
    if any(image is None for image in images):
        return np.repeat(masks[..., None] * np.uint8(255), 3, axis=3)
    return np.concatenate([image for image in images if image is not None])


def check_sample(name: str, sample: Sample, count: int, real: PairSet) -> None:
    """Refuse what breaks the plugin contract.

    Raises:
        PluginError: says what was expected and what came.
    """
    shape = (count, *real.size)
    if sample.masks.shape != shape or sample.masks.dtype != np.uint8 or (sample.masks.size and sample.masks.max() > 1):
        raise PluginError(
            f"{name} must return masks as uint8 {shape} of 0 and 1, got {sample.masks.dtype} {sample.masks.shape} "
            f"up to {sample.masks.max() if sample.masks.size else 'nothing'}."
        )
    if sample.images is not None and (sample.images.shape != (*shape, 3) or sample.images.dtype != np.uint8):
        raise PluginError(
            f"{name} must return images as uint8 {(*shape, 3)}, got {sample.images.dtype} {sample.images.shape}."
        )
    if sample.sources is not None:
        if len(sample.sources) != count:
            raise PluginError(f"{name} must name the sources of {count} pairs, got {len(sample.sources)}.")
        strangers = sorted({source for sources in sample.sources for source in sources} - real.seen())
        if strangers:
            raise PluginError(f"{name} names {strangers[0]!r} as a source, which it was not given.")


def _write_manifest(stage: RunningStage, pool: PairSet, step: int, masks: PairSet | None) -> None:
    """Write how to make each pair again: its seed, the mask it was made for and the checkpoint."""
    seeds = item_seeds(stage.seed, len(pool))
    rows = [
        {
            "id": name,
            "seed": int(seeds[i]),
            "mask": None if masks is None else masks.ids[i % len(masks)],
        }
        for i, name in enumerate(pool.ids)
    ]
    manifest = {"fit": stage.result("fit").key, "checkpoint": step, "pairs": rows}
    (stage.folder / "manifest.json").write_text(json.dumps(manifest))

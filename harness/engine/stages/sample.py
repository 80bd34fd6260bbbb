"""The ``sample`` stage: a pool of synthetic pairs, of which recipes take the first n. ``select`` samples likewise."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.data.pairs import PairSet
from harness.engine.stages.running import RunningStage, pool_seeds, sampled_pairs, save_sources
from harness.errors import PluginError
from harness.learning.work_folder import recorded_checkpoints
from harness.metrics.fidelity import figure_data
from harness.plugins.contract import Checkpoint, Generator, Sample
from harness.store.results import Result

#: Pairs sampled between two reports of progress.
_CHUNK = 256
#: First masks of a pool that several images are made for beside the pool, and how many for each (paper A, Figure 5).
VARIED, VARIATIONS = 10, 5


def run(stage: RunningStage) -> dict[str, Any]:
    """Sample the pool from the selected checkpoint, or the last one."""
    generator = stage.plugin("generators")
    fit = stage.result("fit")
    checkpoints = recorded_checkpoints(fit.folder)
    selected = stage.results("select")
    step = selected[0].values["step"] if selected else checkpoints[-1].step
    checkpoint = next(c for c in checkpoints if c.step == step)
    real = sampled_pairs(generator, checkpoint, fitted_pairs(stage, fit))
    masks = PairSet.load(stage.result("masks").folder / "pairs") if stage.results("masks") else None
    seen_by_selection = frozenset(selected[0].values["seen"]) if selected else frozenset[str]()
    pool = sample_pairs(stage, generator, checkpoint, stage.parameters["count"], real, masks)
    if seen_by_selection:
        save_sources(stage.folder, pool.lineage)
        joined = {one: one | seen_by_selection for one in set(pool.lineage)}
        pool = replace(pool, lineage=tuple(joined[one] for one in pool.lineage))
    pool.save(stage.folder / "pairs")
    stage.context.log_images("samples", step, pool.images[:25])
    stage.context.log_images("masks", step, np.repeat(pool.masks[:25, ..., None] * np.uint8(255), 3, axis=3))
    if masks is not None:
        _keep_variations(stage, generator, checkpoint, real, masks)
    provenance = {"fitted": sorted(_seen(generator, checkpoint, real)), "selected": sorted(seen_by_selection)}
    if masks is not None:
        provenance["masks"] = sorted(masks.seen())
    (stage.folder / "provenance.json").write_text(json.dumps(provenance))
    _write_manifest(stage, pool, step, masks, pool_seeds(generator, checkpoint, real, stage.seed, len(pool)))
    empty = int((pool.masks.reshape(len(pool), -1).max(axis=1) == 0).sum())
    return {"count": len(pool), "checkpoint": step, "empty-masks": empty}


def fitted_pairs(stage: RunningStage, fit: Result) -> PairSet:
    """Return the real pairs that a fit was given; for a pool that is made from the first of them only, those."""
    given = fit.record["parts"]["parameters"]
    return stage.dataset.first(stage.parameters.get("real", given["real"]), given["order-seed"])


def _seen(generator: Generator, checkpoint: Checkpoint, real: PairSet) -> frozenset[str]:
    """Return what a pair owes something to that names no sources; of one model a pair, all that was sampled from."""
    return real.seen() if checkpoint.seen is None or generator.card.one_model_a_pair else checkpoint.seen


def sample_pairs(
    stage: RunningStage,
    generator: Generator,
    checkpoint: Checkpoint,
    count: int,
    real: PairSet,
    masks: PairSet | None,
) -> PairSet:
    """Sample ``count`` pairs and give each its id and lineage.

    The lineage of a pair is what its checkpoint has seen (or the fewer ids that the generator names as its sources),
    and the lineage of the mask that conditioned it. What the choice of the checkpoint has seen is not among it yet.

    Args:
        stage: at work; its seed is that of the pool.
        generator: to sample from.
        checkpoint: of the generator.
        count: how many.
        real: the pairs that it is given (:func:`harness.engine.stages.running.sampled_pairs`).
        masks: to make images for, as many for each as the stage says.

    Raises:
        PluginError: the generator returned something of the wrong shape, type or range, or names sources it was not
            given.
    """
    seeds = pool_seeds(generator, checkpoint, real, stage.seed, count)
    positions = mask_positions(stage, count)
    conditions = None if masks is None else masks.masks[positions]
    context = stage.sample_context(real)
    parts: list[Sample] = []
    for start in range(0, count, _CHUNK):
        stop = min(count, start + _CHUNK)
        given = None if conditions is None else conditions[start:stop]
        part = generator.sample(checkpoint, seeds[start:stop], context, given)
        check_sample(generator.name, part, stop - start, real)
        check_turn(generator, part, seeds[start:stop], real)
        parts.append(part)
        stage.context.progress(stop, count, "images")
    made = np.concatenate([part.masks for part in parts]) if conditions is None else np.asarray(conditions)
    whole = _seen(generator, checkpoint, real)
    lineage: list[frozenset[str]] = []
    for part in parts:
        sources = part.sources or (None,) * len(part.masks)
        lineage += [whole if names is None else frozenset(names) for names in sources]
    if masks is not None:
        lineage = [one | masks.lineage[position] for one, position in zip(lineage, positions, strict=True)]
    ids = tuple(f"{generator.name}/{i:06d}" for i in range(count))
    return PairSet(_pictures(parts, made), np.ascontiguousarray(made), ids, ids, tuple(lineage))


def mask_positions(stage: RunningStage, count: int) -> NDArray[np.intp]:
    """Return which mask of its pool each of ``count`` images is made for, (count,): the first n are the same for all
    counts."""
    return np.arange(count) // stage.parameters.get("images-per-mask", 1)


def _keep_variations(
    stage: RunningStage, generator: Generator, checkpoint: Checkpoint, real: PairSet, masks: PairSet
) -> None:
    """Make several images for each of the first masks that are not empty, by seeds of their own, and keep them beside
    the pool."""
    shown = masks.masks[masks.masks.any(axis=(1, 2))]
    few = (shown if len(shown) else masks.masks)[:VARIED]
    seeds = np.random.default_rng([stage.seed, 0xF165]).integers(0, 2**62, len(few) * VARIATIONS, np.int64)
    given = np.repeat(few, VARIATIONS, axis=0)
    made = generator.sample(checkpoint, seeds, stage.sample_context(real), given)
    check_sample(generator.name, made, len(seeds), real)
    images = _pictures([made], given)
    stage.context.log_images("variations", checkpoint.step, images)
    figure_data.save(
        stage.folder / "variations.npz",
        {
            "masks": np.asarray(few),
            "images": images.reshape(len(few), VARIATIONS, *images.shape[1:]),
            "seeds": seeds.reshape(len(few), VARIATIONS),
        },
    )


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


def check_turn(generator: Generator, sample: Sample, seeds: NDArray[np.int64], real: PairSet) -> None:
    """Refuse pairs of a generator of one model a pair that were not made from the real pair whose turn it was.

    Raises:
        PluginError: says which source was expected and what came.
    """
    if not generator.card.one_model_a_pair:
        return
    expected = [(real.ids[seed % len(real)],) for seed in seeds.tolist()]
    named = [tuple(names) for names in sample.sources] if sample.sources is not None else [()] * len(expected)
    for seed, wanted, got in zip(seeds.tolist(), expected, named, strict=True):
        if got != wanted:
            raise PluginError(
                f"{generator.name} has one model a pair, so with {len(real)} pairs seed {seed} must make one from "
                f"number {seed % len(real)} and name {wanted[0]!r} as its only source; got {', '.join(got) or 'none'}."
            )


def _write_manifest(
    stage: RunningStage, pool: PairSet, step: int, masks: PairSet | None, seeds: NDArray[np.int64]
) -> None:
    """Write how to make each pair again: its seed, the mask it was made for and the checkpoint."""
    positions = mask_positions(stage, len(pool))
    rows = [
        {
            "id": name,
            "seed": int(seeds[i]),
            "mask": None if masks is None else masks.ids[positions[i]],
        }
        for i, name in enumerate(pool.ids)
    ]
    manifest = {"fit": stage.result("fit").key, "checkpoint": step, "pairs": rows}
    if masks is not None:
        manifest["images-per-mask"] = stage.parameters.get("images-per-mask", 1)
    (stage.folder / "manifest.json").write_text(json.dumps(manifest))

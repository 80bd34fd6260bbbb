"""The ``fidelity`` stage: measures a pool of synthetic pairs, or real pairs of another role, against real ones."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.data.pairs import PairSet
from harness.engine.stages.running import RunningStage, load_pool
from harness.errors import HarnessError

if TYPE_CHECKING:
    from harness.metrics.fidelity.agreement import TrainedSegmenter
    from harness.metrics.fidelity.measure import Values


def run(stage: RunningStage) -> dict[str, Any]:
    """Measure by every metric the study names, and keep what the report's figures need.

    Of generators of masks alone, and of real pairs beside them, the masks are measured as grey pictures. Several sets
    of a pool are measured one by one. Copies are looked for in all of them at once, since a copy in any set is one, and
    figures show all of them.
    """
    from harness.metrics.fidelity import figure_data
    from harness.metrics.fidelity.measure import of_masks

    role = stage.parameters.get("real")
    pool = stage.dataset.role(role) if role else _pool(stage)
    if stage.parameters.get("of") == "masks":
        pool = of_masks(pool)
    count = stage.parameters.get("sets", 1)
    if stage.parameters["samples"] is not None:
        pool = pool.first(min(len(pool), count * stage.parameters["samples"]))
    size = len(pool) // count
    sets = [pool.take(range(i * size, (i + 1) * size)) for i in range(count)]
    reference = _reference(stage)
    names = list(stage.parameters["metrics"])
    measured: dict[str, Values] = {}
    for done, name in enumerate(names):
        stage.context.progress(done, len(names), "metrics")
        measured[name] = _over_sets(stage, name, reference, sets, pool, role)
    (stage.folder / "fidelity.json").write_text(json.dumps(measured, indent=1))
    if "memorisation" in names:
        _keep_closest(stage, _fitted(stage, role), pool)
    if {"mask-area", "sim"} & set(names) and len(reference):
        _keep_masks(stage, reference, pool)
    if "sim" in names and len(reference):
        figure_data.save(stage.folder / "closest-masks.npz", figure_data.closest_masks(reference, pool))
    for name in names:
        stage.context.log(0, **{name: float(measured[name][name])})
        # What belongs beside a sound number stands in the tables; a note is for what is out of the ordinary.
        if measured[name].get("notes") and (math.isnan(float(measured[name][name])) or measured[name].get("copies")):
            stage.context.note(f"{stage.spec['label'].removeprefix('measure ')}, {name}: {measured[name]['notes']}")
    return {"measured": measured}


def _pool(stage: RunningStage) -> PairSet:
    """Return the pool, each pair with what it was made from as its lineage: the choice of a checkpoint made none."""
    pairs, sources = load_pool(stage.result("pool").folder)
    return replace(pairs, lineage=sources)


def _reference(stage: RunningStage) -> PairSet:
    """Return the real pairs to measure against: of a role, or those that the pool's generator was fitted on.

    Raises:
        HarnessError: the role has too few.
    """
    against = stage.parameters["against"]
    if against == "seen":
        return _fitted(stage, None)
    reference = stage.dataset.role(against)
    if len(reference) < 2:
        raise HarnessError(f"The {against} role has fewer than 2 images to measure against.")
    return reference


def _over_sets(
    stage: RunningStage, name: str, reference: PairSet, sets: list[PairSet], pool: PairSet, role: str | None
) -> Values:
    """Measure each set by one metric, and say what that is of all of them; of a single set, what it is."""
    from harness.metrics.fidelity.sample_sets import over_sets

    values = [_measured(stage, name, reference, pairs, role) for pairs in sets]
    if len(sets) == 1:
        return values[0]
    together = _measured(stage, name, reference, pool, role) if name == "memorisation" else None
    return over_sets(name, values, together)


def _measured(stage: RunningStage, name: str, reference: PairSet, pairs: PairSet, role: str | None) -> Values:
    """Measure one set by one metric."""
    from harness.metrics.fidelity.measure import measure, too_few

    # Memorisation has a reference of its own, and says itself when that is too small.
    if lacking := too_few(name, pairs if name == "memorisation" else reference, pairs):
        return lacking
    if name == "memorisation":
        return _memorisation(stage, pairs, role)
    if name == "agreement":
        return _agreement(stage, reference, pairs)
    network = stage.spec["runtime"]["network"] or ""
    return measure([name], reference, pairs, device=stage.device, seed=stage.seed, network=network)[name]


def _provenance(stage: RunningStage) -> dict[str, list[str]]:
    """Return what the pool's generator has seen, by how."""
    found: dict[str, list[str]] = json.loads((stage.result("pool").folder / "provenance.json").read_text())
    return found


def _fitted(stage: RunningStage, role: str | None) -> PairSet:
    """Return the real pairs that the pool's generator was fitted on; of real images, those of the fit role."""
    fitted = stage.dataset.role("fit")
    if role is not None:
        return fitted
    names = set(_provenance(stage)["fitted"])
    return fitted.select([name for name in fitted.ids if name in names])


def _memorisation(stage: RunningStage, pool: PairSet, role: str | None) -> Values:
    """Compare the pool with the real pairs that made it, and those with held-out ones that nothing of it has seen."""
    from harness.metrics.fidelity.measure import measure

    fitted = _fitted(stage, role)
    seen = fitted.seen() | pool.seen()
    if role is None:
        seen = frozenset().union(*(frozenset(names) for names in _provenance(stage).values()))
    held_out = None
    for other in ("select", "report"):
        pairs = stage.dataset.role(other)
        unseen = [name for name in pairs.ids if name not in seen]
        if held_out is None and len(unseen) > 1:
            held_out = pairs.select(unseen)
    measured = measure(["memorisation"], fitted, pool, held_out=held_out, device=stage.device, seed=stage.seed)
    return measured["memorisation"]


def _agreement(stage: RunningStage, reference: PairSet, pool: PairSet) -> Values:
    """Ask the segmenter that was trained on the real pairs of the fit role what the images of the pool show."""
    from harness.metrics.fidelity.agreement import TrainedSegmenter
    from harness.metrics.fidelity.measure import measure

    trained, label = stage.result("train"), stage.spec["runtime"]["segmenter"]
    weights = trained.folder / trained.values["weights"]
    segmenter = TrainedSegmenter.load(stage.plugin("segmenters"), weights, stage.device, label)
    values = measure(["agreement"], reference, pool, device=stage.device, segmenter=segmenter)["agreement"]
    return values | _agreement_by_mask(stage, segmenter)


def _agreement_by_mask(stage: RunningStage, segmenter: TrainedSegmenter) -> Values:
    """Compare the images that were made for each of a few masks with it, where the pool has such; keep the means."""
    from harness.metrics.fidelity import figure_data
    from harness.metrics.fidelity.agreement import agreement

    found = stage.results("pool")
    path = found[0].folder / "variations.npz" if found else None
    if path is None or not path.is_file():
        return {}
    with np.load(path) as stored:
        masks, images = stored["masks"], stored["images"]
    predicted = segmenter.predict(images.reshape(-1, *images.shape[2:])).reshape(*images.shape[:2], *masks.shape[1:])
    means = [
        agreement(own, np.repeat(mask[None], len(own), axis=0)).value
        for own, mask in zip(predicted, masks, strict=True)
    ]
    figure_data.save(stage.folder / "agreement_by_mask.npz", {"agreement": np.array(means)})
    return {"agreement-lowest-mask": float(np.min(means))}


def _keep_closest(stage: RunningStage, fitted: PairSet, pool: PairSet) -> None:
    """Keep the pairs that lie closest, the synthetic image beside its nearest training image, if there are any."""
    if len(fitted) < 2:
        return
    from harness.metrics.fidelity import figure_data
    from harness.metrics.fidelity.measure import of_masks, shows_masks
    from harness.metrics.fidelity.memorisation import describe, nearest_neighbours

    if shows_masks(pool):
        fitted = of_masks(fitted)
    found = nearest_neighbours(describe(pool.images, cache=True), describe(fitted.images, cache=True))
    made, training = ((pairs.ids, lambda at, pairs=pairs: pairs.take(at).images) for pairs in (pool, fitted))
    closest = figure_data.closest(*found, made, training)
    figure_data.save(stage.folder / "closest.npz", closest)
    stage.context.log_images("closest", 0, np.concatenate([closest["synthetic"], closest["real"]], axis=2))


def _keep_masks(stage: RunningStage, reference: PairSet, pool: PairSet) -> None:
    """Keep polyp areas, and how the masks differ that were made from one real pair."""
    from harness.metrics.fidelity import figure_data

    figure_data.save(stage.folder / "areas.npz", figure_data.areas(reference.masks, pool.masks))
    by_id = dict(zip(reference.ids, reference.masks, strict=True))
    diversity = figure_data.diversity(by_id, pool.masks, pool.lineage)
    if diversity is not None:
        figure_data.save(stage.folder / "diversity.npz", diversity)

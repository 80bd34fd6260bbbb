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
from harness.metrics.spec import Sets

if TYPE_CHECKING:
    from harness.metrics.spec import FidelityMetric, Judge, Values


def run(stage: RunningStage) -> dict[str, Any]:
    """Measure by every metric the study names, and keep what the report's figures need.

    Of generators of masks alone, and of real pairs beside them, the masks are measured as grey pictures. Several sets
    of a pool are measured one by one. Copies are looked for in all of them at once, since a copy in any set is one, and
    figures show all of them.
    """
    from harness.metrics.fidelity.measure import evidence, of_masks
    from harness.metrics.spec import fidelity_metric

    role = stage.parameters.get("real")
    pool = stage.dataset.role(role) if role else _pool(stage)
    if stage.parameters.get("of") == "masks":
        pool = of_masks(pool)
    count = stage.parameters.get("sets", 1)
    if stage.parameters["samples"] is not None:
        pool = pool.first(min(len(pool), count * stage.parameters["samples"]))
    size = len(pool) // count
    compared = _compared(stage, pool, role)
    sets = [replace(compared, synthetic=pool.take(range(i * size, (i + 1) * size))) for i in range(count)]
    metrics = [fidelity_metric(name) for name in stage.parameters["metrics"]]
    measured: dict[str, Values] = {}
    for done, metric in enumerate(metrics):
        stage.context.progress(done, len(metrics), "metrics")
        measured[metric.name] = _over_sets(metric, sets, compared)
        if metric.needs_segmenter and compared.segmenter is not None:
            measured[metric.name] |= _agreement_by_mask(stage, compared.segmenter)
    (stage.folder / "fidelity.json").write_text(json.dumps(measured, indent=1))
    for name, arrays in evidence(metrics, compared).items():
        np.savez(stage.folder / f"{name}.npz", allow_pickle=False, **arrays)
        if name == "closest":
            pictures = np.concatenate([arrays["synthetic"], arrays["real"]], axis=2)
            stage.context.log_images("closest", 0, pictures)
    for name, values in measured.items():
        stage.context.log(0, **{name: float(values[name])})
        # What belongs beside a sound number stands in the tables; a note is for what is out of the ordinary.
        if values.get("notes") and (math.isnan(float(values[name])) or values.get("copies")):
            stage.context.note(f"{stage.spec['label'].removeprefix('measure ')}, {name}: {values['notes']}")
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


def _compared(stage: RunningStage, pool: PairSet, role: str | None) -> Sets:
    """Return what is compared: the pool, its reference, what its generator was fitted on, and what nothing of it has
    seen."""
    from harness.learning.judge import TrainedSegmenter

    judge = None
    if found := stage.results("train"):
        trained, label = found[0], stage.spec["runtime"]["segmenter"]
        weights = trained.folder / trained.values["weights"]
        judge = TrainedSegmenter.load(stage.plugin("segmenters"), weights, stage.device, label)
    fitted = _fitted(stage, role)
    held_out = _held_out(stage, pool, fitted, role)
    network = stage.spec["runtime"]["network"] or ""
    return Sets(_reference(stage), pool, stage.device, fitted, held_out, stage.seed, network, segmenter=judge)


def _over_sets(metric: FidelityMetric, sets: list[Sets], all_sets: Sets) -> Values:
    """Measure each set by one metric, and say what that is of all of them; of a single set, what it is."""
    from harness.metrics.fidelity.measure import measure
    from harness.metrics.fidelity.sample_sets import over_sets

    values = [measure([metric], one)[metric.name] for one in sets]
    if len(sets) == 1:
        return values[0]
    return over_sets(metric.name, values, measure([metric], all_sets)[metric.name] if metric.of_all_sets else None)


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


def _held_out(stage: RunningStage, pool: PairSet, fitted: PairSet, role: str | None) -> PairSet | None:
    """Return real pairs of a role that nothing of the pool has seen; None when there are none."""
    seen = fitted.seen() | pool.seen()
    if role is None:
        seen = frozenset().union(*(frozenset(names) for names in _provenance(stage).values()))
    for other in ("select", "report"):
        pairs = stage.dataset.role(other)
        unseen = [name for name in pairs.ids if name not in seen]
        if len(unseen) > 1:
            return pairs.select(unseen)
    return None


def _agreement_by_mask(stage: RunningStage, segmenter: Judge) -> Values:
    """Compare the images that were made for each of a few masks with it, where the pool has such; keep the means."""
    from harness.metrics.fidelity.agreement import agreement

    found = stage.results("pool")
    path = found[0].folder / "variations.npz" if found else None
    if path is None or not path.is_file():
        return {}
    with np.load(path) as stored:
        masks, images = stored["masks"], stored["images"]
    predicted = segmenter(images.reshape(-1, *images.shape[2:])).reshape(*images.shape[:2], *masks.shape[1:])
    means = [
        agreement(own, np.repeat(mask[None], len(own), axis=0)).value
        for own, mask in zip(predicted, masks, strict=True)
    ]
    np.savez(stage.folder / "agreement_by_mask.npz", allow_pickle=False, agreement=np.array(means))
    return {"agreement-lowest-mask": float(np.min(means))}

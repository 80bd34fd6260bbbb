"""The ``fidelity`` stage: measures a pool of synthetic pairs, or real pairs of another role, against real ones."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.data.pairs import PairSet
from harness.errors import HarnessError
from harness.stages.running import RunningStage

if TYPE_CHECKING:
    from harness.metrics.fidelity import Values


def run(stage: RunningStage) -> dict[str, Any]:
    """Measure by every metric the study names, and keep what the report's figures need."""
    from harness.metrics.fidelity import measure

    role = stage.parameters.get("real")
    pool = stage.dataset.role(role) if role else PairSet.load(stage.result("pool").folder / "pairs")
    if stage.parameters["samples"] is not None:
        pool = pool.first(min(len(pool), stage.parameters["samples"]))
    reference = stage.dataset.role(stage.parameters["against"])
    if len(reference) < 2:
        raise HarnessError(f"The {stage.parameters['against']} role has fewer than 2 images to measure against.")
    names = list(stage.parameters["metrics"])
    measured: dict[str, Values] = {}
    for done, name in enumerate(names):
        stage.context.progress(done, len(names), "metrics")
        if name == "memorisation":
            measured |= _memorisation(stage, pool, role)
            continue
        network = stage.spec["attachments"]["network"] or ""
        measured |= measure([name], reference, pool, device=stage.device, seed=stage.seed, network=network)
    (stage.folder / "fidelity.json").write_text(json.dumps(measured, indent=1))
    if {"mask-area", "sim"} & set(names):
        _keep_masks(stage, reference, pool)
    for name in names:
        stage.context.log(0, **{name: float(measured[name][name])})
        # What belongs beside a sound number stands in the tables; a note is for what is out of the ordinary.
        if measured[name].get("notes") and (math.isnan(float(measured[name][name])) or measured[name].get("copies")):
            stage.context.note(f"{stage.spec['label'].removeprefix('measure ')}, {name}: {measured[name]['notes']}")
    return {"measured": measured}


def _memorisation(stage: RunningStage, pool: PairSet, role: str | None) -> dict[str, Values]:
    """Compare the pool with the real pairs that made it, and those with held-out ones that nothing of it has seen."""
    from harness.metrics.fidelity import measure

    fitted = stage.dataset.role("fit")
    seen = fitted.seen() | pool.seen()
    if role is None:
        provenance = json.loads((stage.result("pool").folder / "provenance.json").read_text())
        fitted = fitted.select([name for name in fitted.ids if name in set(provenance["fitted"])])
        seen = frozenset().union(*(frozenset(names) for names in provenance.values()))
    held_out = None
    for other in ("select", "report"):
        pairs = stage.dataset.role(other)
        unseen = [name for name in pairs.ids if name not in seen]
        if held_out is None and len(unseen) > 1:
            held_out = pairs.select(unseen)
    measured = measure(["memorisation"], fitted, pool, held_out=held_out, device=stage.device, seed=stage.seed)
    if len(fitted) > 1:
        _keep_closest(stage, fitted, pool)
    return measured


def _keep_closest(stage: RunningStage, fitted: PairSet, pool: PairSet) -> None:
    """Keep the pairs that lie closest, the synthetic image beside its nearest training image."""
    from harness.metrics import evidence
    from harness.metrics.memorisation import describe, nearest_neighbours

    found = nearest_neighbours(describe(pool.images, keep=True), describe(fitted.images, keep=True))
    made, training = ((pairs.ids, lambda at, pairs=pairs: pairs.take(at).images) for pairs in (pool, fitted))
    closest = evidence.closest(*found, made, training)
    evidence.save(stage.folder / "closest.npz", closest)
    stage.context.log_images("closest", 0, np.concatenate([closest["synthetic"], closest["real"]], axis=2))


def _keep_masks(stage: RunningStage, reference: PairSet, pool: PairSet) -> None:
    """Keep polyp areas, and how the masks differ that were made from one real pair."""
    from harness.metrics import evidence

    evidence.save(stage.folder / "areas.npz", evidence.areas(reference.masks, pool.masks))
    by_id = dict(zip(reference.ids, reference.masks, strict=True))
    diversity = evidence.diversity(by_id, pool.masks, pool.lineage)
    if diversity is not None:
        evidence.save(stage.folder / "diversity.npz", diversity)

"""The ``fidelity`` stage: measures a pool of synthetic pairs against real ones."""

from __future__ import annotations

import json
from typing import Any

from harness.data.pairs import PairSet
from harness.errors import HarnessError
from harness.stages.running import RunningStage


def _memorisation(stage: RunningStage, pool: PairSet) -> dict[str, Any]:
    """Compare the pool with the real pairs that made it, and those with held-out ones that nothing of it has seen."""
    from harness.metrics.fidelity import measure

    provenance = json.loads((stage.result("pool").folder / "provenance.json").read_text())
    fitted = stage.dataset.role("fit")
    fitted = fitted.select([name for name in fitted.ids if name in set(provenance["fitted"])])
    seen = frozenset().union(*(frozenset(names) for names in provenance.values()))
    held_out = None
    for role in ("select", "report"):
        pairs = stage.dataset.role(role)
        unseen = [name for name in pairs.ids if name not in seen]
        if held_out is None and len(unseen) > 1:
            held_out = pairs.select(unseen)
    return measure(["memorisation"], fitted, pool, held_out=held_out, device=stage.device, seed=stage.seed)


def run(stage: RunningStage) -> dict[str, Any]:
    """Measure the pool by every metric the study names."""
    from harness.metrics.fidelity import measure

    pool = PairSet.load(stage.result("pool").folder / "pairs")
    if stage.parameters["samples"] is not None:
        pool = pool.first(min(len(pool), stage.parameters["samples"]))
    reference = stage.dataset.role(stage.parameters["against"])
    if len(reference) < 2:
        raise HarnessError(f"The {stage.parameters['against']} role has fewer than 2 images to measure against.")
    names = stage.parameters["metrics"]
    others = [name for name in names if name != "memorisation"]
    measured = measure(others, reference, pool, held_out=None, device=stage.device, seed=stage.seed)
    if "memorisation" in names:
        measured |= _memorisation(stage, pool)
    (stage.folder / "fidelity.json").write_text(json.dumps(measured, indent=1))
    for name in names:
        stage.context.log(0, **{name: float(measured[name][name])})
        if measured[name].get("notes"):
            stage.context.note(f"{stage.spec['label'].removeprefix('measure ')}, {name}: {measured[name]['notes']}")
    return {"measured": measured}

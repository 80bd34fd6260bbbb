"""The ``fidelity`` stage: measures a pool of synthetic pairs against real ones."""

from __future__ import annotations

import json
from typing import Any

from harness.data.pairs import PairSet
from harness.errors import HarnessError
from harness.stages.running import RunningStage


def run(stage: RunningStage) -> dict[str, Any]:
    """Measure the pool by every metric the study names."""
    from harness.metrics.fidelity import measure

    pool = PairSet.load(stage.result("pool").folder / "pairs")
    if stage.parameters["samples"] is not None:
        pool = pool.first(min(len(pool), stage.parameters["samples"]))
    reference = stage.dataset.role(stage.parameters["against"])
    if len(reference) < 2:
        raise HarnessError(f"The {stage.parameters['against']} role has fewer than 2 images to measure against.")
    held_out = next((pairs for role in ("select", "report") if len(pairs := stage.dataset.role(role)) > 1), None)
    names = stage.parameters["metrics"]
    measured = measure(names, reference, pool, held_out=held_out, device=stage.device, seed=stage.seed)
    (stage.folder / "fidelity.json").write_text(json.dumps(measured, indent=1))
    for name in names:
        stage.context.log(0, **{name: float(measured[name][name])})
    return {"measured": measured}

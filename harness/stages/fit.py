"""The ``fit`` stage: trains a generator on real pairs of the fit role."""

from __future__ import annotations

from typing import Any

from harness.fitting import run_fit
from harness.stages.running import RunningStage


def run(stage: RunningStage) -> dict[str, Any]:
    """Fit the generator, or take a killed fit up where it was."""
    from harness.errors import HarnessError

    generator = stage.plugin("generators")
    pairs = stage.dataset.first(stage.parameters["real"], stage.parameters["order-seed"])
    if len(pairs) < generator.card.minimum:
        raise HarnessError(f"{generator.name} needs at least {generator.card.minimum} real pairs, got {len(pairs)}.")
    checkpoints = run_fit(generator, pairs, stage.context)
    return {"real": len(pairs), "checkpoints": [checkpoint.step for checkpoint in checkpoints]}

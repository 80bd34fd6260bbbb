"""The ``fit`` stage: trains a generator on real pairs of the fit role, and has its checkpoints scored as they come."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.engine.stages.running import RunningStage
from harness.engine.stages.select import score_ahead
from harness.learning.work_folder import run_fit

if TYPE_CHECKING:
    from harness.plugins.contract import Checkpoint


def run(stage: RunningStage) -> dict[str, Any]:
    """Fit the generator, or take a killed fit up where it was."""
    from harness.errors import HarnessError

    generator = stage.plugin("generators")
    pairs = stage.dataset.first(stage.parameters["real"], stage.parameters["order-seed"])
    if len(pairs) < generator.card.minimum:
        raise HarnessError(f"{generator.name} needs at least {generator.card.minimum} real pairs, got {len(pairs)}.")
    stage.context.geometry = stage.dataset.source["geometry"]
    ahead = True

    def score(checkpoint: Checkpoint) -> None:
        nonlocal ahead
        ahead = ahead and score_ahead(stage, checkpoint, pairs)

    checkpoints = run_fit(generator, pairs, stage.context, score)
    return {"real": len(pairs), "checkpoints": [checkpoint.step for checkpoint in checkpoints]}

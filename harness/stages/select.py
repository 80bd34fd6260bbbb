"""The ``select`` stage: samples from every checkpoint of a fit, measures the samples, and names the best one."""

from __future__ import annotations

import json
import math
from typing import Any

from harness.data.pairs import PairSet
from harness.errors import HarnessError
from harness.fitting import recorded_checkpoints
from harness.stages.running import RunningStage
from harness.stages.sample import fitted_pairs, sample_pairs


def run(stage: RunningStage) -> dict[str, Any]:
    """Score the checkpoints and choose.

    Selection only ever sees the fit or the select role; their ids join the lineage of everything the checkpoint makes.
    """
    from harness.metrics.fidelity import FIDELITY, measure

    generator = stage.plugin("generators")
    fit = stage.result("fit")
    wanted = stage.parameters["among"]
    checkpoints = [c for c in recorded_checkpoints(fit.folder) if wanted is None or c.step in wanted]
    if not checkpoints:
        steps = [c.step for c in recorded_checkpoints(fit.folder)]
        raise HarnessError(f"None of the steps {wanted} in select.among is a checkpoint of the fit; it has {steps}.")
    real = fitted_pairs(stage, fit)
    reference = real if stage.parameters["against"] == "fit" else stage.dataset.role("select")
    if len(reference) < 2:
        raise HarnessError("The select role has fewer than 2 images to select against; choose select.against: fit.")
    masks = PairSet.load(stage.result("masks").folder / "pairs") if stage.results("masks") else None
    metrics = [name for name in (stage.parameters["by"], stage.parameters["then"]) if name]
    rows: list[dict[str, Any]] = []
    for done, checkpoint in enumerate(checkpoints):
        stage.context.progress(done, len(checkpoints), "checkpoints")
        samples = sample_pairs(stage, generator, checkpoint, stage.parameters["samples"], real, masks)
        measured = measure(
            metrics,
            _as_reference(reference, generator.card.makes),
            samples,
            held_out=None,
            device=stage.device,
            seed=stage.seed,
        )
        row = {"step": checkpoint.step, **{name: float(measured[name][name]) for name in metrics}}
        row["constant"] = bool(samples.images.min() == samples.images.max())
        rows.append(row)
        stage.context.log(checkpoint.step, **{name: row[name] for name in metrics})
        stage.context.log_images("samples", checkpoint.step, samples.images[:25])
    best = choose(rows, metrics, [FIDELITY[name].lower_is_better for name in metrics])
    (stage.folder / "selection.json").write_text(json.dumps({"rows": rows, "step": best}))
    if len(rows) > 1 and sum(row[metrics[0]] == rows_value(rows, best, metrics[0]) for row in rows) > 1:
        stage.context.note(f"Several checkpoints of {generator.name} tie by {metrics[0]}.")
    return {
        "step": best,
        "rows": rows,
        "seen": sorted(reference.seen()),
        "network": measured[metrics[0]].get("network", ""),
    }


def _as_reference(reference: PairSet, makes: str) -> PairSet:
    """Return the reference as the generator would show it: masks as grey pictures for a generator of masks."""
    if makes != "masks":
        return reference
    import numpy as np

    pictures = np.repeat(reference.masks[..., None] * np.uint8(255), 3, axis=3)
    return PairSet(pictures, reference.masks, reference.ids, reference.groups, reference.lineage)


def rows_value(rows: list[dict[str, Any]], step: int, metric: str) -> float:
    """Return what the checkpoint at ``step`` scored."""
    return next(float(row[metric]) for row in rows if row["step"] == step)


def choose(rows: list[dict[str, Any]], metrics: list[str], lower_is_better: list[bool]) -> int:
    """Return the step of the best row: by the first metric, ties by the next, then the earliest step.

    A checkpoint whose samples are constant, or whose score is not a number, is never chosen.

    Raises:
        HarnessError: no checkpoint can be chosen.
    """
    sound = [row for row in rows if not row["constant"] and all(math.isfinite(row[name]) for name in metrics)]
    if not sound:
        raise HarnessError(
            f"No checkpoint can be chosen by {metrics[0]}: all {len(rows)} gave constant samples or no finite score."
        )
    signs = [1.0 if lower else -1.0 for lower in lower_is_better]
    best = min(sound, key=lambda row: (*(s * row[m] for s, m in zip(signs, metrics, strict=True)), row["step"]))
    return int(best["step"])

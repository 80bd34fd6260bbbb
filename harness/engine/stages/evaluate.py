"""The ``evaluate`` stage: scores a trained segmenter on one role, behind the leak guard."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from harness.engine.leak_guard import describe, find_leaks
from harness.engine.stages.running import RealPairs, RunningStage
from harness.errors import HarnessError, LeakError


def run(stage: RunningStage) -> dict[str, Any]:
    """Check for leaks, predict, count pixels, score.

    Raises:
        LeakError: something scored was seen, and the protocol is clean.
    """
    from harness.learning.predict import predict
    from harness.metrics.segmentation.scores import confusion, per_image_scores, segmentation_scores

    trained = stage.result("train")
    place = RealPairs(stage.result("scored"))
    scored = place.role(stage.parameters["role"])
    if not len(scored):
        raise HarnessError(f"The {stage.parameters['role']} role of {place.name} has no images to score on.")
    leaks = find_leaks(
        json.loads((trained.folder / "seen.json").read_text()),
        scored.ids,
        {**stage.dataset.groups, **place.groups},
        place.frames_shared_with(stage.dataset),
    )
    # Scores on the fit and select roles show how far training and selection are optimistic: allowed, and marked.
    if leaks and stage.parameters["protocol"] == "clean" and stage.parameters["role"] == "report":
        raise LeakError(describe(leaks))
    segmenter = stage.plugin("segmenters")
    weights = trained.folder / trained.values["weights"]
    predicted = predict(segmenter, weights, scored.images, stage.device)
    zero_division = float(stage.parameters["zero-division"])
    counts = confusion(predicted, scored.masks)
    table = {"ids": scored.ids, "groups": scored.groups, "counts": counts.tolist()}
    table["scores"] = {name: values.tolist() for name, values in per_image_scores(counts, zero_division).items()}
    (stage.folder / "images.json").write_text(json.dumps(table))
    np.save(stage.folder / "predictions.npy", np.packbits(predicted, axis=None))
    scores = segmentation_scores(counts, zero_division)
    stage.context.log(
        trained.values["steps"], **{f"{m} {r}": value for m, values in scores.items() for r, value in values.items()}
    )
    _log_pictures(stage, scored, predicted)
    hows = sorted({leak.how for leak in leaks})
    return {
        "scores": scores,
        "images": len(scored),
        "shape": list(predicted.shape),
        "leak": f"{len(leaks)} of {len(scored)} scored images: {'; '.join(hows)}" if leaks else "",
    }


def _log_pictures(stage: RunningStage, scored: Any, predicted: Any) -> None:
    """Log predictions over ground truth on the first few images."""
    from harness.data.overlay import overlay

    few = slice(0, stage.spec["runtime"]["pictures"])
    if stage.spec["runtime"]["pictures"]:
        pictures = overlay(np.asarray(scored.images[few]), np.asarray(scored.masks[few]), predicted[few])
        stage.context.log_images("predictions", 0, pictures)

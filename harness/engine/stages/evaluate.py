"""The ``evaluate`` stage: scores a trained segmenter on one role, behind the leak guard."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from harness.engine.leak_guard import describe, find_leaks
from harness.engine.stages.running import RealPairs, RunningStage
from harness.errors import HarnessError, LeakError


def run(stage: RunningStage) -> dict[str, Any]:
    """Check for leaks, predict, score.

    Raises:
        LeakError: something scored was seen, and the protocol is clean.
    """
    from harness.learning.predict import predict
    from harness.metrics.fidelity.masks import areas
    from harness.metrics.segmentation.boundary import in_pixels
    from harness.metrics.segmentation.mask_batch import MaskBatch
    from harness.metrics.segmentation.scores import SIZES, fractions, reduce_all, size_limits, sizes
    from harness.metrics.spec import segmentation_metric

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
    metrics = [segmentation_metric(name) for name in stage.parameters["metrics"]]
    tolerance = in_pixels(float(stage.parameters["tolerance"]), scored.size)
    found = fractions(MaskBatch(predicted, np.asarray(scored.masks), tolerance), metrics)
    limits = size_limits(areas(stage.dataset.role("fit").masks))
    polyps = sizes(areas(scored.masks), limits)
    parts = {name: [part.tolist() for part in fraction] for name, fraction in found.items()}
    table = {"ids": scored.ids, "groups": scored.groups, "sizes": polyps, "fractions": parts}
    (stage.folder / "images.json").write_text(json.dumps(table))
    np.save(stage.folder / "predictions.npy", np.packbits(predicted, axis=None))
    scores = reduce_all(metrics, found, float(stage.parameters["zero-division"]), polyps)
    stage.context.log(
        trained.values["steps"], **{f"{m} {r}": value for m, values in scores.items() for r, value in values.items()}
    )
    _log_pictures(stage, scored, predicted)
    hows = sorted({leak.how for leak in leaks})
    return {
        "scores": scores,
        "images": len(scored),
        "sizes": {size: polyps.count(size) for size in SIZES},
        "size-limits": [round(limit, 4) for limit in limits],
        "shape": list(predicted.shape),
        "leak": f"{len(leaks)} of {len(scored)} scored images: {'; '.join(hows)}" if leaks else "",
    }


def _log_pictures(stage: RunningStage, scored: Any, predicted: Any) -> None:
    """Log predictions over ground truth on the first few images."""
    from harness.learning.overlay import overlay

    few = slice(0, stage.spec["runtime"]["pictures"])
    if stage.spec["runtime"]["pictures"]:
        pictures = overlay(np.asarray(scored.images[few]), np.asarray(scored.masks[few]), predicted[few])
        stage.context.log_images("predictions", 0, pictures)

"""The ``trivial`` stage: what predictions score that look at no image; a segmenter that learned is above them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from harness.engine.graph import Plan
from harness.engine.kind import StageKind
from harness.engine.stages.running import RunningStage
from harness.errors import HarnessError
from harness.metrics.spec import code_of_extensions, scored_metrics
from harness.store.results import Result

if TYPE_CHECKING:
    from harness.engine.stages.dataset import RealPairs

#: The predictions, as results and reports call them.
ALL, NONE, MEAN = PREDICTIONS = ("all polyp", "none", "mean mask")


@dataclass(frozen=True)
class TrivialResult:
    """What predictions score that are the same for every image.

    Attributes:
        scores: prediction (:data:`PREDICTIONS`) -> metric -> reduction -> number, None where there is none.
        images: how many were scored.
        sizes: how many of them show a polyp of each size.
        threshold: of the mean mask, 0 to 1: its pixels from there on are predicted to be polyp.
    """

    scores: dict[str, dict[str, dict[str, float | None]]]
    images: int
    sizes: dict[str, int]
    threshold: float


class TrivialStage(StageKind[TrivialResult]):
    """Scores predictions that look at no image."""

    name: ClassVar[str] = "trivial"

    @classmethod
    def add(cls, plan: Plan, label: str, *, dataset: str, scored: str, role: str) -> str:
        """Add the scores of the trivial predictions to a plan; return their key.

        Args:
            plan: to add to.
            label: what they are scored on.
            dataset: key of the dataset whose fit role the mean mask is of.
            scored: key of the dataset that they are scored on.
            role: whose images of that are scored.
        """
        evaluate = plan.loaded.study.evaluate
        metrics = [metric.name for metric in scored_metrics(evaluate.metrics)]
        parameters = {
            "role": role,
            "zero-division": evaluate.zero_division,
            "metrics": metrics,
            "tolerance": evaluate.tolerance,
        }
        inputs = {"dataset": (dataset,), "scored": (scored,)}
        return plan.add(cls, f"score trivial predictions {label}", parameters, inputs, code=code_of_extensions(metrics))

    @classmethod
    def run(cls, stage: RunningStage) -> dict[str, Any]:
        """Score each prediction as segmenters are scored.

        Raises:
            HarnessError: the role has no images.
        """
        from harness.metrics.fidelity.masks import areas
        from harness.metrics.segmentation.boundary import in_pixels
        from harness.metrics.segmentation.mask_batch import MaskBatch
        from harness.metrics.segmentation.scores import SIZES, fractions, reduce_all, size_limits, sizes
        from harness.metrics.spec import segmentation_metric

        place: RealPairs = stage.input("scored")
        truth = np.asarray(place.role(stage.parameters["role"]).masks)
        if not len(truth):
            raise HarnessError(f"The {stage.parameters['role']} role of {place.name} has no images to score on.")
        fit = np.asarray(stage.dataset.role("fit").masks)
        mean, threshold = mean_mask(fit)
        masks = {ALL: np.ones_like(mean), NONE: np.zeros_like(mean), MEAN: mean}
        metrics = [segmentation_metric(name) for name in stage.parameters["metrics"]]
        tolerance = in_pixels(float(stage.parameters["tolerance"]), truth.shape[1:])
        polyps = sizes(areas(truth), size_limits(areas(fit)))
        scores = {}
        for name, mask in masks.items():
            predicted = np.repeat(mask[None], len(truth), axis=0)
            found = fractions(MaskBatch(predicted, truth, tolerance), metrics)
            scores[name] = reduce_all(metrics, found, float(stage.parameters["zero-division"]), polyps)
        counts = {size: polyps.count(size) for size in SIZES}
        return {"scores": scores, "images": len(truth), "sizes": counts, "threshold": threshold}

    @classmethod
    def read(cls, result: Result) -> TrivialResult:
        """Open the scores."""
        values = result.values
        return TrivialResult(values["scores"], values["images"], values["sizes"], values["threshold"])


def mean_mask(masks: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], float]:
    """Return the mean of some masks, cut where it agrees best with them.

    Args:
        masks: uint8 (N, H, W) in {0, 1}.

    Returns:
        A mask, uint8 (H, W) in {0, 1}: the pixels that are polyp in at least a share of the masks; and that share, the
        one of all with the highest mean IoU, the lowest of several. Without any mask, no pixel, and 1.
    """
    if not len(masks):
        return np.zeros(masks.shape[1:], np.uint8), 1.0
    mean = masks.mean(axis=0, dtype=np.float64)
    shares, places = np.unique(mean, return_inverse=True)
    places = places.reshape(mean.shape)

    def at_least(where: NDArray[np.intp]) -> NDArray[np.intp]:
        """Count the pixels whose share is at least each of ``shares``."""
        return np.bincount(where, minlength=len(shares))[::-1].cumsum()[::-1]

    predicted, agreement = at_least(places.ravel()), np.zeros(len(shares))
    for mask in masks.astype(bool):
        shared = at_least(places[mask])
        agreement += shared / (predicted + mask.sum() - shared)
    threshold = shares[agreement.argmax()]
    return (mean >= threshold).astype(np.uint8), float(threshold)

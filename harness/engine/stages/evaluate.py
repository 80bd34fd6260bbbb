"""The ``evaluate`` stage: scores a trained segmenter on one role, behind the leak guard."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from harness.data import duplicates
from harness.engine.graph import Plan
from harness.engine.kind import StageKind
from harness.engine.leak_guard import describe, find_leaks
from harness.engine.stages.running import RunningStage
from harness.errors import HarnessError, LeakError
from harness.metrics.spec import code_of_extensions, scored_metrics
from harness.plugins.registry import load_plugin
from harness.store.results import Result
from harness.study.schema import SegmenterUse

if TYPE_CHECKING:
    from harness.data.pairs import PairSet
    from harness.engine.stages.dataset import RealPairs
    from harness.engine.stages.train import TrainResult

_IMAGES, _PREDICTIONS = "images.json", "predictions.npy"


@dataclass(frozen=True)
class EvaluateResult:
    """What a trained segmenter scored.

    Attributes:
        folder: of the result.
        scores: metric -> reduction -> number.
        images: how many were scored.
        sizes: how many of them show a polyp of each size.
        size_limits: areas that part the polyps of the fit role into thirds, as shares of the frame.
        shape: of the predictions, (N, H, W).
        leak: what was seen that should not have been, or empty.
        constant: whether one and the same mask was predicted for all of several images; None where that is not known.
    """

    folder: Path
    scores: dict[str, dict[str, float]]
    images: int
    sizes: dict[str, int]
    size_limits: tuple[float, ...]
    shape: tuple[int, ...]
    leak: str
    constant: bool | None

    @cached_property
    def per_image(self) -> dict[str, Any]:
        """Image by image ``ids``, ``groups``, ``sizes``, and ``fractions``: numerators and denominators by metric."""
        return dict(json.loads((self.folder / _IMAGES).read_text()))

    def predictions(self) -> NDArray[np.uint8]:
        """Return the predicted masks, uint8 (N, H, W) in {0, 1}."""
        packed = np.load(self.folder / _PREDICTIONS)
        return np.unpackbits(packed, count=int(np.prod(self.shape))).reshape(self.shape)


class EvaluateStage(StageKind[EvaluateResult]):
    """Scores a segmenter."""

    name: ClassVar[str] = "evaluate"
    version: ClassVar[int] = 3
    comparable: ClassVar[bool] = True
    learning: ClassVar[tuple[str, ...]] = ("harness.learning.predict",)

    @classmethod
    def add(cls, plan: Plan, use: SegmenterUse, label: str, train: str, *, dataset: str, scored: str, role: str) -> str:
        """Add the scores of one training to a plan; return their key.

        Args:
            plan: to add to.
            use: the segmenter.
            label: of the cell, and what it is scored on.
            train: key of the training.
            dataset: key of the dataset that it was trained on.
            scored: key of the dataset that it is scored on.
            role: whose images of that are scored.
        """
        study = plan.loaded.study
        plugin = load_plugin("segmenters", use.plugin).create(**use.values())
        metrics = [metric.name for metric in scored_metrics(study.evaluate.metrics)]
        parameters = {
            "role": role,
            "zero-division": study.evaluate.zero_division,
            "protocol": study.protocol,
            "metrics": metrics,
            "tolerance": study.evaluate.tolerance,
        }
        if scored != dataset:
            # Whether a frame of another dataset was seen depends on how near-duplicates are found.
            parameters["near-duplicates"] = duplicates.VERSION
        return plan.add(
            cls,
            f"evaluate {label}",
            parameters,
            {"dataset": (dataset,), "scored": (scored,), "train": (train,)},
            plugin=plugin,
            use=use,
            runtime={"pictures": study.report.predictions},
            code=code_of_extensions(metrics),
            work=use.name or plugin.label,
        )

    @classmethod
    def run(cls, stage: RunningStage) -> dict[str, Any]:
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

        trained: TrainResult = stage.input("train")
        place: RealPairs = stage.input("scored")
        scored = place.role(stage.parameters["role"])
        if not len(scored):
            raise HarnessError(f"The {stage.parameters['role']} role of {place.name} has no images to score on.")
        leaks = find_leaks(
            trained.seen,
            scored.ids,
            {**stage.dataset.groups, **place.groups},
            place.frames_shared_with(stage.dataset),
            {**stage.dataset.made_from, **place.made_from},
        )
        # Scores on the fit and select roles show how far training and selection are optimistic: allowed, and marked.
        if leaks and stage.parameters["protocol"] == "clean" and stage.parameters["role"] == "report":
            raise LeakError(describe(leaks))
        predicted = predict(stage.plugin("segmenters"), trained.weights, scored.images, stage.device)
        metrics = [segmentation_metric(name) for name in stage.parameters["metrics"]]
        tolerance = in_pixels(float(stage.parameters["tolerance"]), scored.size)
        found = fractions(MaskBatch(predicted, np.asarray(scored.masks), tolerance), metrics)
        limits = size_limits(areas(stage.dataset.role("fit").masks))
        polyps = sizes(areas(scored.masks), limits)
        parts = {name: [part.tolist() for part in fraction] for name, fraction in found.items()}
        table = {"ids": scored.ids, "groups": scored.groups, "sizes": polyps, "fractions": parts}
        (stage.folder / _IMAGES).write_text(json.dumps(table))
        np.save(stage.folder / _PREDICTIONS, np.packbits(predicted, axis=None))
        scores = reduce_all(metrics, found, float(stage.parameters["zero-division"]), polyps)
        logged = {f"{m} {r}": value for m, values in scores.items() for r, value in values.items()}
        stage.context.log(trained.steps, **logged)
        _log_pictures(stage, scored, predicted)
        hows = sorted({leak.how for leak in leaks})
        return {
            "scores": scores,
            "images": len(scored),
            "sizes": {size: polyps.count(size) for size in SIZES},
            "size-limits": [round(limit, 4) for limit in limits],
            "shape": list(predicted.shape),
            "leak": f"{len(leaks)} of {len(scored)} scored images: {'; '.join(hows)}" if leaks else "",
            "constant": len(predicted) > 1 and bool((predicted == predicted[:1]).all()),
        }

    @classmethod
    def read(cls, result: Result) -> EvaluateResult:
        """Open the scores."""
        values = result.values
        return EvaluateResult(
            result.folder,
            values["scores"],
            values["images"],
            values["sizes"],
            tuple(values["size-limits"]),
            tuple(values["shape"]),
            values["leak"],
            values.get("constant"),
        )

    @classmethod
    def files(cls, result: Result) -> list[Path]:
        """Return the files of the images' scores and of the predictions."""
        return [result.folder / name for name in (_IMAGES, _PREDICTIONS)]


def _log_pictures(stage: RunningStage, scored: PairSet, predicted: NDArray[np.uint8]) -> None:
    """Log predictions over ground truth on the first few images."""
    from harness.data.overlay import overlay

    few = slice(0, stage.runtime["pictures"])
    if stage.runtime["pictures"]:
        pictures = overlay(np.asarray(scored.images[few]), np.asarray(scored.masks[few]), predicted[few])
        stage.context.log_images("predictions", 0, pictures)

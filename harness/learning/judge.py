"""A segmenter trained on real pairs for a measurement alone: the judge that agreement asks outside a study."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from harness.errors import DataError
from harness.learning.predict import predict

if TYPE_CHECKING:
    import torch

    from harness.data.pairs import PairSet
    from harness.learning.train_segmenter import TrainOutcome
    from harness.learning.work_folder import ProgressCallback
    from harness.plugins.contract import Segmenter

#: Shares of the real pairs that choose the checkpoint, and that show how far agreement can go.
_SELECT, _CEILING = 0.1, 0.2


@dataclass(frozen=True)
class TrainedSegmenter:
    """A segmenter that has learned from real pairs, to call.

    Attributes:
        label: as in tables, such as ``unet``.
        predict: maps images uint8 (N, H, W, 3) to masks uint8 (N, H, W) in {0, 1}, each from its image alone.
    """

    label: str
    predict: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Predict masks."""
        return self.predict(images)

    @classmethod
    def load(cls, segmenter: Segmenter, weights: Path, device: torch.device, label: str = "") -> TrainedSegmenter:
        """Take a segmenter as it is evaluated (:func:`harness.learning.predict.predict`).

        Args:
            segmenter: the plugin, with the parameters that it was trained with.
            weights: the safetensors file that training left; read at each prediction.
            device: where to predict.
            label: its own when left out.
        """
        return cls(label or segmenter.label, lambda images: predict(segmenter, weights, images, device))


@dataclass(frozen=True)
class Training:
    """A segmenter that was trained for this measurement alone, outside a study.

    Attributes:
        segmenter: ready to predict.
        trained_on: how many real pairs it learned from.
        outcome: how the training went.
        held_out: real pairs that it has not seen: what they score is the ceiling.
    """

    segmenter: TrainedSegmenter
    trained_on: int
    outcome: TrainOutcome
    held_out: PairSet


def train_on(
    real: PairSet,
    segmenter: Segmenter,
    *,
    steps: int,
    seed: int,
    device: torch.device,
    folder: Path,
    progress: ProgressCallback | None = None,
) -> Training:
    """Train a segmenter on seven tenths of real pairs, choose its checkpoint on one, and hold two out.

    Args:
        real: whole groups of it go to one part.
        segmenter: what to train.
        steps: optimiser steps.
        seed: of the parts and of the training.
        device: where to train and predict.
        folder: for the weights; they are read there at each prediction.
        progress: receives steps done, all steps, and the unit.

    Raises:
        DataError: there are fewer than ten groups.
    """
    from harness.learning.train_segmenter import train_segmenter
    from harness.learning.work_folder import WorkFolder

    groups = np.array(sorted(set(real.groups)))
    if len(groups) < 10:
        raise DataError(
            f"Agreement trains a segmenter on real pairs, of which there are {len(groups)} groups (patients, videos or "
            "single pairs); give at least 10."
        )
    np.random.default_rng(seed).shuffle(groups)
    select, ceiling = (max(1, round(share * len(groups))) for share in (_SELECT, _CEILING))
    parts = [set(part) for part in np.split(groups, [select, select + ceiling])]
    chosen, held_out, training = (
        real.take([i for i, group in enumerate(real.groups) if group in part]) for part in parts
    )
    context = WorkFolder(folder, device, seed, on_progress=progress)
    order = np.arange(len(training), dtype=np.intp)
    outcome = train_segmenter(segmenter, training, order, chosen, steps=steps, validations=5, context=context)
    return Training(TrainedSegmenter.load(segmenter, outcome.weights, device), len(training), outcome, held_out)

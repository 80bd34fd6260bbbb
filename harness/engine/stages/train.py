"""The ``train`` stage: trains one segmenter on one recipe with one seed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from harness.data.pairs import PairSet
from harness.engine.controls import REAL_REPEATED
from harness.engine.graph import Plan
from harness.engine.kind import StageKind
from harness.engine.stages.pool import PoolResult
from harness.engine.stages.running import RunningStage
from harness.errors import HarnessError
from harness.learning.batches import steps_for_epochs
from harness.plugins.registry import load_plugin
from harness.store.results import Result
from harness.study.recipes import Recipe
from harness.study.replicates import Draw, redrawn
from harness.study.schema import Budget, SegmenterUse

_SEEN = "seen.json"
_HOW = {
    "fitted": "the generator of its synthetic images was fitted on it",
    "selected": "the checkpoint of its generator was selected on it",
    "refined": "its synthetic images were refined with it",
    "masks": "the masks of its synthetic images come from a generator that saw it",
}


@dataclass(frozen=True)
class TrainResult:
    """A trained segmenter.

    Attributes:
        folder: of the result.
        weights: safetensors file of its best state.
        steps: optimiser steps done.
        best_step: after which that state was taken.
        best_score: mean IoU of that state on the selection images; None without any.
        n_pairs: distinct training pairs.
        last_rise: of the score on the selection images, how much higher the last one was than the best before it
            (negative: lower); None where there were not two, or the result is from before this was kept.
    """

    folder: Path
    weights: Path
    steps: int
    best_step: int
    best_score: float | None
    n_pairs: int
    last_rise: float | None = None

    @cached_property
    def seen(self) -> dict[str, str]:
        """How each real id was seen that it, its generators or a selection have seen."""
        return dict(json.loads((self.folder / _SEEN).read_text()))


class TrainStage(StageKind[TrainResult]):
    """Trains a segmenter."""

    name: ClassVar[str] = "train"
    large: ClassVar[bool] = True
    resumable: ClassVar[bool] = True
    comparable: ClassVar[bool] = True
    learning: ClassVar[tuple[str, ...]] = ("harness.learning.train_segmenter",)
    real_pairs: ClassVar[str] = "real"

    @classmethod
    def add(
        cls,
        plan: Plan,
        use: SegmenterUse,
        recipe: Recipe,
        draw: Draw,
        pools: Sequence[tuple[str, int]],
        budget: Budget,
    ) -> str:
        """Add the training of one segmenter on one recipe to a plan; return its key.

        Args:
            plan: to add to.
            use: the segmenter.
            recipe: its training set.
            draw: its seed, its fold and its real images.
            pools: keys of the pools that the recipe takes from, with the pairs it takes of each.
            budget: how long it trains.
        """
        study = plan.loaded.study
        plugin = load_plugin("segmenters", use.plugin).create(**use.values())
        label = use.name or plugin.label
        if budget.steps is not None:
            steps = budget.steps
        else:
            assert budget.epochs is not None
            images = plan.n_fit(recipe.real, draw.fold) + recipe.synthetic_count
            steps = steps_for_epochs(images, plugin.batch_size, budget.epochs)
        parameters = {
            "real": recipe.real,
            "order-seed": study.order() if recipe.real is None else redrawn(study.order(), draw.subset),
            "synthetic": [count for _, count in pools],
            "repeat-real": recipe.synthetic_count if recipe.control == REAL_REPEATED else 0,
            "steps": steps,
            "validations": budget.validations,
            "select-role": "report" if study.protocol == "published" else "select",
        }
        return plan.add(
            cls,
            plan.in_fold(f"train {label} * {recipe.label} * seed={draw.replicate}", draw.fold),
            parameters,
            {"dataset": (plan.datasets[draw.fold],), "pools": tuple(key for key, _ in pools)},
            plugin=plugin,
            use=use,
            seed=draw.training,
            work=label,
            amount=steps,
        )

    @classmethod
    def run(cls, stage: RunningStage) -> dict[str, Any]:
        """Train within the step budget; keep the checkpoint that scores best on the select role."""
        from harness.learning.train_segmenter import train_segmenter

        segmenter = stage.plugin("segmenters")
        seen: dict[str, str] = {}
        training = _training_pairs(stage, seen)
        order = np.arange(len(training), dtype=np.intp)
        repeats = stage.parameters["repeat-real"]
        if repeats:
            order = np.concatenate([order, np.resize(order, repeats)])
        selection = stage.dataset.role(stage.parameters["select-role"])
        for name in selection.seen():
            seen.setdefault(name, "the segmenter's checkpoint was selected on it")
        outcome = train_segmenter(
            segmenter,
            training,
            order,
            selection if len(selection) else None,
            steps=stage.parameters["steps"],
            validations=stage.parameters["validations"],
            context=stage.context,
        )
        for note in segmenter.notes():
            stage.context.note(note)
        (stage.folder / _SEEN).write_text(json.dumps(seen, sort_keys=True))
        return {
            "weights": outcome.weights.relative_to(stage.folder).as_posix(),
            "best-step": outcome.best_step,
            "best-score": outcome.best_score,
            "steps": outcome.steps,
            "images-seen": outcome.images_seen,
            "training-pairs": len(training),
            "last-rise": last_rise([point.value for point in outcome.curve if point.name == "selection-iou"]),
        }

    @classmethod
    def read(cls, result: Result) -> TrainResult:
        """Open the trained segmenter."""
        values = result.values
        weights = result.folder / values["weights"]
        best = values["best-step"], values["best-score"]
        pairs, rise = values["training-pairs"], values.get("last-rise")
        return TrainResult(result.folder, weights, values["steps"], *best, pairs, rise)

    @classmethod
    def claims(cls, result: Result) -> tuple[frozenset[str]]:
        """Return all that was seen, so that its scores, and what the leak guard said of them, stand or fall with it."""
        return (frozenset(cls.read(result).seen),)

    @classmethod
    def files(cls, result: Result) -> list[Path]:
        """Return the files of the weights and of what was seen."""
        return [result.folder / result.values["weights"], result.folder / _SEEN]


def last_rise(scores: Sequence[float]) -> float | None:
    """Return how much the last of some scores lies above the best before it, below 0 when it does not.

    Args:
        scores: of one training on its selection images, in the order of the steps; None is returned of fewer than two.
    """
    return scores[-1] - max(scores[:-1]) if len(scores) > 1 else None


def _training_pairs(stage: RunningStage, seen: dict[str, str]) -> PairSet:
    """Return the recipe's pairs, and note in ``seen`` how each real id behind them was seen."""
    sets: list[PairSet] = []
    real = stage.parameters["real"]
    if real != 0:
        pairs = stage.dataset.first(real, stage.parameters["order-seed"])
        sets.append(pairs)
        seen.update(dict.fromkeys(sorted(pairs.seen()), "the segmenter was trained on it"))
    pools: list[PoolResult] = stage.inputs("pools")
    for pool, count in zip(pools, stage.parameters["synthetic"], strict=True):
        pairs = pool.pairs.first(count)
        sets.append(pairs)
        lineage = pairs.seen()
        for how, sentence in _HOW.items():
            for name in pool.provenance.get(how, []):
                if name in lineage:
                    seen.setdefault(name, sentence)
        for name in lineage:
            seen.setdefault(name, "its synthetic images were made from it")
    if not sets:
        raise HarnessError(f"{stage.label!r} has no training pairs.")
    return PairSet.concatenate(sets) if len(sets) > 1 else sets[0]

"""The ``train`` stage: trains one segmenter on one recipe with one seed."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from harness.data.pairs import PairSet
from harness.engine.stages.running import RunningStage
from harness.errors import HarnessError

_HOW = {
    "fitted": "the generator of its synthetic images was fitted on it",
    "selected": "the checkpoint of its generator was selected on it",
    "refined": "its synthetic images were refined with it",
    "masks": "the masks of its synthetic images come from a generator that saw it",
}


def run(stage: RunningStage) -> dict[str, Any]:
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
    (stage.folder / "seen.json").write_text(json.dumps(seen, sort_keys=True))
    return {
        "weights": outcome.weights.relative_to(stage.folder).as_posix(),
        "best-step": outcome.best_step,
        "best-score": outcome.best_score,
        "steps": outcome.steps,
        "images-seen": outcome.images_seen,
        "training-pairs": len(training),
    }


def _training_pairs(stage: RunningStage, seen: dict[str, str]) -> PairSet:
    """Return the recipe's pairs, and note in ``seen`` how each real id behind them was seen."""
    sets: list[PairSet] = []
    real = stage.parameters["real"]
    if real != 0:
        pairs = stage.dataset.first(real, stage.parameters["order-seed"])
        sets.append(pairs)
        seen.update(dict.fromkeys(sorted(pairs.seen()), "the segmenter was trained on it"))
    for pool, count in zip(stage.results("pools"), stage.parameters["synthetic"], strict=True):
        pairs = PairSet.load(pool.folder / "pairs").first(count)
        sets.append(pairs)
        provenance = json.loads((pool.folder / "provenance.json").read_text())
        lineage = pairs.seen()
        for how, sentence in _HOW.items():
            for name in provenance.get(how, []):
                if name in lineage:
                    seen.setdefault(name, sentence)
        for name in lineage:
            seen.setdefault(name, "its synthetic images were made from it")
    if not sets:
        raise HarnessError(f"{stage.spec['label']!r} has no training pairs.")
    return PairSet.concatenate(sets) if len(sets) > 1 else sets[0]

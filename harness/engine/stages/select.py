"""The ``select`` stage: scores the checkpoints of a fit on equal seeds and chooses the best."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from harness.data.pairs import PairSet
from harness.engine.graph import Plan
from harness.engine.keys import named_network, unless_default
from harness.engine.kind import StageKind
from harness.engine.stages.pool import PoolResult, sample_pairs, sampled_pairs
from harness.engine.stages.running import RunningStage
from harness.errors import HarnessError
from harness.metrics.spec import code_of_extensions
from harness.plugins.registry import load_plugin
from harness.store.results import Result
from harness.study.schema import GeneratorUse

if TYPE_CHECKING:
    from harness.engine.stages.checkpoints import FitResult
    from harness.plugins.contract import Checkpoint

#: First samples of each checkpoint that are kept for figures.
SHOWN = 4

Row = dict[str, Any]
"""``step``, each metric's value, ``network``, and ``problem``: why the checkpoint cannot be chosen, or empty."""


@dataclass(frozen=True)
class SelectResult:
    """The choice of a checkpoint.

    Attributes:
        folder: of the result.
        step: of the chosen checkpoint.
        rows: what each checkpoint scored.
        seen: real ids that the choice has seen.
        network: that the chosen checkpoint was scored with.
    """

    folder: Path
    step: int
    rows: list[Row]
    seen: frozenset[str]
    network: str

    def samples(self) -> dict[int, dict[str, NDArray[np.uint8]]]:
        """Return the first samples of each checkpoint by step: ``images`` (N, H, W, 3) and ``masks`` (N, H, W)."""
        found = {}
        for row in self.rows:
            with np.load(_shown(self.folder, row["step"])) as stored:
                found[int(row["step"])] = dict(stored)
        return found


class SelectStage(StageKind[SelectResult]):
    """Chooses a checkpoint."""

    name: ClassVar[str] = "select"
    version: ClassVar[int] = 2
    large: ClassVar[bool] = True
    resumable: ClassVar[bool] = True

    @classmethod
    def add(
        cls,
        plan: Plan,
        use: GeneratorUse,
        label: str,
        inputs: dict[str, tuple[str, ...]],
        *,
        seed: int,
        images_per_mask: int,
    ) -> str:
        """Add the choice of one plugin's checkpoint to a plan; return its key.

        Args:
            plan: to add to.
            use: the plugin, which says how to choose.
            label: what its fit is called.
            inputs: dataset, fit, and masks where images are made for them.
            seed: of the samples.
            images_per_mask: images for each mask, where they are made for masks.
        """
        assert use.select is not None
        plugin = load_plugin("generators", use.plugin).create(**use.values())
        several = unless_default({"images-per-mask": images_per_mask}, {"images-per-mask": 1})
        parameters = {**named_network(use.select.model_dump(mode="json")), "seed": seed, **several}
        runtime = {"network": use.select.network}
        return plan.add(
            cls,
            f"select {label}",
            parameters,
            inputs,
            plugin=plugin,
            use=use,
            seed=seed,
            runtime=runtime,
            code=code_of_extensions(use.select.metrics()),
            amount=use.select.samples,
        )

    @classmethod
    def run(cls, stage: RunningStage) -> dict[str, Any]:
        """Score the checkpoints that were not scored yet, and choose.

        Selection only ever sees the fit or the select role; their ids join the lineage of all the checkpoint makes.
        """
        from harness.metrics.spec import fidelity_metric

        fit: FitResult = stage.input("fit")
        checkpoints = considered(stage, fit.checkpoints)
        if not checkpoints:
            wanted = stage.parameters["among"]
            raise HarnessError(
                f"None of the steps {wanted} in select.among is a checkpoint of the fit; it has {fit.steps}."
            )
        rows = score(stage, checkpoints, fit.pairs(stage.dataset, stage.parameters.get("real")))
        metrics = _metrics(stage)
        name = stage.plugin("generators").name
        for row in rows:
            if row["problem"]:
                stage.context.note(f"Checkpoint {row['step']} of {name} cannot be chosen: {row['problem']}.")
        best = choose(rows, metrics, [fidelity_metric(metric).better == "lower" for metric in metrics])
        tied = [row["step"] for row in rows if _value(row, metrics[0]) == _value(_at(rows, best), metrics[0])]
        if len(tied) > 1:
            by = f"{metrics[1]}, then the earliest" if len(metrics) > 1 else "the earliest"
            stage.context.note(f"Checkpoints {_listed(tied)} of {name} tie by {metrics[0]}; {best} was chosen by {by}.")
        return {
            "step": best,
            "rows": rows,
            "seen": sorted(_reference(stage).seen()),
            "network": _at(rows, best)["network"],
            "samples": stage.parameters["samples"],
        }

    @classmethod
    def read(cls, result: Result) -> SelectResult:
        """Open the choice."""
        values = result.values
        seen = frozenset(values["seen"])
        return SelectResult(result.folder, int(values["step"]), values["rows"], seen, values["network"])

    @classmethod
    def files(cls, result: Result) -> list[Path]:
        """Return the files of the checkpoints' first samples."""
        return [_shown(result.folder, row["step"]) for row in result.values["rows"]]


def _shown(folder: Path, step: int) -> Path:
    return folder / "shown" / f"{step}.npz"


def _metrics(stage: RunningStage) -> list[str]:
    return [name for name in (stage.parameters["by"], stage.parameters["then"]) if name]


def considered(stage: RunningStage, checkpoints: Sequence[Checkpoint]) -> list[Checkpoint]:
    """Return the checkpoints among which a select stage is to choose."""
    wanted = stage.parameters["among"]
    return [c for c in checkpoints if wanted is None or c.step in wanted]


def _reference(stage: RunningStage) -> PairSet:
    """Return the real pairs that samples are compared with.

    Raises:
        HarnessError: there are too few.
    """
    reference: PairSet = stage.dataset.role("fit" if stage.parameters["against"] == "fit" else "select")
    if len(reference) < 2:
        raise HarnessError("The select role has fewer than 2 images to select against; choose select.against: fit.")
    return reference


def score(stage: RunningStage, checkpoints: Sequence[Checkpoint], real: PairSet) -> list[Row]:
    """Return the scores of checkpoints; those that were saved before are not computed again.

    Args:
        stage: the select stage; its saved state holds what was scored.
        checkpoints: in order of their steps.
        real: the pairs that the fit was given.
    """
    saved: dict[str, Row] = (stage.context.restore_state() or {}).get("scored", {})
    rows: list[Row] = []
    for done, checkpoint in enumerate(checkpoints):
        stage.context.progress(done, len(checkpoints), "checkpoints")
        content = _digest(checkpoint.folder)
        row = saved.get(str(checkpoint.step))
        if row is None or row["content"] != content:
            row = {**_score(stage, checkpoint, real), "content": content}
            saved[str(checkpoint.step)] = row
            stage.context.save_state({"scored": saved})
        rows.append({name: value for name, value in row.items() if name != "content"})
    return rows


def _score(stage: RunningStage, checkpoint: Checkpoint, real: PairSet) -> Row:
    from harness.metrics.fidelity.measure import measure, of_masks
    from harness.metrics.spec import Sets, fidelity_metric

    generator = stage.plugin("generators")
    given: list[PoolResult] = stage.inputs("masks")
    reference = _reference(stage)
    makes = generator.card.makes
    metrics = _metrics(stage)
    seen = sampled_pairs(generator, checkpoint, real)
    masks = given[0].pairs if given else None
    samples = sample_pairs(stage, generator, checkpoint, stage.parameters["samples"], seen, masks)
    compared = of_masks(reference) if makes == "masks" else reference
    sets = Sets(compared, samples, stage.device, seed=stage.seed, network=stage.runtime["network"] or "")
    measured = measure([fidelity_metric(name) for name in metrics], sets)
    values = {name: float(measured[name][name]) for name in metrics}
    stage.context.log(checkpoint.step, **values)
    stage.context.log_images("samples", checkpoint.step, samples.images[:25])
    _keep_samples(stage.folder, checkpoint.step, samples)
    problem = _problem(samples, makes, values)
    return {"step": checkpoint.step, **values, "network": measured[metrics[0]]["network"], "problem": problem}


def _keep_samples(folder: Path, step: int, samples: PairSet) -> None:
    """Keep a checkpoint's first samples: all checkpoints have equal seeds and masks, so that what they learned shows.

    Written before its row is: a checkpoint that counts as scored has them.
    """
    path = _shown(folder, step)
    path.parent.mkdir(exist_ok=True)
    few = samples.first(min(SHOWN, len(samples)))
    np.savez(path, allow_pickle=False, images=few.images, masks=few.masks)


def _problem(samples: PairSet, makes: str, values: dict[str, float]) -> str:
    """Say why a checkpoint must not be chosen whatever it scored; nothing when it may be."""
    from harness.metrics.fidelity.measure import constant_picture

    if makes != "images" and not samples.masks.any():
        return f"all its {len(samples)} masks are empty"
    constant = constant_picture(samples)
    if constant:
        return f"all its {len(samples)} images {constant}"
    unsound = [name for name, value in values.items() if not math.isfinite(value)]
    return f"its {' and '.join(unsound)} is not a number" if unsound else ""


def _digest(folder: Path) -> str:
    """Return the SHA-256 of a checkpoint's files: one that a resumed fit made anew may differ from its first form."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(path.relative_to(folder).as_posix().encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _listed(steps: list[int]) -> str:
    return f"{', '.join(map(str, steps[:-1]))} and {steps[-1]}"


def _at(rows: list[Row], step: int) -> Row:
    return next(row for row in rows if row["step"] == step)


def _value(row: Row, metric: str) -> float:
    return math.nan if row["problem"] else float(row[metric])


def choose(rows: list[Row], metrics: list[str], lower_is_better: list[bool]) -> int:
    """Return the step of the best row: by the first metric, ties by the next, then the earliest step.

    A checkpoint with a problem, or whose score is not a number, is never chosen.

    Raises:
        HarnessError: no checkpoint can be chosen; says what is wrong with each.
    """
    sound = [row for row in rows if not row["problem"] and all(math.isfinite(row[name]) for name in metrics)]
    if not sound:
        reasons = "; ".join(f"{row['step']}: {row['problem'] or 'its score is not a number'}" for row in rows)
        raise HarnessError(
            f"No checkpoint can be chosen by {metrics[0]} ({reasons}). Train the generator longer or otherwise, or "
            "leave select out to take the last checkpoint."
        )
    signs = [1.0 if lower else -1.0 for lower in lower_is_better]
    best = min(sound, key=lambda row: (*(s * row[m] for s, m in zip(signs, metrics, strict=True)), row["step"]))
    return int(best["step"])

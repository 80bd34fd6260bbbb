"""The ``select`` stage: samples from every checkpoint of a fit, measures the samples, and names the best one.

A checkpoint is scored as soon as it exists, by the process that fits (:func:`score_ahead`); the stage itself scores
what is left, so that a killed one scores nothing twice.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.data.pairs import PairSet
from harness.engine.stages.running import RunningStage, sampled_pairs
from harness.engine.stages.sample import fitted_pairs, sample_pairs
from harness.errors import HarnessError
from harness.learning.work_folder import WorkFolder, recorded_checkpoints

if TYPE_CHECKING:
    from harness.plugins.contract import Checkpoint

#: First samples of each checkpoint that are kept for the report (paper A, Figure 4).
SHOWN = 4

Row = dict[str, Any]
"""``step``, each metric's value, ``network``, and ``problem``: why the checkpoint cannot be chosen, or empty."""


def run(stage: RunningStage) -> dict[str, Any]:
    """Score the checkpoints that were not scored yet, and choose.

    Selection only ever sees the fit or the select role; their ids join the lineage of everything the checkpoint makes.
    """
    from harness.metrics.spec import fidelity_metric

    fit = stage.result("fit")
    wanted = stage.parameters["among"]
    recorded = recorded_checkpoints(fit.folder)
    checkpoints = _considered(stage, recorded)
    if not checkpoints:
        steps = [c.step for c in recorded]
        raise HarnessError(f"None of the steps {wanted} in select.among is a checkpoint of the fit; it has {steps}.")
    rows = score(stage, checkpoints, fitted_pairs(stage, fit))
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
    _keep_table(stage, rows, best, metrics)
    (stage.folder / "selection.json").write_text(json.dumps({"rows": rows, "step": best}))
    return {
        "step": best,
        "rows": rows,
        "seen": sorted(_reference(stage).seen()),
        "network": _at(rows, best)["network"],
        "samples": stage.parameters["samples"],
    }


def _metrics(stage: RunningStage) -> list[str]:
    return [name for name in (stage.parameters["by"], stage.parameters["then"]) if name]


def _considered(stage: RunningStage, checkpoints: Sequence[Checkpoint]) -> list[Checkpoint]:
    wanted = stage.parameters["among"]
    return [c for c in checkpoints if wanted is None or c.step in wanted]


def _reference(stage: RunningStage) -> PairSet:
    """Return the real pairs that samples are compared with.

    Raises:
        HarnessError: there are too few.
    """
    reference = stage.dataset.role("fit" if stage.parameters["against"] == "fit" else "select")
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
    from harness.metrics.fidelity.measure import Sets, measure, of_masks
    from harness.metrics.spec import fidelity_metric

    generator = stage.plugin("generators")
    masks = PairSet.load(stage.result("masks").folder / "pairs") if stage.results("masks") else None
    reference = _reference(stage)
    makes = generator.card.makes
    metrics = _metrics(stage)
    given = sampled_pairs(generator, checkpoint, real)
    samples = sample_pairs(stage, generator, checkpoint, stage.parameters["samples"], given, masks)
    real = of_masks(reference) if makes == "masks" else reference
    sets = Sets(real, samples, stage.device, seed=stage.seed, network=stage.spec["runtime"]["network"] or "")
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
    (folder / "shown").mkdir(exist_ok=True)
    few = samples.first(min(SHOWN, len(samples)))
    np.savez(folder / "shown" / f"{step}.npz", allow_pickle=False, images=few.images, masks=few.masks)


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


def score_ahead(fit: RunningStage, checkpoint: Checkpoint, real: PairSet) -> bool:
    """Score a checkpoint of a fit that is still running, for each select stage that waits for it.

    Called by the process that fits, which waits. Nothing that the scoring draws or sets reaches the fit: random
    generators are put back, and it runs in a thread of its own. When it fails, the fit goes on; the select stage tries
    again and reports.

    Args:
        fit: the fit stage at work; its specification names the select stages.
        checkpoint: one that the fit has just recorded.
        real: the pairs that the fit was given.

    Returns:
        Whether to go on scoring ahead.
    """
    started = time.monotonic()
    try:
        for spec in fit.spec.get("selections", []):
            with ThreadPoolExecutor(1) as alone, _random_states_put_back():
                alone.submit(_score_one_ahead, fit, spec, checkpoint, real).result()
    except Exception as error:  # whatever it is: scoring must not cost a fit, and the select stage will meet it again
        print(f"Checkpoint {checkpoint.step} could not be scored during the fit: {error}", file=sys.stderr, flush=True)
        return False
    finally:
        fit.context.spent_elsewhere(time.monotonic() - started)
    return True


def _score_one_ahead(fit: RunningStage, spec: dict[str, Any], checkpoint: Checkpoint, real: PairSet) -> None:
    store, key = fit.store, spec["key"]
    if store.find("select", key) is not None or any(
        store.find(kind, other) is None for kind, other in spec["inputs"].get("masks", [])
    ):
        return
    with store.working_on(key):
        context = WorkFolder(
            store.work_folder(key), fit.device, int(spec["parts"]["seed"]), on_progress=fit.context.on_progress
        )
        stage = RunningStage(spec, store, context, fit.device)
        if _considered(stage, [checkpoint]):
            score(stage, [checkpoint], real)


@contextmanager
def _random_states_put_back() -> Iterator[None]:
    """Put the state of every global random generator back when left."""
    import random

    import torch

    python, arrays, tensors = random.getstate(), np.random.get_state(), torch.get_rng_state()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(arrays)
        torch.set_rng_state(tensors)
        if devices:
            torch.cuda.set_rng_state_all(devices)


def _keep_table(stage: RunningStage, rows: list[Row], best: int, metrics: list[str]) -> None:
    """Write the table and the curve, in the form of the papers' tables of checkpoints."""
    from harness.report.figures.fidelity import draw_selection
    from harness.report.tables.selection import selection_table

    for name in ("tables", "figures"):
        (stage.folder / name).mkdir(exist_ok=True)
    table = selection_table(rows, best, metrics)
    for ending, text in (("md", table.markdown()), ("tex", table.latex()), ("csv", table.csv())):
        (stage.folder / "tables" / f"selection.{ending}").write_text(text, encoding="utf-8")
    draw_selection(rows, best, metrics, stage.folder / "figures" / "selection")


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

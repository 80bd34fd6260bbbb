"""Scoring the checkpoints of a fit that is still running, for each select stage that waits for it."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.engine.stages.running import RunningStage
from harness.engine.stages.select import considered, score
from harness.learning.work_folder import WorkFolder

if TYPE_CHECKING:
    from harness.data.pairs import PairSet
    from harness.plugins.contract import Checkpoint


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
                alone.submit(_score_one, fit, spec, checkpoint, real).result()
    except Exception as error:  # whatever it is: scoring must not cost a fit, and the select stage will meet it again
        print(f"Checkpoint {checkpoint.step} could not be scored during the fit: {error}", file=sys.stderr, flush=True)
        return False
    finally:
        fit.context.spent_elsewhere(time.monotonic() - started)
    return True


def _score_one(fit: RunningStage, spec: dict[str, Any], checkpoint: Checkpoint, real: PairSet) -> None:
    store, key = fit.store, spec["key"]
    if store.find(spec["kind"], key) is not None or any(
        store.find(kind, other) is None for kind, other in spec["inputs"].get("masks", [])
    ):
        return
    with store.working_on(key):
        folder, seed = store.work_folder(key), int(spec["parts"]["seed"])
        context = WorkFolder(folder, fit.device, seed, on_progress=fit.context.on_progress)
        stage = RunningStage(spec, store, context, fit.device, fit.read)
        if considered(stage, [checkpoint]):
            score(stage, [checkpoint], real)


@contextmanager
def _random_states_put_back() -> Iterator[None]:
    """Put the state of every global random generator back when left."""
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

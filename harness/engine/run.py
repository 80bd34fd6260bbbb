"""Runs a plan: what is stored is not run again, what fails is reported and does not stop the rest."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from harness.engine.accepting import accept_older
from harness.engine.executors.executor import Executor
from harness.engine.graph import Plan, Stage
from harness.engine.stages import kinds
from harness.engine.stages.fit import FitStage
from harness.engine.stages.select import SelectStage
from harness.home import extensions_folder, home
from harness.store.results import Result, Store

#: Seconds between looks at stages that other processes work on, and between signs of life.
_LOOK_EVERY_S = 0.2
_SIGN_OF_LIFE_EVERY_S = 10.0


class Listener(Protocol):
    """Is told what happens in a run; must not raise and must not wait."""

    def started(self, stage: Stage) -> None:
        """Hear that a stage starts here."""
        ...

    def progressed(self, stage: Stage, done: int, total: int, unit: str) -> None:
        """Hear how far a stage is."""
        ...

    def finished(self, stage: Stage, result: Result, stored_before: bool) -> None:
        """Hear that a stage has a result, from now or from before."""
        ...

    def failed(self, stage: Stage, failure: dict[str, Any]) -> None:
        """Hear that a stage has no result; ``failure`` has ``status`` and ``reason``."""
        ...


@dataclass
class Summary:
    """How a run ended: keys by how they ended; failures have ``status`` and ``reason``."""

    done: list[str] = field(default_factory=list)
    stored_before: list[str] = field(default_factory=list)
    failures: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether everything asked for has a result."""
        return not self.failures


def targets(plan: Plan, only: Sequence[str] = ()) -> list[str]:
    """Return the keys that a run is for: everything measured, or the scores of the cells that ``only`` names."""
    if only:
        return list(
            dict.fromkeys(cell.evaluate for cell in plan.cells if matches(cell.label, cell.seed, cell.fold, only))
        )
    keys = [cell.evaluate for cell in plan.cells]
    keys += [pool.fidelity for pool in plan.pools if pool.fidelity]
    keys += [reference.key for reference in plan.references]
    keys += [pool.key for pool in plan.pools]
    keys += [trivial.key for trivial in plan.trivial]
    keys += [measurement.key for measurement in plan.measurements]
    return list(dict.fromkeys([*keys, *plan.datasets.values()]))


def matches(label: str, seed: int, fold: int, only: Sequence[str]) -> bool:
    """Whether a pattern names a cell: terms joined by ``*``, each a segmenter, a recipe, seed=N or fold=N."""
    terms = {*(term.strip() for term in label.split(" * ")), f"seed={seed}", f"fold={fold}"}
    return any({term.strip() for term in pattern.split("*") if term.strip()} <= terms for pattern in only)


def specification(stage: Stage, plan: Plan, store: Store) -> dict[str, Any]:
    """Return a stage as JSON, with everything ``python -m harness.engine.worker`` needs.

    A fit also names the select stages that wait for it, whose scores it computes as checkpoints come.
    """
    waiting = [s for s in plan.stages.values() if s.kind == SelectStage.name and stage.key in s.inputs["fit"]]
    return {
        "kind": stage.kind,
        "label": stage.label,
        "key": stage.key,
        "key_without_code": stage.key_without_code,
        "parts": stage.parts,
        "inputs": {name: [[plan.stages[key].kind, key] for key in keys] for name, keys in stage.inputs.items()},
        "runtime": stage.runtime,
        "work": stage.work,
        "amount": stage.amount,
        "store": str(store.root),
        "home": str(home()),
        "extensions": str(extensions_folder()),
        "large": kinds()[stage.kind].thing.large,
        "devices": stage.devices,
        "device": "auto",
        "selections": [specification(select, plan, store) for select in waiting] if stage.kind == FitStage.name else [],
    }


def _memory_kills() -> int:
    """Return how many processes the system has killed for want of memory since it started; 0 where it does not say."""
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


class _Run:
    """One run of a plan; see :func:`run_plan`."""

    def __init__(
        self, plan: Plan, store: Store, executor: Executor, listeners: Sequence[Listener], accept_code: bool
    ) -> None:
        self.plan = plan
        self.store = store
        self.executor = executor
        self.listeners = listeners
        self.accept_code = accept_code
        self._judged: set[str] = set()
        self.summary = Summary()
        self.waiting: list[str] = []
        self.done: set[str] = set()
        self.running: set[str] = set()
        self.began = time.time()
        self._alive_at = 0.0
        self._memory_kills = _memory_kills()

    def prepare(self, keys: list[str]) -> None:
        """Sort the stages into those that are stored and those that are left."""
        for key in keys:
            stage = self.plan.stages[key]
            self._accept(stage)
            if not self._settled(stage, stored_before=True):
                self.waiting.append(key)

    def _accept(self, stage: Stage) -> None:
        """Let an older result stand for a stage; tried before anything runs, and when all that it reads is there."""
        if self.accept_code and self.store.find(stage.kind, stage.key) is None:
            accept_older(self.plan, self.store, stage)

    def _settled(self, stage: Stage, stored_before: bool) -> bool:
        result = self.store.find(stage.kind, stage.key)
        if result is None:
            return False
        self.done.add(stage.key)
        (self.summary.stored_before if stored_before else self.summary.done).append(stage.key)
        for listener in self.listeners:
            listener.finished(stage, result, stored_before)
        return True

    def _fail(self, stage: Stage, failure: dict[str, Any]) -> None:
        self.summary.failures[stage.key] = failure
        for listener in self.listeners:
            listener.failed(stage, failure)

    def start_ready(self) -> None:
        """Start what can be started; skip what an input has failed for; leave alone what another process works on."""
        for key in list(self.waiting):
            stage = self.plan.stages[key]
            inputs = [k for keys in stage.inputs.values() for k in keys]
            broken = next((k for k in inputs if k in self.summary.failures), None)
            if broken is not None:
                self.waiting.remove(key)
                reason = f"needs {self.plan.stages[broken].label!r}, which has no result"
                self._fail(stage, {"status": "skipped", "reason": reason, "label": stage.label, "kind": stage.kind})
                continue
            if not all(k in self.done for k in inputs):
                continue
            # What was made again may show that what was computed from it stands.
            if self.accept_code and key not in self._judged:
                self._judged.add(key)
                self._accept(stage)
                if self._settled(stage, stored_before=True):
                    self.waiting.remove(key)
                    continue
            large = kinds()[stage.kind].thing.large
            if self.executor.free(large, stage.devices) <= 0:
                continue
            if not self.store.claim(key):
                self._look_elsewhere(stage)
                continue
            # Another process may have committed between our look and our claim.
            if self._settled(stage, stored_before=True):
                self.store.release(key)
                self.waiting.remove(key)
                continue
            self.waiting.remove(key)
            self.running.add(key)
            (self.store.root / "failures" / f"{key}.json").unlink(missing_ok=True)
            for listener in self.listeners:
                listener.started(stage)
            self.executor.start(specification(stage, self.plan, self.store))

    def _look_elsewhere(self, stage: Stage) -> None:
        """See whether the process that holds a stage has finished it."""
        if self._settled(stage, stored_before=True):
            self.waiting.remove(stage.key)

    def collect(self) -> None:
        """Take in what has ended, and pass on progress."""
        for key, code in self.executor.ended(_LOOK_EVERY_S):
            stage = self.plan.stages[key]
            self.running.discard(key)
            if not self._settled(stage, stored_before=False):
                failure = self.store.failure(key) or self._killed(stage, code)
                self._fail(stage, failure)
            self.store.release(key)
        for key in self.running:
            progress = self.store.progress(key)
            if progress is not None:
                for listener in self.listeners:
                    listener.progressed(self.plan.stages[key], *progress)
        for key in self.waiting:
            told = self.store.failure(key)
            if told is not None and told.get("time", 0) > self.began and self.store.claimed_by(key) is None:
                self.waiting.remove(key)
                self._fail(self.plan.stages[key], told)
                break
        if time.monotonic() - self._alive_at > _SIGN_OF_LIFE_EVERY_S:
            self._alive_at = time.monotonic()
            self.store.keep_alive(list(self.running))

    def _killed(self, stage: Stage, code: int) -> dict[str, Any]:
        """Describe a process that ended without a word."""
        status = "failed"
        if code < 0:
            known = {number.value: number.name for number in signal.Signals}
            reason = f"its process was killed by {known.get(-code, f'signal {-code}')}"
            if -code == signal.SIGKILL and _memory_kills() > self._memory_kills:
                status, reason = "out-of-memory", f"{reason}, because the machine ran out of memory"
        else:
            log = self.store.log_path(stage.key)
            lines = log.read_text(errors="replace").strip().splitlines() if log.is_file() else []
            reason = f"its process ended with exit code {code} and no result{': ' + lines[-1] if lines else ''}"
        failure = {"label": stage.label, "kind": stage.kind, "status": status, "time": time.time(), "reason": reason}
        self.store.record_failure(stage.key, failure)
        return failure


def run_plan(
    plan: Plan,
    store: Store,
    executor: Executor,
    *,
    only: Sequence[str] = (),
    listeners: Sequence[Listener] = (),
    fail_fast: bool = False,
    accept_code: bool = False,
) -> Summary:
    """Run what has no result yet.

    Args:
        plan: the study's stages.
        store: where results are and go.
        executor: where stages run.
        only: cells to run, as ``--only`` takes them; everything when empty.
        listeners: are told what happens.
        fail_fast: stop at the first failure, leaving the rest without a result.
        accept_code: let stored results that differ in code only stand.

    Returns:
        What is done, what was stored before, and what has no result.
    """
    run = _Run(plan, store, executor, listeners, accept_code)
    run.prepare(plan.needed(targets(plan, only)))
    try:
        while run.waiting or run.running:
            run.start_ready()
            run.collect()
            if fail_fast and run.summary.failures:
                for key in [*run.running, *run.waiting]:
                    stage = plan.stages[key]
                    run.summary.failures[key] = {
                        "status": "left",
                        "reason": "stopped by --fail-fast",
                        "label": stage.label,
                    }
                break
    finally:
        executor.close()
        for key in run.running:
            store.release(key)
    return run.summary

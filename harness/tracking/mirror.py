"""The MLflow mirror of a run: told what happens, it hands all to a background thread and never waits or raises."""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.engine.graph import Plan, Stage
from harness.engine.run import Summary
from harness.store.results import Result, Store

if TYPE_CHECKING:
    from harness.tracking.study_runs import StudyRuns

#: Seconds between looks at the metrics of running stages.
_LOOK_EVERY_S = 2.0
#: Seconds without a try after MLflow was found out of reach.
_PAUSE_S = 30.0

_Task = Callable[["StudyRuns"], None]


@dataclass(frozen=True)
class Mirrored:
    """What a mirror did.

    Attributes:
        added: stages that were logged.
        present: stages that MLflow had already.
        missing: things told that MLflow does not have.
        problem: why, in one sentence; empty when nothing is missing.
    """

    added: int
    present: int
    missing: int
    problem: str


class Mirror:
    """Mirrors a run into MLflow: one parent run a study run, one nested run a stage.

    The store is the truth: when MLflow is out of reach, the run goes on, one sentence says so, and ``harness track
    sync`` replays what is missing. What could not be logged is tried once more when the mirror is closed.
    """

    def __init__(self, plan: Plan, store: Store, uri: str | None = None) -> None:
        """Start the thread; MLflow is imported there.

        Args:
            plan: the study's stages.
            store: where their results are.
            uri: of the tracking server; by default ``MLFLOW_TRACKING_URI``, or the database below ``mlruns/``.
        """
        self._plan = plan
        self._store = store
        self._uri = uri
        self._tasks: queue.SimpleQueue[tuple[bool, _Task] | None] = queue.SimpleQueue()
        self._missed: list[_Task] = []
        self._problem = ""
        self._paused_until = 0.0
        self._counts = (0, 0)
        self._abandoned = False
        self._thread = threading.Thread(target=self._work, name="mlflow-mirror", daemon=True)
        self._thread.start()

    def started(self, stage: Stage) -> None:
        """Show the stage as running."""
        now = time.time()
        self._tasks.put((False, lambda runs: runs.started(stage, now)))

    def progressed(self, stage: Stage, done: int, total: int, unit: str) -> None:
        """Do nothing: a running stage is followed by its metrics."""

    def finished(self, stage: Stage, result: Result, stored_before: bool) -> None:
        """Log the stage's result."""
        self._tasks.put((True, lambda runs: runs.finished(stage, result, stored_before)))

    def failed(self, stage: Stage, failure: dict[str, Any]) -> None:
        """Show why the stage has no result."""
        self._tasks.put((True, lambda runs: runs.failed(stage, failure)))

    def report(self, folder: Path) -> None:
        """Attach a rendered report to the study's run."""
        self._tasks.put((True, lambda runs: runs.log_report(folder)))

    def replay(self) -> Summary:
        """Tell everything that the store knows of the plan, as if it had just been run.

        Returns:
            What has a result and what failed; stages that were never run are left out.
        """
        summary = Summary()
        for stage in self._plan.stages.values():
            result = self._store.find(stage.kind, stage.key)
            failure = None if result is not None else self._store.failure(stage.key)
            if result is not None:
                summary.stored_before.append(stage.key)
                self.finished(stage, result, stored_before=True)
            elif failure is not None:
                summary.failures[stage.key] = failure
                self.failed(stage, failure)
            else:
                summary.failures[stage.key] = {"status": "left", "reason": "has not run yet", "label": stage.label}
        return summary

    def close(self, summary: Summary | None, timeout_s: float | None = 60.0) -> Mirrored:
        """Log what is left, put the averages on the study's run and end it.

        Args:
            summary: how the run ended; None when it was interrupted.
            timeout_s: seconds to wait at most; None waits for as long as it takes.

        Returns:
            What was logged and what is missing. Whatever is missing was said on standard error too.
        """
        self._tasks.put((True, lambda runs: runs.close(summary)))
        self._tasks.put(None)
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self._abandoned = True
            waiting = self._tasks.qsize() + len(self._missed)
            self._say(
                f"MLflow has not taken everything within {timeout_s:g} s; to log what is missing: {self._command()}."
            )
            return Mirrored(*self._counts, max(1, waiting), "MLflow was too slow")
        missing = len(self._missed)
        if missing:
            self._say(f"MLflow lacks {missing} records of this run; to log what is missing: {self._command()}.")
        return Mirrored(*self._counts, missing, self._problem if missing else "")

    # the thread

    def _work(self) -> None:
        from harness.tracking.study_runs import StudyRuns

        runs = StudyRuns(self._plan, self._store, self._uri)
        looked = time.monotonic()
        closing = False
        while not closing:
            try:
                told = self._tasks.get(timeout=_LOOK_EVERY_S)
                if told is None:
                    closing = True
                else:
                    self._attempt(runs, told[1], keep=told[0])
            except queue.Empty:
                pass
            if time.monotonic() - looked > _LOOK_EVERY_S and not closing:
                looked = time.monotonic()
                self._attempt(runs, lambda mirrored: mirrored.follow(), keep=False)
        missed, self._missed, self._paused_until = self._missed, [], 0.0
        for task in missed:
            self._attempt(runs, task, keep=True)

    def _attempt(self, runs: StudyRuns, task: _Task, *, keep: bool) -> None:
        """Do one thing; when it fails, remember it and say so once. No error of MLflow's may reach a study."""
        if time.monotonic() < self._paused_until:
            self._missed += [task] if keep else []
            return
        try:
            runs.open()
            task(runs)
        except Exception as error:
            self._missed += [task] if keep else []
            self._notice(runs, error)
        self._counts = (runs.added, runs.present)

    def _notice(self, runs: StudyRuns, error: Exception) -> None:
        from harness.tracking.connection import one_line

        if not runs.parent or not runs.reachable():
            self._paused_until = time.monotonic() + _PAUSE_S
        if not self._problem and not self._abandoned:
            self._problem = f"MLflow at {runs.uri} cannot be written to ({one_line(error)})"
            self._say(f"{self._problem}; the study goes on and loses nothing. Later, run: {self._command()}.")

    def _command(self) -> str:
        loaded = self._plan.loaded
        return f"harness track sync {loaded.name}{f' --profile {loaded.profile}' if loaded.profile else ''}"

    def _say(self, sentence: str) -> None:
        print(sentence, file=sys.stderr, flush=True)

"""Progress of a run on standard error: live lines on a terminal, plain lines in a file."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

from harness.engine.estimate import in_words
from harness.engine.graph import Stage
from harness.store.results import Result

#: Seconds between two plain lines about one running stage.
_PLAIN_EVERY_S = 30.0


class ProgressDisplay:
    """A listener that shows the study's stages, and inside each running stage its steps with a rate and a time left.

    Args:
        total: stages of the run.
        live: whether to redraw lines; by default only on a terminal.
    """

    def __init__(self, total: int, live: bool | None = None) -> None:
        self.total = total
        self.ended = 0
        self.stored = 0
        self._began: dict[str, float] = {}
        self._told: dict[str, float] = {}
        self._tasks: dict[str, Any] = {}
        self._live = sys.stderr.isatty() if live is None else live
        self._bars: Any = None

    def __enter__(self) -> ProgressDisplay:
        if self._live:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self._bars = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[unit]}"),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._bars.start()
            self._tasks[""] = self._bars.add_task("stages", total=self.total, unit="stages", rate="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def _say(self, line: str) -> None:
        if self._bars is not None:
            self._bars.console.print(line, highlight=False, markup=False)
        else:
            print(line, file=sys.stderr, flush=True)

    def started(self, stage: Stage) -> None:
        """Note when the stage began, and give it a line of its own on a terminal."""
        self._began[stage.key] = self._told[stage.key] = time.monotonic()
        if self._bars is not None:
            self._tasks[stage.key] = self._bars.add_task(stage.label, total=None, unit="", rate="")

    def progressed(self, stage: Stage, done: int, total: int, unit: str) -> None:
        """Show steps, rate and time left."""
        now = time.monotonic()
        seconds = max(1e-6, now - self._began.get(stage.key, now))
        rate = done / seconds
        if self._bars is not None and stage.key in self._tasks:
            shown = f"{rate:.1f}/s" if done else ""
            self._bars.update(self._tasks[stage.key], completed=done, total=total, unit=unit, rate=shown)
        elif self._bars is None and now - self._told.get(stage.key, now) > _PLAIN_EVERY_S and done:
            self._told[stage.key] = now
            left = in_words((total - done) / max(rate, 1e-9))
            self._say(f"    {stage.label}: {done}/{total} {unit}, {rate:.1f}/s, {left} left")

    def finished(self, stage: Stage, result: Result, stored_before: bool) -> None:
        """Count the stage; say that it is done when it ran now."""
        self.ended += 1
        self.stored += stored_before
        if not stored_before:
            self._say(f"[{self.ended}/{self.total}] {stage.label}: done in {in_words(result.record['seconds'])}")
        self._close(stage)

    def failed(self, stage: Stage, failure: dict[str, Any]) -> None:
        """Say why the stage has no result."""
        self.ended += 1
        self._say(f"[{self.ended}/{self.total}] {stage.label}: {failure['status']}: {failure['reason']}")
        self._close(stage)

    def _close(self, stage: Stage) -> None:
        if self._bars is not None:
            task = self._tasks.pop(stage.key, None)
            if task is not None:
                self._bars.remove_task(task)
            self._bars.update(self._tasks[""], completed=self.ended)

"""Runs stages in this process, one after the other: for debuggers and for tests."""

from __future__ import annotations

import time
from typing import Any

from harness.engine.executors.executor import Executor
from harness.engine.worker import run_stage
from harness.errors import DeclarationError


class InProcessExecutor(Executor):
    """One stage at a time, here. A crash of a stage is a crash of the harness."""

    name = "in-process"
    summary = "One stage after the other in this process, for debuggers."

    def __init__(self, jobs: int | None = None) -> None:
        if jobs not in (None, 1):
            raise DeclarationError(f"in-process runs one stage at a time; leave out --jobs {jobs}.")
        self._ended: list[tuple[str, int]] = []

    def free(self, large: bool, devices: int = 1) -> int:
        """Return 1, or 0 while a stage that has run waits to be collected."""
        return 0 if self._ended else 1

    def start(self, spec: dict[str, Any]) -> None:
        """Run the stage to its end."""
        self._ended.append((spec["key"], 0 if run_stage(spec) else 1))

    def ended(self, timeout_s: float) -> list[tuple[str, int]]:
        """Return the stage that has just run."""
        if not self._ended:
            time.sleep(timeout_s)
        ended, self._ended = self._ended, []
        return ended

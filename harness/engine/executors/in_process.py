"""Runs stages in this process, one after the other: for debuggers and for tests."""

from __future__ import annotations

import time
from typing import Any

from harness.engine.executors import Executor
from harness.engine.worker import run_stage


class InProcessExecutor(Executor):
    """One stage at a time, here. A crash of a stage is a crash of the harness."""

    def __init__(self) -> None:
        self._ended: list[tuple[str, int]] = []

    def free(self, kind: str, devices: int = 1) -> int:
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

    def progress(self) -> dict[str, tuple[int, int, str]]:
        """Return nothing: there is nobody to show it to while a stage runs."""
        return {}

"""What an executor is: it starts stages and says when they have ended; the store has their results."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from harness.store.results import Store, write_json


class Executor(ABC):
    """Starts stages and reports their end. The same plan has the same keys and the same results on every executor.

    A stage is a specification in JSON (:func:`harness.engine.run.specification`). The command that runs one
    (:meth:`command`) commits the result or records the failure by itself, so an executor starts that command somewhere
    that sees the store, and waits for it.

    Attributes:
        name: what ``--executor`` calls it.
        summary: one line for ``harness plugin list``.
    """

    name: ClassVar[str]
    summary: ClassVar[str]

    @abstractmethod
    def __init__(self, jobs: int | None) -> None:
        """Make ready to run stages.

        Args:
            jobs: stages at once, at least 1; None lets the executor choose.

        Raises:
            DeclarationError: it cannot run so many.
        """

    @abstractmethod
    def free(self, large: bool, devices: int = 1) -> int:
        """Return how many more stages of one sort can be started now.

        Args:
            large: whether they hold a network and its batches on the device; others may share one.
            devices: how many accelerators of one machine each of them computes on.
        """

    @abstractmethod
    def start(self, spec: dict[str, Any]) -> None:
        """Start a stage, of which ``spec`` names the ``key``, the ``label``, and ``large`` and ``devices`` as above."""

    @abstractmethod
    def ended(self, timeout_s: float) -> list[tuple[str, int]]:
        """Wait up to ``timeout_s`` seconds for stages to end; return keys with exit codes (negative: a signal)."""

    def close(self) -> None:
        """Stop what still runs."""
        return

    @staticmethod
    def written(spec: dict[str, Any]) -> Path:
        """Write a stage's specification into the store and return the file."""
        path = Store(Path(spec["store"])).specification_path(spec["key"])
        write_json(path, spec)
        return path

    @classmethod
    def command(cls, spec: dict[str, Any]) -> list[str]:
        """Write a stage's specification into the store and return the command that runs the stage, in any folder."""
        return [sys.executable, "-m", "harness.engine.worker", str(cls.written(spec))]

    @staticmethod
    def log_path(spec: dict[str, Any]) -> Path:
        """Return the file for what a stage prints, whose last line says why its process ended without a result."""
        path = Store(Path(spec["store"])).log_path(spec["key"])
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

"""Where stages run: an executor starts a stage and says when it has ended; the store has the result."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from harness.errors import DeclarationError, nearest


class Executor(ABC):
    """Starts stages and reports their end. The same plan has the same keys and the same results on every executor."""

    @abstractmethod
    def free(self, kind: str, devices: int = 1) -> int:
        """Return how many more stages of a kind, each on so many devices, can be started now."""

    @abstractmethod
    def start(self, spec: dict[str, Any]) -> None:
        """Start a stage; it commits its result or records its failure by itself."""

    @abstractmethod
    def ended(self, timeout_s: float) -> list[tuple[str, int]]:
        """Wait up to ``timeout_s`` seconds for stages to end; return keys with exit codes (negative: a signal)."""

    @abstractmethod
    def progress(self) -> dict[str, tuple[int, int, str]]:
        """Return done, total and unit of running stages that report them, by key."""

    def close(self) -> None:
        """Stop what still runs."""
        return


#: Executors that exist, with what a cluster one needs.
EXECUTORS = ("local", "in-process")


def make_executor(name: str, jobs: int | None) -> Executor:
    """Return an executor by name.

    Args:
        name: ``local`` (a process a stage) or ``in-process``.
        jobs: stages at once; None lets the executor choose from cores and accelerators.

    Raises:
        DeclarationError: there is no executor of that name, or ``jobs`` is less than 1.
    """
    if jobs is not None and jobs < 1:
        raise DeclarationError(f"--jobs must be at least 1, got {jobs}.")
    if name == "local":
        from harness.engine.executors.local import LocalExecutor

        return LocalExecutor(jobs)
    if name == "in-process":
        from harness.engine.executors.in_process import InProcessExecutor

        return InProcessExecutor()
    raise DeclarationError(
        f"There is no executor {name!r}{nearest(name, EXECUTORS)}; there are: {', '.join(EXECUTORS)}."
    )

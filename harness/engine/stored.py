"""What a plan's stages have stored: results as their kinds read them, and why a stage has none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from harness.engine.graph import Plan
from harness.engine.stages import read
from harness.results.schema import Failure
from harness.store.results import Result, Store


class StoredResults:
    """The results of a plan's stages, each opened once."""

    def __init__(self, plan: Plan, store: Store) -> None:
        self.plan = plan
        self.store = store
        self._results: dict[str, Result | None] = {}
        self._read: dict[str, Any] = {}

    def result(self, key: str) -> Result | None:
        """Return a stage's result, or None when it has none."""
        if key not in self._results:
            self._results[key] = self.store.find(self.plan.stages[key].kind, key)
        return self._results[key]

    def read(self, key: str) -> Any:
        """Return what the kind of a stage reads from its result; None when it has none, or the key is empty."""
        result = self.result(key) if key else None
        if result is None:
            return None
        if key not in self._read:
            self._read[key] = read(result)
        return self._read[key]

    def status(self, key: str) -> tuple[str, str]:
        """Return the status of a stage and why it has no result."""
        if self.result(key) is not None:
            return "done", ""
        failure = self.store.failure(key)
        if failure is not None:
            return str(failure["status"]), str(failure["reason"])
        for inputs in self.plan.stages[key].inputs.values():
            for other in inputs:
                status, _ = self.status(other)
                if status not in ("done", "left"):
                    return "skipped", f"needs {self.plan.stages[other].label!r}, which has no result"
        return "left", "has not run yet"

    def failures(self) -> list[Failure]:
        """Return the stages that were tried, or skipped, and have no result."""
        found = []
        for key, stage in self.plan.stages.items():
            status, reason = self.status(key)
            if status not in ("done", "left"):
                found.append(Failure(key, stage.label, status, reason))
        return found

    def notes(self) -> Iterator[str]:
        """Yield the sentences that every report on these results must show."""
        kept = sum((result := self.result(key)) is not None and result.key != key for key in self.plan.stages)
        if kept:
            yield f"{kept} stage results come from older code than today's and were kept with --accept-code."
        for key in self.plan.stages:
            result = self.result(key)
            if result is not None:
                yield from result.notes

    def environments(self) -> list[dict[str, Any]]:
        """Return the records of the results that there are: versions, commit, device."""
        return [found.record for key in self.plan.stages if (found := self.result(key)) is not None]

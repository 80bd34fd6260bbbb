"""What a stage sees while it runs: its specification, the results it reads, and the folder it works in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import HarnessError
from harness.learning.work_folder import WorkFolder
from harness.plugins.contract import Kind, SampleContext
from harness.plugins.registry import load_plugin
from harness.store.results import Result, Store

if TYPE_CHECKING:
    import torch

    from harness.data.pairs import PairSet


@dataclass(frozen=True)
class RunningStage:
    """A stage at work.

    Attributes:
        spec: the stage as the plan wrote it (``Stage`` as JSON): kind, label, key, parts, inputs, runtime.
        store: where the results it reads are.
        context: progress, metrics, pictures, notes, saved state; its folder becomes the result.
        device: where to compute.
        read: opens a result as its kind does (:func:`harness.engine.stages.read`).
    """

    spec: dict[str, Any]
    store: Store
    context: WorkFolder
    device: torch.device
    read: Callable[[Result], Any]

    @property
    def folder(self) -> Path:
        """Where the stage writes its files."""
        return self.context.folder

    @property
    def label(self) -> str:
        """What plans, progress and errors call it."""
        return str(self.spec["label"])

    @property
    def parameters(self) -> dict[str, Any]:
        """The stage's own parameters."""
        return self.spec["parts"]["parameters"]

    @property
    def runtime(self) -> dict[str, Any]:
        """What it needs to run and its key covers already."""
        return self.spec["runtime"]

    @property
    def seed(self) -> int:
        """The stage's seed."""
        return int(self.spec["parts"]["seed"])

    def results(self, name: str) -> list[Result]:
        """Return the results of one input.

        Raises:
            HarnessError: a result is gone since the plan was made.
        """
        found = []
        for kind, key in self.spec["inputs"].get(name, []):
            result = self.store.find(kind, key)
            if result is None:
                raise HarnessError(
                    f"The {kind} result {key[:12]} that {self.label!r} reads is gone; run the study again."
                )
            found.append(result)
        return found

    def inputs(self, name: str) -> list[Any]:
        """Return what the kinds of one input's results read from them."""
        return [self.read(result) for result in self.results(name)]

    def input(self, name: str) -> Any:
        """Return what the kind of an input's only result reads from it."""
        return self.read(self.results(name)[0])

    def plugin(self, kind: Kind) -> Any:
        """Return the stage's plugin, with its parameters."""
        return load_plugin(kind, self.runtime["target"]).create(**self.runtime["plugin-parameters"])

    @cached_property
    def dataset(self) -> Any:
        """The real pairs of the stage's dataset, by role (:class:`harness.engine.stages.dataset.RealPairs`)."""
        return self.input("dataset")

    def sample_context(self, pairs: PairSet) -> SampleContext:
        """Return what a plugin needs to sample or refine."""
        return SampleContext(device=self.device, pairs=pairs)

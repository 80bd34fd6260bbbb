"""What a kind of stage is: all that the plan, the executors, the store's readers and the reports must know about it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

if TYPE_CHECKING:
    from harness.engine.stages.running import RunningStage
    from harness.store.results import Result

R = TypeVar("R")


class StageKind(ABC, Generic[R]):
    """One kind of stage, in one file of ``harness/engine/stages`` or in an extension.

    It alone knows what its stages write: :meth:`run` writes the files, :meth:`read` opens them again, and everything
    else (other stages, results, reports, MLflow) asks for what it returns.

    Attributes:
        name: such as ``train``; the folder of its results in the store.
        version: of the engine's part of it. Raise it when the numbers change that the kind computes.
        large: whether it holds a network and its batches on the device; others are small beside those and may share it.
        resumable: whether it takes up saved state; others start from an empty folder.
        comparable: whether equal amounts of it mean about as much work, whatever plugin does it.
        makes_pool: whether it makes a pool, of which others read the first pairs only.
        learning: modules of ``harness.learning`` that it computes with; their code is part of the keys.
        real_pairs: name of its parameter that says how many real pairs of the fit role it takes, None for all of them;
            empty where there is none.
        not_shown: parameters that other facts say better to people.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    large: ClassVar[bool] = False
    resumable: ClassVar[bool] = False
    comparable: ClassVar[bool] = False
    makes_pool: ClassVar[bool] = False
    learning: ClassVar[tuple[str, ...]] = ()
    real_pairs: ClassVar[str] = ""
    not_shown: ClassVar[tuple[str, ...]] = ()

    @classmethod
    @abstractmethod
    def run(cls, stage: RunningStage) -> dict[str, Any]:
        """Compute; write files into ``stage.folder`` and return the values, small enough for JSON."""

    @classmethod
    @abstractmethod
    def read(cls, result: Result) -> R:
        """Open what :meth:`run` wrote."""

    @classmethod
    def files(cls, result: Result) -> Iterable[Path]:
        """Return the files, or folders, without which a result cannot be used; none unless a kind says better."""
        return ()

    @classmethod
    def claims(cls, result: Result) -> Iterable[frozenset[str] | None]:
        """Return what plugins state of the real pairs behind a result, item by item; nothing unless a kind says better.

        None stands for all that a plugin was given.
        """
        return ()

    @classmethod
    def claims_less(cls, result: Result) -> bool:
        """Whether plugins state to have used fewer real pairs than they were given (``--accept-code`` asks)."""
        return False

    @classmethod
    def numbers(cls, result: Result) -> Iterator[tuple[str, float]]:
        """Yield what a result measured, by name, for MLflow; all numbers among its values unless a kind says better."""
        yield from _numbers(result.values, "")


def _numbers(value: Any, name: str) -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _numbers(inner, f"{name}/{key}" if name else str(key))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield name, float(value) if math.isfinite(value) else math.nan

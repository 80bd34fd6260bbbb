"""Stages of kinds that a study asks for itself, in its section ``stages``: an extension's, beside the built-in ones."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, TypeVar

from harness.engine.builder import PlanBuilder
from harness.engine.graph import Measurement
from harness.engine.kind import StageKind
from harness.engine.stages import kinds
from harness.plugins.contract import Parameters

R = TypeVar("R")


class DeclaredStage(StageKind[R]):
    """A kind of stage that stands in a study by name, as ``stages: [{kind: NAME, ...}]``.

    What its stages measure (:meth:`StageKind.numbers`) has rows in ``results.csv``, whose ``kind`` is its name.

    Attributes:
        Parameters: what the study may say.
    """

    Parameters: ClassVar[type[Parameters]] = Parameters

    @classmethod
    @abstractmethod
    def declare(cls, builder: PlanBuilder, parameters: Any) -> list[Measurement]:
        """Add the stages to ``builder.plan``, and return what they measure.

        Args:
            builder: has the pools, cells and datasets of the study.
            parameters: of :attr:`Parameters`, as the study says them.
        """


def declared_kinds() -> dict[str, type[DeclaredStage[Any]]]:
    """Return the kinds that a study may ask for, by name."""
    return {name: found.thing for name, found in kinds().items() if issubclass(found.thing, DeclaredStage)}

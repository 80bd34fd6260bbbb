"""The checkpoints of a fit, as ``fit`` keeps them and ``select`` and ``sample`` read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.data.pairs import PairSet
    from harness.engine.stages.dataset import RealPairs
    from harness.plugins.contract import Checkpoint


@dataclass(frozen=True)
class FitResult:
    """A fitted generator.

    Attributes:
        key: of the result.
        checkpoints: by step, at least one.
        n_fit: how many real pairs it was given; None for all of the fit role.
        order_seed: of the shuffle of which they are the first.
    """

    key: str
    checkpoints: Sequence[Checkpoint]
    n_fit: int | None
    order_seed: int

    def at(self, step: int) -> Checkpoint:
        """Return the checkpoint of a step."""
        return next(checkpoint for checkpoint in self.checkpoints if checkpoint.step == step)

    def pairs(self, dataset: RealPairs, first: int | None) -> PairSet:
        """Return the real pairs that it was given, or the first so many of them."""
        return dataset.first(self.n_fit if first is None else first, self.order_seed)

"""The checkpoints of a fit, as ``fit`` keeps them and ``select`` and ``sample`` read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.errors import HarnessError

if TYPE_CHECKING:
    from harness.data.pairs import PairSet
    from harness.engine.stages.dataset import RealPairs
    from harness.plugins.contract import Checkpoint


@dataclass(frozen=True)
class FitResult:
    """A fitted generator.

    Attributes:
        key: of the result.
        label: of the result.
        checkpoints: by step, at least one.
        n_pairs: how many real pairs it was given.
        n_fit: how many it was to be given; None for all of the fit role.
        order_seed: of the shuffle of which they are the first.
    """

    key: str
    label: str
    checkpoints: Sequence[Checkpoint]
    n_pairs: int
    n_fit: int | None
    order_seed: int

    @property
    def steps(self) -> list[int]:
        """The steps of the checkpoints."""
        return [checkpoint.step for checkpoint in self.checkpoints]

    def at(self, step: int) -> Checkpoint:
        """Return the checkpoint of a step.

        Raises:
            HarnessError: there is none; says which there are.
        """
        for checkpoint in self.checkpoints:
            if checkpoint.step == step:
                return checkpoint
        steps = ", ".join(map(str, self.steps))
        raise HarnessError(f"The fit {self.key[:12]} has no checkpoint at step {step}; it has {steps}.")

    def pairs(self, dataset: RealPairs, first: int | None, *, pictures: bool = True) -> PairSet:
        """Return the real pairs that it was given, or the first so many of them.

        Args:
            dataset: that it was fitted on.
            first: how many of them; None for all.
            pictures: whether their pixels are wanted; black ones take no memory, and need no files of the dataset.
        """
        count = self.n_fit if first is None else first
        return dataset.first(count, self.order_seed) if pictures else dataset.first_ids(count, self.order_seed)

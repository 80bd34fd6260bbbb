"""A training set as a study names it: so many real pairs, so many synthetic ones of each generator."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """One training set.

    Attributes:
        real: how many real pairs, or None for all of the fit role.
        synthetic: generator names with counts, in declared order, without zeros.
        control: name of the control that makes the ``synthetic`` count, for a control arm.
        n_fit: how many real pairs its generators with ``sees: recipe`` are fitted on, where those are not ``real``.
    """

    real: int | None
    synthetic: tuple[tuple[str, int], ...] = ()
    control: str = ""
    n_fit: int | None = None

    @property
    def label(self) -> str:
        """Readable label, such as ``real=100,dcgan=300``, ``sees=5,singan=50`` or ``real=100,control:resample=300``."""
        parts = [] if self.real == 0 else [f"real={'all' if self.real is None else self.real}"]
        parts += [] if self.n_fit is None else [f"sees={self.n_fit}"]
        prefix = "control:" if self.control else ""
        parts += [f"{prefix}{name}={count}" for name, count in self.synthetic]
        return ",".join(parts) or "nothing"

    @property
    def synthetic_count(self) -> int:
        """Synthetic pairs in all."""
        return sum(count for _, count in self.synthetic)

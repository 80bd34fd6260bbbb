"""The DAG of a study: stages with content keys, what they are for, and the builder that adds them one by one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harness.engine.load import LoadedStudy
from harness.study.recipes import Recipe

if TYPE_CHECKING:
    from harness.data.datasets import Dataset
    from harness.data.splits import Split


#: Pairs of a pool that figures may show.
SHOWN = 24


@dataclass(frozen=True)
class Stage:
    """One unit of work.

    Attributes:
        kind: ``dataset``, ``fit``, ``select``, ``sample``, ``refine``, ``train``, ``evaluate`` or ``fidelity``.
        label: readable and unique within a plan.
        key: SHA-256 of ``parts``.
        key_without_code: the same without code, of this stage and of everything before it (``--accept-code``).
        parts: everything that the result depends on.
        inputs: keys of the stages whose results it reads, by name.
        runtime: what the stage needs to run and the key already covers by a digest (a manifest, where a plugin is).
        pool_key: of a pool, what decides its pairs however many there are; else the key. Recipes depend on it, not on
            the size of the pool that they take their first pairs from.
        work: what ``amount`` counts, for estimates: stages with equal ``work`` take time in proportion to ``amount``.
        amount: how much of it.
    """

    kind: str
    label: str
    key: str
    key_without_code: str
    pool_key: str
    parts: dict[str, Any]
    inputs: dict[str, tuple[str, ...]]
    runtime: dict[str, Any]
    work: str
    amount: float

    @property
    def devices(self) -> int:
        """How many devices of one machine it computes on."""
        return int(self.runtime.get("devices", 1))


@dataclass(frozen=True)
class Cell:
    """One trained segmenter and one of its scores: what the results table has rows for."""

    segmenter: str
    recipe: Recipe
    seed: int
    fold: int
    dataset: str
    role: str
    train: str
    evaluate: str

    @property
    def label(self) -> str:
        """Segmenter and recipe, as ``--only`` takes them."""
        return f"{self.segmenter} * {self.recipe.label}"


@dataclass(frozen=True)
class Pool:
    """One generator's pairs: the stage that holds them and those on the way to it.

    Attributes:
        generator: its name, with ``control:`` before that of a control.
        plugin: names of its plugins.
        fold: of the split.
        real: real pairs that it is made from; None for all of the fit role.
        key: of the stage that holds the pairs.
        count: how many.
        selections: of each part whose checkpoint is selected, the part and the key of its stage; of a fit that serves
            several pools, with the pool that has all its real pairs.
        fidelity: key of the stage that measures it, or empty.
        control: whether it is one of a control arm.
        makes: ``pairs``, or ``masks`` alone, whose images are the masks as grey pictures.
    """

    generator: str
    plugin: str
    fold: int
    real: int | None
    key: str
    count: int
    selections: tuple[tuple[str, str], ...]
    fidelity: str
    control: bool
    makes: str = "pairs"


@dataclass(frozen=True)
class Reference:
    """Real images of a role, measured like a generator's: ``key`` of the stage that measures its ``count`` images.

    ``makes`` is what the generators make that it is a reference to: ``pairs``, or ``masks`` alone.
    """

    role: str
    fold: int
    key: str
    count: int
    makes: str = "pairs"

    @property
    def label(self) -> str:
        """How tables call it: ``real (report)`` or ``real masks (report)``."""
        return f"real{' masks' if self.makes == 'masks' else ''} ({self.role})"


@dataclass
class Plan:
    """The stages of a study in an order that respects their inputs, and what they are for."""

    loaded: LoadedStudy
    dataset: Dataset
    splits: list[Split]
    recipes: list[Recipe]
    segmenters: list[str]
    stages: dict[str, Stage] = field(default_factory=dict)
    cells: list[Cell] = field(default_factory=list)
    pools: list[Pool] = field(default_factory=list)
    references: list[Reference] = field(default_factory=list)
    datasets: dict[int, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def needed(self, keys: list[str]) -> list[str]:
        """Return ``keys`` and everything they depend on, in plan order."""
        wanted: set[str] = set()
        waiting = list(keys)
        while waiting:
            key = waiting.pop()
            if key not in wanted:
                wanted.add(key)
                waiting += [k for group in self.stages[key].inputs.values() for k in group]
        return [key for key in self.stages if key in wanted]

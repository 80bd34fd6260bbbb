"""The graph of a study: stages with content keys, in an order that respects their inputs, and what they are for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harness.engine.keys import absolute, key_parts, without_code
from harness.plugins.contract import Generator, Plugin
from harness.plugins.fingerprint import code_of, code_of_module
from harness.store.results import digest
from harness.study.loaded import LoadedStudy
from harness.study.recipes import Recipe
from harness.study.replicates import Draw
from harness.study.schema import PluginUse

if TYPE_CHECKING:
    from harness.data.datasets import Dataset
    from harness.data.splits import Split
    from harness.engine.kind import StageKind

#: Inputs of which a stage reads the first items only: it depends on what decides those, not on how many there are.
_READ_FROM_THE_FRONT = ("pools", "masks")


@dataclass(frozen=True)
class Stage:
    """One unit of work.

    Attributes:
        kind: name of its :class:`harness.engine.kind.StageKind`.
        label: readable and unique within a plan.
        key: SHA-256 of ``parts``.
        key_without_code: the same without code, of this stage and of everything before it (``--accept-code``).
        parts: everything that the result depends on.
        inputs: keys of the stages whose results it reads, by name.
        runtime: what the stage needs to run and the key already covers by a digest (a manifest, where a plugin is).
        pool_key: of a pool, what decides its pairs however many there are; else the key. What reads a pool's first
            pairs depends on it, not on the size of the pool.
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
    """One trained segmenter and one of its scores: what the results table has rows for.

    Attributes:
        segmenter: its label.
        recipe: of its training set.
        draw: which replicate it is of, and what that has of its own.
        dataset: that it is scored on.
        role: whose images of that.
        train: key of its training.
        evaluate: key of its scores.
        pools: that it learns from.
    """

    segmenter: str
    recipe: Recipe
    draw: Draw
    dataset: str
    role: str
    train: str
    evaluate: str
    pools: tuple[Pool, ...] = ()

    @property
    def seed(self) -> int:
        """Number of the replicate; with seeds of one's own, its seed."""
        return self.draw.replicate

    @property
    def fold(self) -> int:
        """Fold of the split."""
        return self.draw.fold

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
        n_fit: real pairs that it is made from; None for all of the fit role.
        key: of the stage that holds the pairs.
        count: how many.
        selections: of each part whose checkpoint is selected, the part and the key of its stage; of a fit that serves
            several pools, with the pool that has all its real pairs.
        fidelity: key of the stage that measures it, or empty.
        control: whether it is one of a control arm.
        makes: ``pairs``, or ``masks`` alone, whose images are the masks as grey pictures.
        fits: keys of the fits that learned something.
    """

    generator: str
    plugin: str
    fold: int
    n_fit: int | None
    key: str
    count: int
    selections: tuple[tuple[str, str], ...]
    fidelity: str
    control: bool
    makes: str = "pairs"
    fits: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """Its generator, with the real pairs that it was fitted on when those are not all of the fit role."""
        return self.generator if self.n_fit is None else f"{self.generator} on {self.n_fit} real"


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


@dataclass(frozen=True)
class Trivial:
    """What predictions score that look at no image, on a role of a dataset: ``key`` of the stage that scores them."""

    fold: int
    dataset: str
    role: str
    key: str


@dataclass(frozen=True)
class Measurement:
    """What a stage measures of which a study says itself that it shall be.

    Attributes:
        label: what tables call it.
        fold: of the split.
        key: of the stage.
        generator: whose pairs are measured, where it is of one.
    """

    label: str
    fold: int
    key: str
    generator: str = ""


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
    trivial: list[Trivial] = field(default_factory=list)
    measurements: list[Measurement] = field(default_factory=list)
    datasets: dict[int, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def several_folds(self) -> bool:
        """Whether the split has folds."""
        return len(self.splits) > 1

    def in_fold(self, label: str, fold: int) -> str:
        """Return a label with the fold behind it, where there are several."""
        return f"{label} * fold={fold}" if self.several_folds else label

    def n_fit(self, n_fit: int | None, fold: int) -> int:
        """Return how many real pairs are meant by a number of them, or by all of the fit role (None)."""
        return len(self.splits[fold].ids("fit")) if n_fit is None else n_fit

    def add(
        self,
        kind: type[StageKind[Any]],
        label: str,
        parameters: dict[str, Any],
        inputs: Mapping[str, tuple[str, ...]],
        *,
        plugin: Plugin | None = None,
        use: PluginUse | None = None,
        seed: int = 0,
        runtime: dict[str, Any] | None = None,
        code: Mapping[str, str] | None = None,
        work: str = "",
        amount: float = 1.0,
    ) -> str:
        """Add a stage and return its key; equal stages become one.

        Args:
            kind: of the stage.
            label: readable; a digest is added where another stage has it already.
            parameters: of the stage, part of the key.
            inputs: keys of the stages that it reads, by name.
            plugin: that computes it, as declared.
            use: the declaration of the plugin.
            seed: of what it draws.
            runtime: what it needs to run and the key covers already.
            code: fingerprints of code that it computes with, besides those of the kind and the plugin.
            work: what ``amount`` counts, where the kind, the plugin and the image size do not say it all.
            amount: how much work it is.
        """
        own = {} if kind.__module__.startswith("harness.") else code_of(kind)
        own = {f"stage {name}": mark for name, mark in own.items()}
        learned = {name: mark for module in kind.learning for name, mark in code_of_module(module).items()}
        reads = {name: [self._depended_on(name, key) for key in keys] for name, keys in inputs.items()}
        parts = key_parts(kind.name, kind.version, parameters, seed, reads, {**learned, **own, **(code or {})}, plugin)
        key = digest(parts)
        if key in self.stages:
            return key
        attached = dict(runtime or {})
        if plugin is not None and use is not None:
            attached["target"] = absolute(use.plugin)
            attached["plugin-parameters"] = plugin.parameters.model_dump(mode="json")
            if kind.name == "fit" and isinstance(plugin, Generator):
                attached["devices"] = plugin.devices()
        if any(other.label == label for other in self.stages.values()):
            label = f"{label} [{key[:8]}]"
        self.stages[key] = Stage(
            kind.name,
            label,
            key,
            self._key_without_code(parts, inputs),
            self._pool_key(parts, inputs) if kind.makes_pool else key,
            parts,
            dict(inputs),
            attached,
            " ".join([kind.name, plugin.name if plugin else "", f"{self.loaded.study.dataset.size}px", work]).strip(),
            amount,
        )
        return key

    def _depended_on(self, name: str, key: str) -> str:
        return self.stages[key].pool_key if name in _READ_FROM_THE_FRONT else key

    def _key_without_code(self, parts: Mapping[str, Any], inputs: Mapping[str, tuple[str, ...]]) -> str:
        """Return what a key would be if no code were part of it, of this stage and of everything before it."""
        reads = {name: [self.stages[key].key_without_code for key in keys] for name, keys in inputs.items()}
        return digest({**without_code(parts), "inputs": reads})

    def _pool_key(self, parts: Mapping[str, Any], inputs: Mapping[str, tuple[str, ...]]) -> str:
        """Return the digest of a pool's parts without its size."""
        parameters = {name: value for name, value in parts["parameters"].items() if name != "count"}
        reads = {name: [self.stages[key].pool_key for key in keys] for name, keys in inputs.items()}
        return digest({**parts, "parameters": parameters, "inputs": reads})

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

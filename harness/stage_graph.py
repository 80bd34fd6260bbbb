"""The DAG of a study: stages with content keys, what they are for, and the builder that adds them one by one."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.code_fingerprint import code_of
from harness.home import threads
from harness.plugins import Generator, Plugin, load_plugin
from harness.stages import VERSIONS
from harness.store import digest
from harness.study import ROLES, Budget, GeneratorDeclaration, GeneratorUse, PluginUse, Recipe, SegmenterUse
from harness.study_file import LoadedStudy

if TYPE_CHECKING:
    from harness.data.datasets import Dataset
    from harness.data.splits import Role, Split

#: Pairs of a pool that figures may show.
SHOWN = 24


@dataclass(frozen=True)
class Stage:
    """One unit of work.

    Attributes:
        kind: ``dataset``, ``fit``, ``select``, ``sample``, ``refine``, ``train``, ``evaluate`` or ``fidelity``.
        label: readable and unique within a plan.
        key: SHA-256 of ``parts``.
        identity: the same without code, of this stage and of everything before it (``--accept-code``).
        parts: everything that the result depends on.
        inputs: keys of the stages whose results it reads, by name.
        attachments: what the stage needs to run and the key already covers by a digest (a manifest, where a plugin is).
        stream: of a pool, what decides its pairs however many there are; else the key. Recipes depend on it, not on
            the size of the pool that they take their first pairs from.
        work: what ``amount`` counts, for estimates: stages with equal ``work`` take time in proportion to ``amount``.
        amount: how much of it.
    """

    kind: str
    label: str
    key: str
    identity: str
    stream: str
    parts: dict[str, Any]
    inputs: dict[str, tuple[str, ...]]
    attachments: dict[str, Any]
    work: str
    amount: float

    @property
    def devices(self) -> int:
        """How many devices of one machine it computes on."""
        return int(self.attachments.get("devices", 1))


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


class PlanBuilder:
    """Adds stages to a plan; equal stages become one."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.study = plan.loaded.study
        self.pools: dict[tuple[str, bool, int, int | None], Pool] = {}

    def stage(
        self,
        kind: str,
        label: str,
        parameters: dict[str, Any],
        inputs: Mapping[str, tuple[str, ...]],
        *,
        plugin: Plugin | None = None,
        use: PluginUse | None = None,
        seed: int = 0,
        attachments: dict[str, Any] | None = None,
        amount: float = 1.0,
    ) -> str:
        """Add a stage and return its key."""
        parts: dict[str, Any] = {
            "kind": kind,
            "version": VERSIONS[kind],
            "parameters": parameters,
            "seed": seed,
            "inputs": self._depends_on(inputs, by_stream=kind == "train"),
        }
        if threads() != 1:
            parts["numerics"] = {"threads": threads()}
        attached = dict(attachments or {})
        if plugin is not None and use is not None:
            parts["plugin"] = {"name": plugin.name, "version": plugin.version}
            unread = set(plugin.sampling) if kind == "fit" and isinstance(plugin, Generator) else None
            parts["plugin-parameters"] = _portable(plugin.parameters.model_dump(mode="json", exclude=unread))
            parts["code"] = code_of(type(plugin))
            if surroundings := plugin.surroundings():
                parts["surroundings"] = surroundings
            attached["target"] = _absolute(use.plugin)
            attached["plugin-parameters"] = plugin.parameters.model_dump(mode="json")
            if kind == "fit" and isinstance(plugin, Generator):
                attached["devices"] = plugin.devices()
        key = digest(parts)
        if key not in self.plan.stages:
            stages = self.plan.stages
            without_code = {name: value for name, value in parts.items() if name != "code"}
            without_code["inputs"] = {n: [stages[k].identity for k in keys] for n, keys in inputs.items()}
            work = f"{kind} {plugin.name if plugin else ''} {self.study.dataset.size}px"
            if kind in ("train", "evaluate"):
                work += f" {label.split(' * ')[0].split()[-1]}"
            if any(other.label == label for other in stages.values()):
                label = f"{label} [{key[:8]}]"
            stream = self._stream(parts, inputs) if kind in ("sample", "refine") else key
            identity = digest(without_code)
            stages[key] = Stage(kind, label, key, identity, stream, parts, dict(inputs), attached, work, amount)
        return key

    def _depends_on(self, inputs: Mapping[str, tuple[str, ...]], by_stream: bool) -> dict[str, list[str]]:
        """Return what stands in a stage's parts for the stages that it reads.

        Images are made for the first masks of their pool, and depend on its stream like recipes on that of their pools.
        """
        stages = self.plan.stages
        return {
            name: [stages[key].stream if by_stream or name == "masks" else key for key in keys]
            for name, keys in inputs.items()
        }

    def _stream(self, parts: dict[str, Any], inputs: Mapping[str, tuple[str, ...]]) -> str:
        """Return the digest of a pool's parts without its size."""
        parameters = {name: value for name, value in parts["parameters"].items() if name != "count"}
        return digest({**parts, "parameters": parameters, "inputs": self._depends_on(inputs, by_stream=True)})

    def dataset(self, source: Dataset, split: Split, label: str, options: dict[str, Any]) -> str:
        """Add the stage that decodes a dataset and holds its split."""
        from harness.data import decoding, phantom

        declared = self.study.dataset
        pixels = [decoding.VERSION, *([phantom.VERSION] if source.name == "phantom" else [])]
        return self.stage(
            "dataset",
            label,
            {
                "source": source.name,
                "fingerprint": source.fingerprint,
                "size": declared.size,
                "geometry": declared.geometry,
                "split": split.digest,
                "pixels": pixels,
            },
            {},
            attachments={"split": split.to_json(), "options": options},
            amount=len(source.entries),
        )

    # generators

    def pool(self, name: str, declared: GeneratorDeclaration, fold: int, seen: int | None, control: bool) -> Pool:
        """Add the stages of one generator, fitted on so many real pairs (None: all), and return its pool."""
        if (name, control, fold, seen) in self.pools:
            return self.pools[name, control, fold, seen]
        count = self._largest_count(name, declared, fold, seen, control)
        shown = f"control:{name}" if control else name
        where = self._where(shown, seen, fold)
        selections: list[tuple[str, str]] = []
        made: str | None = None
        for part, use in declared.uses():
            fitted = seen if control else self._fitted_on(name, declared, use, seen)
            amount = self._masks_for(declared, count) if part == "masks" and declared.images else count
            made, selected = self._sampled(part, use, declared, shown, fold, seen, fitted, amount, made)
            # What is shared by several pools is told of once, with the pool that has all of it.
            selections += [(part, selected)] if selected and fitted == seen else []
        assert made is not None
        for i, refine in enumerate(declared.refine):
            plugin = load_plugin("refiners", refine.plugin).create(**refine.values())
            inputs = {"dataset": (self.plan.datasets[fold],), "pool": (made,)}
            label = f"refine {where} with {plugin.name}{f' ({i + 1})' if i else ''}"
            parameters = {"real": seen, "order-seed": self.study.dataset.seed}
            made = self.stage(
                "refine", label, parameters, inputs, plugin=plugin, use=refine, seed=declared.seed, amount=count
            )
        fidelity = "" if control or not self.study.fidelity else self._fidelity(where, fold, made, seen)
        plugin_names = "+".join(use.plugin for _, use in declared.uses())
        pool = Pool(shown, plugin_names, fold, seen, made, count, tuple(selections), fidelity, control, declared.makes)
        self.pools[name, control, fold, seen] = pool
        self.plan.pools.append(pool)
        return pool

    def _where(self, shown: str, seen: int | None, fold: int) -> str:
        return f"{shown}{'' if seen is None else f' on {seen} real'}{self._fold_suffix(fold)}"

    def _fitted_on(self, name: str, declared: GeneratorDeclaration, use: GeneratorUse, seen: int | None) -> int | None:
        """Return how many real pairs the fit behind a pool has; None for all of the fit role.

        One model a pair, and nested subsets: a fit on the most pairs that any recipe needs holds the models of all.
        """
        if load_plugin("generators", use.plugin).card.needs != "image":
            return seen
        needed = [seen, *(declared.fitted_on(recipe) for recipe, _ in self._uses_of(name, control=False))]
        return None if None in needed else max(n for n in needed if n is not None)

    def _uses_of(self, name: str, control: bool) -> Iterator[tuple[Recipe, int]]:
        """Yield the recipes that take from a generator, each with how many pairs it takes."""
        for recipe in self.plan.recipes:
            for generator, count in recipe.synthetic:
                if generator == name and bool(recipe.control) == control:
                    yield recipe, count

    def _largest_count(
        self, name: str, declared: GeneratorDeclaration, fold: int, seen: int | None, control: bool
    ) -> int:
        """Return the most pairs that any recipe asks of a pool (smaller ones take its first), or fidelity.

        What only chooses checkpoints has as many as figures show.
        """
        uses = self._uses_of(name, control)
        counts = [count for recipe, count in uses if declared.fitted_on(recipe) == seen]
        if self.study.fidelity and not control:
            size = self.study.fidelity.size(self._number_of(seen, fold))
            counts += [self.study.fidelity.sets * size] if size else []
        return max(counts, default=200 if self.study.fidelity else SHOWN)

    def _masks_for(self, declared: GeneratorDeclaration, count: int) -> int:
        """Return how many masks a pool of so many images needs, and the choice of a checkpoint by samples of images."""
        assert declared.images is not None
        select = declared.images.select
        return math.ceil(max(count, select.samples if select else 0) / declared.images_per_mask)

    def _number_of(self, seen: int | None, fold: int) -> int:
        """Return how many real pairs of the fit role are meant."""
        return len(self.plan.splits[fold].ids("fit")) if seen is None else seen

    def fit(
        self, part: str, use: GeneratorUse, declared: GeneratorDeclaration, where: str, fold: int, real: int | None
    ) -> str:
        """Add the stage that fits one plugin of a generator on so many real pairs."""
        plugin = load_plugin("generators", use.plugin).create(**use.values())
        label = f"fit {where if part == 'pairs' else f'{where} {part}'}"
        scope = {"real": real, "order-seed": self.study.dataset.seed}
        inputs = {"dataset": (self.plan.datasets[fold],)}
        steps = float(getattr(plugin.parameters, "steps", None) or 1)
        models = self._number_of(real, fold) if plugin.card.needs == "image" else 1
        amount = steps * models
        return self.stage("fit", label, scope, inputs, plugin=plugin, use=use, seed=declared.seed, amount=amount)

    def _sampled(
        self,
        part: str,
        use: GeneratorUse,
        declared: GeneratorDeclaration,
        shown: str,
        fold: int,
        seen: int | None,
        fitted: int | None,
        count: int,
        masks: str | None,
    ) -> tuple[str, str]:
        """Add fit, select and sample of one plugin; return the keys of sample and select (or an empty string).

        Args:
            part: ``pairs``, ``masks`` or ``images``.
            use: the plugin.
            declared: the pipeline that it is a part of.
            shown: how the generator is called.
            fold: of the split.
            seen: real pairs that the pool is made from (None: all).
            fitted: real pairs that the fit has: those of the pool, or more.
            count: items in the pool.
            masks: key of the pool of masks that images are made for.
        """
        plugin = load_plugin("generators", use.plugin).create(**use.values())
        dataset = (self.plan.datasets[fold],)
        places = [self._where(shown, real, fold) for real in (seen, fitted)]
        named, named_fit = (place if part == "pairs" else f"{place} {part}" for place in places)
        fit = self.fit(part, use, declared, places[1], fold, fitted)
        conditions = {"masks": (masks,)} if masks else {}
        # One image a mask is what there was before there were several: its keys stay.
        several = {"images-per-mask": declared.images_per_mask} if masks and declared.images_per_mask > 1 else {}
        selected = ""
        if use.select:
            parameters = {**_named_network(use.select.model_dump(mode="json")), "seed": declared.seed, **several}
            selected = self.stage(
                "select",
                f"select {named_fit}",
                parameters,
                {"dataset": dataset, "fit": (fit,), **conditions},
                plugin=plugin,
                use=use,
                seed=declared.seed,
                attachments={"network": use.select.network},
                amount=use.select.samples,
            )
        inputs = {"dataset": dataset, "fit": (fit,), **({"select": (selected,)} if selected else {}), **conditions}
        sample = self.stage(
            "sample",
            f"sample {named}",
            {"count": count, **({} if seen == fitted else {"real": seen}), **several},
            inputs,
            plugin=plugin,
            use=use,
            seed=declared.seed,
            amount=count,
        )
        return sample, selected

    def _fidelity(self, where: str, fold: int, pool: str, seen: int | None) -> str:
        assert self.study.fidelity is not None
        sets = self.study.fidelity.sets
        # One set is what stages measured before there were several: their keys stay.
        several = {"sets": sets} if sets > 1 else {}
        return self._measured(f"measure {where}", fold, {"pool": (pool,)}, self._number_of(seen, fold), **several)

    def _measured(self, label: str, fold: int, inputs: dict[str, tuple[str, ...]], seen: int, **of: str | int) -> str:
        declared = self.study.fidelity
        assert declared is not None
        # The key of the training stands for the segmenter and its budget.
        beside = {"references", "segmenter", "budget", "sets"}
        declaration = {**declared.model_dump(mode="json", exclude=beside), "samples": declared.size(seen)}
        parameters = _named_network(declaration) | of
        trained, segmenter = self._segmenter_of_agreement(fold) if "agreement" in declared.metrics else ({}, {})
        read = {"dataset": (self.plan.datasets[fold],), **inputs, **trained}
        attachments = {"network": declared.network, **segmenter}
        amount = float(of.get("sets", 1))
        return self.stage("fidelity", label, parameters, read, attachments=attachments, amount=amount)

    def _segmenter_of_agreement(self, fold: int) -> tuple[dict[str, tuple[str, ...]], dict[str, Any]]:
        """Add the training of the segmenter that judges pairs; return it as an input, and what it takes to load it."""
        declared = self.study.fidelity
        assert declared is not None
        use = declared.segmenter or self.study.segmenters[0]
        plugin = load_plugin("segmenters", use.plugin).create(**use.values())
        key = self.training(use, Recipe(None), self.study.seeds[0], fold, (), declared.budget or self.study.budget)
        parameters = plugin.parameters.model_dump(mode="json")
        loaded = {"target": _absolute(use.plugin), "plugin-parameters": parameters}
        return {"train": (key,)}, {**loaded, "segmenter": use.name or plugin.label}

    def reference(self, role: Role, fold: int, makes: str) -> None:
        """Add the stage that measures the real images of a role like synthetic ones, unless they are the reference.

        Where each generator is compared with what it has seen itself, there is nothing to compare them with.

        Args:
            role: whose images.
            fold: of the split.
            makes: what the generators make that it is a reference to: of ``masks`` alone, the real masks are measured.
        """
        count = len(self.plan.splits[fold].ids(role))
        assert self.study.fidelity is not None
        if count < 2 or self.study.fidelity.against in (role, "seen"):
            return
        # Pairs are what was measured before generators of masks could be: their keys stay.
        of_masks = {"of": "masks"} if makes == "masks" else {}
        label = f"measure {Reference(role, fold, '', count, makes).label}{self._fold_suffix(fold)}"
        key = self._measured(label, fold, {}, self._number_of(None, fold), real=role, **of_masks)
        self.plan.references.append(Reference(role, fold, key, count, makes))

    # segmenters

    def cell(self, use: SegmenterUse, recipe: Recipe, seed: int, fold: int) -> None:
        """Add the training of one segmenter on one recipe, and its scores."""
        plugin = load_plugin("segmenters", use.plugin).create(**use.values())
        name = use.name or plugin.label
        pools: list[tuple[str, int]] = []
        if recipe.control != "real-repeated":
            for generator, count in recipe.synthetic:
                declared = self._declared(generator, recipe)
                pool = self.pool(generator, declared, fold, declared.fitted_on(recipe), bool(recipe.control))
                pools.append((pool.key, count))
        suffix = f"seed={seed}{self._fold_suffix(fold)}"
        train = self.training(use, recipe, seed, fold, pools, self.study.budget)
        dataset = (self.plan.datasets[fold],)
        for on in self.study.evaluate.on:
            role = on if on in ROLES else "report"
            scored = dataset if on in ROLES else (self._other_dataset(on),)
            evaluate = self.stage(
                "evaluate",
                f"evaluate {name} * {recipe.label} * {suffix}{'' if on == 'report' else f' * on={on}'}",
                {
                    "role": role,
                    "zero-division": self.study.evaluate.zero_division,
                    "protocol": self.study.protocol,
                },
                {"dataset": dataset, "scored": scored, "train": (train,)},
                plugin=plugin,
                use=use,
                attachments={"pictures": self.study.report.predictions},
            )
            where = self.plan.dataset.name if on in ROLES else on
            self.plan.cells.append(Cell(name, recipe, seed, fold, where, role, train, evaluate))

    def training(
        self, use: SegmenterUse, recipe: Recipe, seed: int, fold: int, pools: Sequence[tuple[str, int]], budget: Budget
    ) -> str:
        """Add the training of one segmenter on one recipe and return its key.

        Args:
            use: the segmenter.
            recipe: its training set.
            seed: of the training.
            fold: of the split.
            pools: keys of the pools that the recipe takes from, with the pairs it takes of each.
            budget: how long it trains.
        """
        plugin = load_plugin("segmenters", use.plugin).create(**use.values())
        steps = self._steps(recipe, fold, plugin.batch_size, budget)
        parameters = {
            "real": recipe.real,
            "order-seed": self.study.dataset.seed,
            "synthetic": [count for _, count in pools],
            "repeat-real": recipe.synthetic_count if recipe.control == "real-repeated" else 0,
            "steps": steps,
            "validations": budget.validations,
            "select-role": "report" if self.study.protocol == "published" else "select",
        }
        return self.stage(
            "train",
            f"train {use.name or plugin.label} * {recipe.label} * seed={seed}{self._fold_suffix(fold)}",
            parameters,
            {"dataset": (self.plan.datasets[fold],), "pools": tuple(key for key, _ in pools)},
            plugin=plugin,
            use=use,
            seed=seed,
            amount=steps,
        )

    def _declared(self, generator: str, recipe: Recipe) -> GeneratorDeclaration:
        if recipe.control:
            return GeneratorDeclaration(pairs=GeneratorUse(plugin=recipe.control), sees="recipe")
        return self.study.generators[generator]

    def _steps(self, recipe: Recipe, fold: int, batch_size: int, budget: Budget) -> int:
        """Return the optimiser steps of a recipe."""
        if budget.steps is not None:
            return budget.steps
        assert budget.epochs is not None
        available = len(self.plan.splits[fold].ids("fit"))
        real = available if recipe.real is None else recipe.real
        return budget.epochs * math.ceil((real + recipe.synthetic_count) / batch_size)

    def _other_dataset(self, name: str) -> str:
        """Add a dataset that is only scored on: all of its images are report images."""
        from harness.data.datasets import open_dataset
        from harness.data.splits import Split

        other = open_dataset(name)
        roles: dict[str, Role] = {entry.id: "report" for entry in other.entries}
        split = Split(other.name, other.fingerprint, "all report", roles, {}, ())
        return self.dataset(other, split, f"dataset {name}", {})

    def _fold_suffix(self, fold: int) -> str:
        return f" * fold={fold}" if len(self.plan.splits) > 1 else ""


def _absolute(target: str) -> str:
    """Make the path of ``path/to/file.py:Class`` absolute, so that a stage finds it from anywhere."""
    where, colon, attribute = target.rpartition(":")
    return f"{Path(where).resolve()}{colon}{attribute}" if where.endswith(".py") else target


def _named_network(parameters: dict[str, Any]) -> dict[str, Any]:
    """Replace the files that a feature network's name points at by what they hold."""
    if not parameters["network"]:
        return parameters
    name, at, path = parameters["network"].partition("@")
    code, colon, attribute = name.rpartition(":")
    return {**parameters, "network": [_portable(code), f"{colon}{attribute}", at, _portable(path)]}


def _portable(value: Any) -> Any:
    """Replace the path of a file or folder by the digest of its content: keys hold contents, never paths."""
    if isinstance(value, dict):
        return {key: _portable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_portable(item) for item in value]
    if isinstance(value, str) and ("/" in value or "." in value) and len(value) < 1024:
        path = Path(value).expanduser()
        if path.is_file():
            return {"file-sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        if path.is_dir():
            return {"folder-sha256": _digest_of_folder(path)}
    return value


def _digest_of_folder(folder: Path) -> str:
    """Return the SHA-256 of the files below a folder: their contents and their names within it."""
    whole = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        whole.update(f"{path.relative_to(folder).as_posix()}\0{content}\n".encode())
    return whole.hexdigest()

"""Adds the stages of a study to a plan one by one; equal stages become one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from harness.engine.stages import VERSIONS
from harness.home import threads
from harness.learning.batches import steps_for_epochs
from harness.plugins.contract import Generator, Plugin
from harness.plugins.fingerprint import code_of
from harness.plugins.registry import load_plugin
from harness.store.results import digest
from harness.study.recipes import Recipe
from harness.study.schema import ROLES, Budget, GeneratorDeclaration, GeneratorUse, PluginUse, SegmenterUse

if TYPE_CHECKING:
    from harness.data.datasets import Dataset
    from harness.data.splits import Role, Split

from harness.engine.graph import SHOWN, Cell, Plan, Pool, Reference, Stage
from harness.engine.keys import _absolute, _named_network, _portable


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
        runtime: dict[str, Any] | None = None,
        amount: float = 1.0,
    ) -> str:
        """Add a stage and return its key."""
        parts: dict[str, Any] = {
            "kind": kind,
            "version": VERSIONS[kind],
            "parameters": parameters,
            "seed": seed,
            "inputs": self._depends_on(inputs, by_pool_key=kind == "train"),
        }
        if threads() != 1:
            parts["numerics"] = {"threads": threads()}
        attached = dict(runtime or {})
        if plugin is not None and use is not None:
            parts["plugin"] = {"name": plugin.name, "version": plugin.version}
            unread = set(plugin.sampling) if kind == "fit" and isinstance(plugin, Generator) else None
            parts["plugin-parameters"] = _portable(plugin.parameters.model_dump(mode="json", exclude=unread))
            parts["code"] = code_of(type(plugin))
            if environment := plugin.environment_key():
                parts["surroundings"] = environment  # as keys have always called it
            attached["target"] = _absolute(use.plugin)
            attached["plugin-parameters"] = plugin.parameters.model_dump(mode="json")
            if kind == "fit" and isinstance(plugin, Generator):
                attached["devices"] = plugin.devices()
        key = digest(parts)
        if key not in self.plan.stages:
            stages = self.plan.stages
            without_code = {name: value for name, value in parts.items() if name != "code"}
            without_code["inputs"] = {n: [stages[k].key_without_code for k in keys] for n, keys in inputs.items()}
            work = f"{kind} {plugin.name if plugin else ''} {self.study.dataset.size}px"
            if kind in ("train", "evaluate"):
                work += f" {label.split(' * ')[0].split()[-1]}"
            if any(other.label == label for other in stages.values()):
                label = f"{label} [{key[:8]}]"
            pool_key = self._pool_key(parts, inputs) if kind in ("sample", "refine") else key
            key_without_code = digest(without_code)
            stages[key] = Stage(
                kind, label, key, key_without_code, pool_key, parts, dict(inputs), attached, work, amount
            )
        return key

    def _depends_on(self, inputs: Mapping[str, tuple[str, ...]], by_pool_key: bool) -> dict[str, list[str]]:
        """Return what stands in a stage's parts for the stages that it reads.

        Images are made for the first masks of their pool, and depend on its ``pool_key`` as recipes do on those of
        their pools.
        """
        stages = self.plan.stages
        return {
            name: [stages[key].pool_key if by_pool_key or name == "masks" else key for key in keys]
            for name, keys in inputs.items()
        }

    def _pool_key(self, parts: dict[str, Any], inputs: Mapping[str, tuple[str, ...]]) -> str:
        """Return the digest of a pool's parts without its size."""
        parameters = {name: value for name, value in parts["parameters"].items() if name != "count"}
        return digest({**parts, "parameters": parameters, "inputs": self._depends_on(inputs, by_pool_key=True)})

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
            runtime={"split": split.to_json(), "options": options},
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
        if not load_plugin("generators", use.plugin).card.one_model_a_pair:
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
        models = self._number_of(real, fold) if plugin.card.one_model_a_pair else 1
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
                runtime={"network": use.select.network},
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
        runtime = {"network": declared.network, **segmenter}
        amount = float(of.get("sets", 1))
        return self.stage("fidelity", label, parameters, read, runtime=runtime, amount=amount)

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
                runtime={"pictures": self.study.report.predictions},
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
        return steps_for_epochs(real + recipe.synthetic_count, batch_size, budget.epochs)

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

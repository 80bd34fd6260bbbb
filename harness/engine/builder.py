"""Lays out what a study asks for: pools of generators, trained segmenters with their scores, and measurements.

Which stage is added how, each stage kind says itself (``add`` in ``harness/engine/stages``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from harness.engine.controls import REAL_REPEATED
from harness.engine.graph import Cell, Plan, Pool, Reference, Trivial
from harness.engine.stages.dataset import DatasetStage
from harness.engine.stages.evaluate import EvaluateStage
from harness.engine.stages.fidelity import FidelityStage
from harness.engine.stages.fit import FitStage
from harness.engine.stages.refine import RefineStage
from harness.engine.stages.sample import SampleStage
from harness.engine.stages.select import SelectStage
from harness.engine.stages.train import TrainStage
from harness.engine.stages.trivial import TrivialStage
from harness.plugins.registry import load_plugin
from harness.study.recipes import Recipe
from harness.study.replicates import Draw, redrawn
from harness.study.schema import ROLES, GeneratorDeclaration, GeneratorUse, SegmenterUse

if TYPE_CHECKING:
    from harness.data.splits import Role

#: Pairs of a pool that nothing but figures reads.
SHOWN = 24
#: Pairs of a pool that is measured, where nothing says how many.
_MEASURED = 200


def _of_pool(draw: Draw, n_fit: int | None) -> Draw:
    """Return what of a draw a pool and its fit depend on: which real images only where they are not all."""
    return replace(draw, replicate=0, training=0, subset=0 if n_fit is None else draw.subset)


class PlanBuilder:
    """Adds what a study asks for to a plan; a pool that several recipes take from is added once."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.study = plan.loaded.study
        self.pools: dict[tuple[str, bool, int | None, Draw], Pool] = {}
        #: The first masks of each fit: what the checkpoints of images are compared by, whichever pool is made of them.
        self._first_masks: dict[tuple[str, int | None, Draw], str] = {}

    # generators

    def pool(self, name: str, declared: GeneratorDeclaration, draw: Draw, n_fit: int | None, control: bool) -> Pool:
        """Add the stages of one generator, fitted on so many real pairs (None: all), and return its pool.

        The first draw of each fold is the one that is measured and shown.
        """
        draw = _of_pool(draw, n_fit)
        if (name, control, n_fit, draw) in self.pools:
            return self.pools[name, control, n_fit, draw]
        fold, seed = draw.fold, redrawn(declared.seed, draw.pool)
        first = not any(key[:3] == (name, control, n_fit) and key[3].fold == fold for key in self.pools)
        count = self._largest_count(name, declared, fold, n_fit, control, measured=first)
        shown = f"control:{name}" if control else name
        where = f"{self._where(shown, n_fit, draw)}{f' * pool={draw.pool}' if draw.pool else ''}"
        selections: list[tuple[str, str]] = []
        fits: list[str] = []
        made = ""
        for part, use in declared.uses():
            of_model = n_fit if control else self._n_fit_of_model(name, declared, use, n_fit)
            amount = self._masks_for(declared, count, first) if part == "masks" and declared.images else count
            made, selected, fit = self._sampled(part, use, declared, shown, draw, (n_fit, of_model), amount, made)
            fits += [fit] if load_plugin("generators", use.plugin).card.learns else []
            # What is shared by several pools is told of once, with the pool that has all of it.
            selections += [(part, selected)] if selected and of_model == n_fit and first else []
        for i, refine in enumerate(declared.refine):
            refiner = load_plugin("refiners", refine.plugin).create(**refine.values())
            label = f"{where} with {refiner.name}{f' ({i + 1})' if i else ''}"
            order = self._order(draw)
            made = RefineStage.add(
                self.plan, refine, label, fold, made, n_fit=n_fit, order=order, seed=seed, count=count
            )
        measured = self.study.fidelity and not control and first
        fidelity = FidelityStage.add(self.plan, where, fold, pool=made, n_fit=n_fit) if measured else ""
        plugins = "+".join(use.plugin for _, use in declared.uses())
        pool = Pool(
            shown, plugins, fold, n_fit, made, count, tuple(selections), fidelity, control, declared.makes, tuple(fits)
        )
        self.pools[name, control, n_fit, draw] = pool
        if first:
            self.plan.pools.append(pool)
        return pool

    def _order(self, draw: Draw) -> int:
        return redrawn(self.study.order(), draw.subset)

    def _where(self, shown: str, n_fit: int | None, draw: Draw) -> str:
        drawn = f"{f' * subset={draw.subset}' if draw.subset else ''}{f' * fit={draw.fit}' if draw.fit else ''}"
        return self.plan.in_fold(f"{shown}{'' if n_fit is None else f' on {n_fit} real'}{drawn}", draw.fold)

    def _n_fit_of_model(
        self, name: str, declared: GeneratorDeclaration, use: GeneratorUse, n_fit: int | None
    ) -> int | None:
        """Return how many real pairs the fit behind a pool has; None for all of the fit role.

        One model a pair, and nested subsets: a fit on the most pairs that any recipe needs holds the models of all.
        """
        if not load_plugin("generators", use.plugin).card.one_model_a_pair:
            return n_fit
        needed = [n_fit, *(declared.n_fit(recipe) for recipe, _ in self._uses_of(name, control=False))]
        return None if None in needed else max(n for n in needed if n is not None)

    def _uses_of(self, name: str, control: bool) -> Iterator[tuple[Recipe, int]]:
        """Yield the recipes that take from a generator, each with how many pairs it takes."""
        for recipe in self.plan.recipes:
            for generator, count in recipe.synthetic:
                if generator == name and bool(recipe.control) == control:
                    yield recipe, count

    def _largest_count(
        self, name: str, declared: GeneratorDeclaration, fold: int, n_fit: int | None, control: bool, *, measured: bool
    ) -> int:
        """Return the most pairs that any recipe asks of a pool (smaller ones take its first), or fidelity.

        What only chooses checkpoints has as many as figures show.
        """
        uses = self._uses_of(name, control)
        counts = [count for recipe, count in uses if declared.n_fit(recipe) == n_fit]
        if self.study.fidelity and not control and measured:
            size = self.study.fidelity.size(self.plan.n_fit(n_fit, fold))
            counts += [self.study.fidelity.sets * size] if size else []
        return max(counts, default=_MEASURED if self.study.fidelity else SHOWN)

    def _masks_for(self, declared: GeneratorDeclaration, count: int, chosen: bool) -> int:
        """Return how many masks so many images need, and the choice of a checkpoint where that is by these masks."""
        assert declared.images is not None
        select = declared.images.select
        return math.ceil(max(count, select.samples if select and chosen else 0) / declared.images_per_mask)

    def fit(
        self, part: str, use: GeneratorUse, declared: GeneratorDeclaration, where: str, draw: Draw, n_fit: int | None
    ) -> str:
        """Add the fit of one plugin of a generator on so many real pairs; return its key."""
        label = where if part == "pairs" else f"{where} {part}"
        seed = redrawn(declared.seed, draw.fit)
        return FitStage.add(self.plan, use, label, draw.fold, n_fit, seed, self._order(draw))

    def _sampled(
        self,
        part: str,
        use: GeneratorUse,
        declared: GeneratorDeclaration,
        shown: str,
        draw: Draw,
        n_fit: tuple[int | None, int | None],
        count: int,
        masks: str,
    ) -> tuple[str, str, str]:
        """Add fit, select and sample of one plugin; return the keys of sample, select (or nothing) and fit.

        Args:
            part: ``pairs``, ``masks`` or ``images``.
            use: the plugin.
            declared: the pipeline that it is a part of.
            shown: how the generator is called.
            draw: of the pool.
            n_fit: real pairs that the pool is made from, and real pairs of the fit: those, or more (None: all).
            count: items in the pool.
            masks: key of the pool of masks that images are made for, or empty.
        """
        places = [self._where(shown, n, draw) for n in n_fit]
        named, named_fit = (place if part == "pairs" else f"{place} {part}" for place in places)
        named += f" * pool={draw.pool}" if draw.pool else ""
        fit = self.fit(part, use, declared, places[1], draw, n_fit[1])
        inputs: dict[str, tuple[str, ...]] = {"dataset": (self.plan.datasets[draw.fold],), "fit": (fit,)}
        inputs |= {"masks": (masks,)} if masks else {}
        per_mask = declared.images_per_mask if masks else 1
        selected = ""
        if use.select:
            seed = redrawn(declared.seed, draw.fit)
            of_fit = (shown, n_fit[0], replace(draw, pool=0))
            compared = inputs | ({"masks": (self._first_masks.setdefault(of_fit, masks),)} if masks else {})
            selected = SelectStage.add(self.plan, use, named_fit, compared, seed=seed, images_per_mask=per_mask)
            inputs |= {"select": (selected,)}
        sample = SampleStage.add(
            self.plan,
            use,
            named,
            inputs,
            count=count,
            seed=redrawn(declared.seed, draw.pool),
            n_fit=None if n_fit[0] == n_fit[1] else n_fit[0],
            images_per_mask=per_mask,
            variations=declared.variations if masks else None,
        )
        return sample, selected, fit

    def reference(self, role: Role, fold: int, makes: str) -> None:
        """Add the measurement of the real images of a role like synthetic ones, unless they are the reference.

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
        label = self.plan.in_fold(Reference(role, fold, "", count, makes).label, fold)
        key = FidelityStage.add(self.plan, label, fold, role=role, of_masks=makes == "masks")
        self.plan.references.append(Reference(role, fold, key, count, makes))

    # segmenters

    def cell(self, use: SegmenterUse, recipe: Recipe, draw: Draw) -> None:
        """Add the training of one segmenter on one recipe, and its scores."""
        plugin = load_plugin("segmenters", use.plugin).create(**use.values())
        name = use.name or plugin.label
        pools: list[tuple[Pool, int]] = []
        if recipe.control != REAL_REPEATED:
            for generator, count in recipe.synthetic:
                declared = self._declared(generator, recipe)
                pool = self.pool(generator, declared, draw, declared.n_fit(recipe), bool(recipe.control))
                pools.append((pool, count))
        taken = [(pool.key, count) for pool, count in pools]
        train = TrainStage.add(self.plan, use, recipe, draw, taken, self.study.budget)
        dataset = self.plan.datasets[draw.fold]
        label = self.plan.in_fold(f"{name} * {recipe.label} * seed={draw.replicate}", draw.fold)
        for on in self.study.evaluate.on:
            where, scored, role = self._place(on, draw.fold)
            evaluate = EvaluateStage.add(
                self.plan,
                use,
                label if on == "report" else f"{label} * on={on}",
                train,
                dataset=dataset,
                scored=scored,
                role=role,
            )
            used = tuple(pool for pool, _ in pools)
            self.plan.cells.append(Cell(name, recipe, draw, where, role, train, evaluate, used))

    def trivial(self, fold: int) -> None:
        """Add what trivial predictions score wherever the segmenters of a fold are scored."""
        for on in self.study.evaluate.on:
            name, scored, role = self._place(on, fold)
            label = self.plan.in_fold(f"on {name} ({role})", fold)
            key = TrivialStage.add(self.plan, label, dataset=self.plan.datasets[fold], scored=scored, role=role)
            self.plan.trivial.append(Trivial(fold, name, role, key))

    def _place(self, on: str, fold: int) -> tuple[str, str, str]:
        """Return the name of a dataset that is scored on, the key of its stage, and whose images of it."""
        if on in ROLES:
            return self.plan.dataset.name, self.plan.datasets[fold], on
        return on, self._other_dataset(on), "report"

    def _declared(self, generator: str, recipe: Recipe) -> GeneratorDeclaration:
        if recipe.control:
            return GeneratorDeclaration(pairs=GeneratorUse(plugin=recipe.control), sees="recipe")
        return self.study.generators[generator]

    def _other_dataset(self, name: str) -> str:
        """Add a dataset that is only scored on: all of its images are report images."""
        from harness.data.datasets import open_dataset
        from harness.data.splits import Split

        other = open_dataset(name)
        roles: dict[str, Role] = {entry.id: "report" for entry in other.entries}
        split = Split(other.name, other.fingerprint, "all report", roles, {}, ())
        return DatasetStage.add(self.plan, other, split, f"dataset {name}", {})

"""From a declaration to a DAG of stages. Planning trains nothing and touches no device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from harness.engine.builder import PlanBuilder
from harness.engine.graph import Plan, Pool
from harness.engine.stages.dataset import DatasetStage
from harness.engine.stages.declared import declared_kinds
from harness.errors import DataError, DeclarationError
from harness.plugins.registry import load_plugin
from harness.study.expand import expand_recipes
from harness.study.loaded import LoadedStudy
from harness.study.recipes import Recipe
from harness.study.replicates import Draw
from harness.study.schema import ROLES, TrainingSets


def build_plan(loaded: LoadedStudy) -> Plan:
    """Plan a study: its training sets, and what it measures or selects.

    A generator that no training set takes from is made where fidelity measures it, and in a study that has no training
    sets at all: that is one to choose checkpoints and to look at samples.

    Raises:
        DeclarationError: a dataset is not imported or cannot be split as declared, a recipe asks for more real pairs
            than there are, or a generator for more than it is given.
    """
    plan, builder = _planned(loaded)
    study = loaded.study
    used = {pool.generator for pool in plan.pools}
    for name, declared in study.generators.items():
        if (study.fidelity or not study.train) and name not in used:
            for fold in range(len(plan.splits)):
                draw = study.first_draw(fold)
                builder.pool(name, declared, draw, declared.n_fit(Recipe(None)), control=False)
    measured = {pool.makes for pool in plan.pools if not pool.control}
    made = [kind for kind in ("pairs", "masks") if kind in measured]
    for role in study.fidelity.references if study.fidelity else ():
        for makes in made:
            for fold in range(len(plan.splits)):
                builder.reference(role, fold, makes)
    for use in study.stages:
        kind = declared_kinds()[use.kind]
        plan.measurements += kind.declare(builder, kind.Parameters(**use.values()))
    plan.notes += _notes_on_generators(plan)
    if len(made) > 1:
        masks = ", ".join(dict.fromkeys(pool.generator for pool in plan.pools if pool.makes == "masks"))
        plan.notes.append(
            f"What is made by {masks} are masks alone, which are measured as grey pictures against real masks as grey "
            "pictures: their numbers do not compare with those of images."
        )
    plan.notes = list(dict.fromkeys(plan.notes))
    return plan


def _planned(loaded: LoadedStudy) -> tuple[Plan, PlanBuilder]:
    """Plan the datasets and the training sets of a study; return what adds more to the plan as well."""
    from harness.data.datasets import open_dataset
    from harness.data.splits import make_splits

    study = loaded.study
    declared = study.dataset
    problems: list[str] = []
    document = loaded.document

    def tried(location: tuple[str | int, ...], make: Callable[[], Any]) -> Any:
        """Do something with data; a problem becomes one of the declaration, with its place."""
        try:
            return make()
        except DataError as error:
            place = ".".join(map(str, location))
            problems.extend(f"{document.origin(location)}: {place}: {problem}" for problem in error.problems)
        return None

    dataset = tried(("dataset", "name"), lambda: open_dataset(declared.name, **declared.options))
    for i, on in enumerate(study.evaluate.on):
        if on not in ROLES:
            tried(("evaluate", "on", i), partial(open_dataset, on))
    splits = dataset and tried(
        ("dataset", "split"),
        lambda: make_splits(dataset, declared.split.declaration(), declared.seed, study.protocol),
    )
    if problems:
        raise DeclarationError(problems)
    plan = Plan(loaded, dataset, splits, expand_recipes(study), _segmenter_labels(loaded))
    _check_counts(plan)
    builder = PlanBuilder(plan)
    for fold, split in enumerate(splits):
        label = plan.in_fold(f"dataset {dataset.name} at {declared.size} px", fold)
        plan.datasets[fold] = DatasetStage.add(plan, dataset, split, label, dict(declared.options))
    for recipe in plan.recipes:
        for use in study.segmenters:
            for draw in study.draws(len(splits)):
                builder.cell(use, recipe, draw)
    for fold in range(len(splits)) if plan.cells else ():
        builder.trivial(fold)
    plan.notes += [note for split in splits for note in split.notes]
    return plan, builder


def plan_fit(loaded: LoadedStudy) -> tuple[Plan, str]:
    """Plan a study of one generator up to its fit.

    Returns:
        The plan, and the key of the fit (of the last plugin of the pipeline): the same as in any study like it.
    """
    plan, builder = _planned(loaded)
    ((name, declared),) = loaded.study.generators.items()
    part, use = declared.uses()[-1]
    n_fit = None if isinstance(declared.sees, str) else declared.sees
    where = name if n_fit is None else f"{name} on {n_fit} real"
    key = builder.fit(part, use, declared, where, Draw(0, 0), n_fit)
    # What a run is for are the pools of a plan; the "pool" of this one is the fit itself.
    plan.pools.append(Pool(name, use.plugin, 0, n_fit, key, 0, (), "", False))
    return plan, key


def _segmenter_labels(loaded: LoadedStudy) -> list[str]:
    uses = loaded.study.segmenters
    return [use.name or load_plugin("segmenters", use.plugin).create(**use.values()).label for use in uses]


def _check_counts(plan: Plan) -> None:
    """Refuse recipes and generators that ask for more real pairs than the fit role has."""
    available = min(len(split.ids("fit")) for split in plan.splits)
    document, problems = plan.loaded.document, list[str]()
    for i, entry in enumerate(plan.loaded.study.train):
        for real in entry.real:
            if real != "all" and real > available:
                problems.append(
                    f"{document.origin(('train', i, 'real'))}: train.{i}.real: asks for {real} real pairs, "
                    f"but the fit role of {plan.dataset.name} has {available}; ask for at most that many, or 'all'"
                )
        for seen in entry.sees or ():
            if seen > available:
                problems.append(
                    f"{document.origin(('train', i, 'sees'))}: train.{i}.sees: asks for {seen} real pairs, but the fit "
                    f"role of {plan.dataset.name} has {available}; ask for at most that many"
                )
        problems += _too_few_seen(plan, i, entry)
    for name, declared in plan.loaded.study.generators.items():
        seen = declared.sees if isinstance(declared.sees, int) else available
        for _, use in declared.uses():
            least = load_plugin("generators", use.plugin).card.minimum
            if seen > available or seen < least:
                problems.append(
                    f"{document.origin(('generators', name, 'sees'))}: generators.{name}: {use.plugin} needs at "
                    f"least {least} real pairs and would be fitted on {seen}; the fit role has {available}"
                )
    if problems:
        raise DeclarationError(problems)


def _too_few_seen(plan: Plan, i: int, entry: TrainingSets) -> Iterator[str]:
    """Say which generators an entry gives fewer real pairs than they can be fitted on."""
    study, document = plan.loaded.study, plan.loaded.document
    key = "sees" if entry.sees else "real"
    least_seen = min(entry.sees or [real for real in entry.real if real not in (0, "all")], default=0)
    for name in entry.synthetic:
        declared = study.generators[name]
        for _, use in declared.uses() if declared.sees == "recipe" and least_seen else []:
            least = load_plugin("generators", use.plugin).card.minimum
            if least_seen < least:
                yield (
                    f"{document.origin(('train', i, key))}: train.{i}.{key}: {use.plugin} of generator {name} needs at "
                    f"least {least} real pairs and would be fitted on {least_seen}"
                )


def _notes_on_generators(plan: Plan) -> Iterator[str]:
    """Say where a generator has seen more real pairs than the recipe it is used in."""
    for pool in plan.pools:
        if pool.control or pool.fold:
            continue
        declared = plan.loaded.study.generators[pool.generator]
        available = len(plan.splits[0].ids("fit"))
        n_fit = available if pool.n_fit is None else pool.n_fit
        fewer = [
            recipe.label
            for recipe in plan.recipes
            if not recipe.control and any(name == pool.generator for name, _ in recipe.synthetic)
            if recipe.real is not None and recipe.real < n_fit and declared.n_fit(recipe) == pool.n_fit
            # A recipe without real pairs says itself what its generators see, where they ask it.
            if recipe.real > 0 or declared.sees != "recipe"
        ]
        if fewer:
            yield (
                f"Generator {pool.generator} was fitted on {n_fit} real pairs, more than these training sets hold: "
                f"{'; '.join(fewer)}. Their gain may come from those extra real pairs."
            )

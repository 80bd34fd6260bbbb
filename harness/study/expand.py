"""The training sets that a declaration names: every combination of real and synthetic pairs, then the controls."""

from __future__ import annotations

import itertools
from dataclasses import replace

from harness.study.recipes import Recipe
from harness.study.schema import PerReal, Study, TrainingSets


def expand_recipes(study: Study) -> list[Recipe]:
    """Return every training set a study declares, in order and without repeats, then the control arms.

    A number for each real pair of a generator whose real pairs are not known by number is left out: a mistake, which
    ``harness.engine.check.check_study`` reports.
    """
    recipes: list[Recipe] = []
    for entry in study.train:
        names = list(entry.synthetic)
        for real, sees in itertools.product(entry.real, entry.sees or (None,)):
            scope = Recipe(None if real == "all" else real, sees=None if sees == real else sees)
            choices = [_resolved(study, entry, name, scope) for name in names]
            for counts in itertools.product(*choices):
                pairs = tuple((name, count) for name, count in zip(names, counts, strict=True) if count)
                fitted = any(_sees_recipe(study, name) for name, _ in pairs)
                recipes.append(replace(scope, synthetic=pairs, sees=scope.sees if fitted else None))
    recipes = list(dict.fromkeys(recipes))
    return recipes + _control_recipes(study, recipes)


def _sees_recipe(study: Study, generator: str) -> bool:
    return generator in study.generators and study.generators[generator].sees == "recipe"


def _resolved(study: Study, entry: TrainingSets, generator: str, scope: Recipe) -> tuple[int, ...]:
    """Return how many pairs of a generator the recipes of one scope take; none when that cannot be known."""
    counts = entry.counts(generator)
    if not isinstance(entry.synthetic[generator], PerReal):
        return counts
    declared = study.generators.get(generator)
    seen = None if declared is None else declared.fitted_on(scope)
    return () if seen is None else tuple(seen * count for count in counts)


def _control_recipes(study: Study, recipes: list[Recipe]) -> list[Recipe]:
    """Control arms for each number of real pairs that synthetic ones are added to."""
    counts: dict[int | None, list[int]] = {}
    for recipe in recipes:
        if recipe.real != 0 and recipe.synthetic:
            counts.setdefault(recipe.real, []).append(recipe.synthetic_count)
    return [
        Recipe(real, ((arm, count),), control=arm)
        for arm in study.controls.arms
        for real, totals in counts.items()
        for count in (sorted(set(totals)) if study.controls.at == "each" else [max(totals)])
    ]

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
        for real, n_fit in itertools.product(entry.real, entry.sees or (None,)):
            scope = Recipe(None if real == "all" else real, n_fit=None if n_fit == real else n_fit)
            choices = [_resolved(study, entry, name, scope) for name in names]
            for counts in itertools.product(*choices):
                pairs = tuple((name, count) for name, count in zip(names, counts, strict=True) if count)
                fitted = any(_sees_recipe(study, name) for name, _ in pairs)
                recipes.append(replace(scope, synthetic=pairs, n_fit=scope.n_fit if fitted else None))
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
    n_fit = None if declared is None else declared.n_fit(scope)
    return () if n_fit is None else tuple(n_fit * count for count in counts)


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

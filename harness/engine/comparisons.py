"""Which training sets a study compares with which, in families that are corrected together."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from harness.results.schema import LEVEL, Comparison
from harness.study.looks import spent
from harness.study.recipes import Recipe
from harness.study.schema import Compare, Study

#: Names of the families that every study has, where it has such arms.
PRIMARY = "from the baseline"
CONTROLS = "of controls from the baseline"


def comparisons(study: Study, recipes: Sequence[Recipe]) -> list[Comparison]:
    """Return the families of comparisons of a study, the primary one first.

    It holds the arms with synthetic images of a generator, each against the baseline. Control arms, and other numbers
    of real images, are a family of their own, so that they cost the question nothing. Each further comparison that the
    study declares is one more family.

    Args:
        study: the declaration.
        recipes: its training sets, controls among them.
    """
    found = []
    for place, declared in enumerate(study.comparisons):
        pairs = list(_baselines(declared, recipes))
        name = _name(declared, primary=place == 0)
        asked = {arm.label: baseline.label for arm, baseline in pairs if arm.synthetic and not arm.control}
        found.append(_comparison(declared, asked, name))
        if place == 0:
            rest = {arm.label: baseline.label for arm, baseline in pairs if arm.label not in asked}
            found += [_comparison(declared, rest, CONTROLS)] if rest else []
    if study.decide is None or study.look is None:
        return found
    level = spent(study.decide.looks, study.look, LEVEL)
    found = [replace(family, level=level) for family in found]
    return [replace(found[0], margin=study.decide.margin), *found[1:]]


def _comparison(declared: Compare, baselines: dict[str, str], name: str) -> Comparison:
    metric, reduction = declared.primary
    margin = math.nan if declared.margin is None else declared.margin
    return Comparison(baselines, metric, reduction, name, margin)


def _name(declared: Compare, primary: bool) -> str:
    """Return what a family is called; it ends sentences such as *Difference in IoU ...*."""
    against = declared.against
    if against is not None and against.control:
        return f"from control {against.control} at equal counts"
    if against is not None and against.generator:
        return f"from {against.generator} at equal counts"
    return PRIMARY if primary or against is None else f"from {against.recipe().label}"


def _baselines(declared: Compare, recipes: Sequence[Recipe]) -> Iterator[tuple[Recipe, Recipe]]:
    """Yield each recipe with the one that it is compared with, where there is one."""
    known = {recipe.label: recipe for recipe in recipes}
    partner = _partner(declared)
    for recipe in recipes:
        other = partner(recipe)
        if other is not None and other.label in known and other.label != recipe.label:
            yield recipe, known[other.label]


def _partner(declared: Compare) -> Callable[[Recipe], Recipe | None]:
    """Return what finds the recipe that another is compared with.

    By default the same real pairs without synthetic ones; a recipe without real pairs that says what its generators
    see is compared with those.
    """
    against = declared.against
    if against is None:
        return lambda recipe: Recipe(recipe.n_fit if recipe.real == 0 and recipe.n_fit else recipe.real)
    if against.control or against.generator:
        rival = against.control or against.generator or ""
        control = against.control or ""

        def at_equal_counts(recipe: Recipe) -> Recipe | None:
            if recipe.control or not recipe.synthetic or rival in dict(recipe.synthetic):
                return None
            n_fit = None if control else recipe.n_fit
            return Recipe(recipe.real, ((rival, recipe.synthetic_count),), control=control, n_fit=n_fit)

        return at_equal_counts
    fixed = against.recipe()
    return lambda recipe: fixed

"""Several sample sets of one generator: the mean of what was measured of each, and how far they lie apart.

Paper B (Table 4) measures five sets of 1000 images of each generator. What varies between the sets is the luck of
sampling, not that of a fit, which all of them share.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np

from harness.metrics.spec import Values, quantity_called

_OF_SETS = re.compile(r"-(between-sets|set-\d+)$")


def between_sets(quantity: str) -> str:
    """Return the name of a quantity's standard deviation between sets: never that of KID over subsets of one set."""
    return f"{quantity}-between-sets"


def of_set(quantity: str, number: int) -> str:
    """Return the name of what a quantity is in one set, counted from 1."""
    return f"{quantity}-set-{number}"


def quantity_of(name: str) -> str:
    """Return the quantity that a deviation between sets or the number of one set belongs to; others are their own."""
    return _OF_SETS.sub("", name)


def over_sets(metric: str, sets: Sequence[Values], together: Values | None = None) -> Values:
    """Return what a metric says of several sets of equal size, each measured on its own against the same reference.

    A quantity that one set lacks, or has no value of, has no mean: an average is never thinned.

    Args:
        metric: its name.
        sets: at least two, as :func:`harness.metrics.fidelity.measure` returns them.
        together: the same of all sets as one, for what is no mean of sets (a p value, a verdict); stands in the place
            of the means, unless a set has no value.

    Returns:
        Every number's mean under its name; and of those that are neither counts nor deviations themselves, the value of
        each set (:func:`of_set`) and the sample standard deviation, n - 1, between sets (:func:`between_sets`).
        ``n_synthetic`` is the size of one set. ``notes`` say which sets have no value.
    """
    found: Values = {name: _first(sets, name) for values in sets for name in values if isinstance(values[name], str)}
    for name in dict.fromkeys(name for values in sets for name in values if _is_number(values[name])):
        each = np.array([float(values.get(name, math.nan)) for values in sets])
        found[name] = float(each.mean())
        counted = all(isinstance(values.get(name, 0), int) for values in sets)
        if not counted and quantity_called(name).varies:
            found[between_sets(name)] = float(each.std(ddof=1))
            found |= {of_set(name, number): float(value) for number, value in enumerate(each, start=1)}
    found["notes"] = _notes([str(values["notes"]) for values in sets], [float(values[metric]) for values in sets])
    if together is not None:
        # What was found of all pairs stands even where a set has no value: a copy in any set is a copy.
        verdict = {name: value for name, value in together.items() if isinstance(value, bool)}
        found |= verdict if math.isnan(float(found[metric])) else together
    return found | {"n_real": sets[0]["n_real"], "n_synthetic": sets[0]["n_synthetic"]}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _first(sets: Sequence[Values], name: str) -> str:
    """Return a word of the first set that has one: a set without a value names no network."""
    return next((str(values[name]) for values in sets if values.get(name)), "")


def _notes(notes: Sequence[str], values: Sequence[float]) -> str:
    """Return what is said of every set alike, or else what is said of which; of those without a value, if there are."""
    empty = [i for i, value in enumerate(values) if math.isnan(value)]
    if len(set(notes)) == 1 and len(empty) in (0, len(values)):
        return notes[0]
    return " ".join(f"Set {i + 1} of {len(notes)}: {notes[i] or 'no value.'}" for i in empty or range(len(notes)))

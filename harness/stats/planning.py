"""How many replicates: what a study could see with more of them, and whether it may stop.

What each look at the results may spend of the error rate, :mod:`harness.study.looks` says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness.results.schema import LEVEL
from harness.stats.estimator import NAN, Components
from harness.stats.verdicts import ArmKey, Effect

#: Most replicates that are looked for; beyond, images are what more of is needed.
_MOST = 100


def decided(effects: Sequence[Effect]) -> bool:
    """Say whether no comparison is left of which more replicates could still say something."""
    return all(effect.verdict != "no evidence either way" for effect in effects)


@dataclass(frozen=True)
class Power:
    """What a study could see, by what its runs (or those of one like it) vary.

    Attributes:
        segmenter: whose arms.
        replicates: how many are planned.
        detectable: smallest effect found with 80 % power, the median over comparisons, with the planned replicates.
        needed: replicates with which the margin would be seen; None when no number would do, or no margin is given.
        limit: what could be seen with any number of replicates: what is left are the images.
    """

    segmenter: str
    replicates: int
    detectable: float
    needed: int | None
    limit: float


def power(
    pairs: Sequence[tuple[ArmKey, str]],
    known: Mapping[ArmKey, Components],
    replicates: int,
    family: int,
    margin: float = NAN,
) -> list[Power]:
    """Return what could be seen, a segmenter each.

    Args:
        pairs: comparisons that were run, arm and baseline.
        known: components of each arm, from two or more replicates.
        replicates: as planned.
        family: comparisons that are planned, which are corrected together.
        margin: effect that should be seen; NaN for none.
    """
    usable = [
        (key, against)
        for key, against in pairs
        if key in known and known.get(key._replace(recipe=against)) is known[key] and known[key].units > 1
    ]
    found = []
    for segmenter in dict.fromkeys(key.segmenter for key, _ in usable):
        own = [(known[key], key.recipe, against) for key, against in usable if key.segmenter == segmenter]

        def seen(units: int, own: list[tuple[Components, str, str]] = own) -> float:
            sizes = [
                components.projected(arm, against, units).detectable(LEVEL, family) for components, arm, against in own
            ]
            return float(np.median(sizes))

        needed = next((n for n in range(2, _MOST + 1) if seen(n) <= margin), None)
        found.append(Power(segmenter, replicates, seen(replicates) if replicates > 1 else NAN, needed, seen(10**6)))
    return found

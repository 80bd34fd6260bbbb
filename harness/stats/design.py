"""From a table of scores to arrays: what each arm scored, run by run and group by group, and what varied between runs.

A *run* is one training of an arm, scored once: a replicate, in a fold where there are folds. A *unit* is what chance
draws anew: the run itself, unless several runs share something that others have of their own. Five trainings on each of
three fits are three units, and three seeds in each of five folds are five: what the runs of a unit share would look
like evidence if each counted for itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]

#: What may be drawn anew for a run; one column of the table each, which may be missing: trainings then all differ.
FACTORS = ("training", "pool", "fit", "subset", "fold")
#: What several runs may share: runs that do make one unit.
_SHARED = ("fold", "subset", "fit", "pool")
_PLURALS = {"training": "trainings", "pool": "pools", "fit": "fits", "subset": "subsets", "fold": "folds"}


@dataclass(frozen=True)
class Block:
    """Arms that the same runs scored on the same images, so that their differences are paired.

    Attributes:
        arms: A labels.
        runs: R names.
        units: (R,) which of U units each run belongs to, from 0.
        groups: G names of groups of images.
        numerators: float64 (A, R, G), summed scores of the images of a group, or what stands above the fraction line;
            zero where a run did not score a group.
        denominators: float64 (A, R, G), number of images, or what stands below the fraction line.
        scored: bool (R, G), which groups each run scored.
        empty: a run's score when its denominators sum to zero (``zero_division``).
        images: number of distinct images.
        over: for each arm what varied from run to run and what did not, as words.
    """

    arms: tuple[str, ...]
    runs: tuple[str, ...]
    units: NDArray[np.intp]
    groups: tuple[str, ...]
    numerators: Array
    denominators: Array
    scored: NDArray[np.bool_]
    empty: float = 1.0
    images: int = 0
    over: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse arrays of other shapes than the names say.

        Raises:
            ValueError: they do not fit.
        """
        shape = (len(self.arms), len(self.runs), len(self.groups))
        if self.numerators.shape != shape or self.denominators.shape != shape or self.scored.shape != shape[1:]:
            raise ValueError(f"arrays of {self.numerators.shape} for (arms, runs, groups) of {shape}")

    def keep(self, arms: Sequence[str]) -> Block:
        """Return the block of some of its arms, in its order."""
        at = [i for i, arm in enumerate(self.arms) if arm in arms]
        over = tuple(self.over[i] for i in at) if self.over else ()
        kept = tuple(self.arms[i] for i in at)
        return replace(self, arms=kept, numerators=self.numerators[at], denominators=self.denominators[at], over=over)

    def scores(self) -> Array:
        """Return the score of each arm in each run, (A, R)."""
        return self._divided(self.numerators.sum(axis=2), self.denominators.sum(axis=2))

    def unit_scores(self) -> Array:
        """Return the mean score of each arm in each unit, (A, U)."""
        return self.scores() @ self._averaging()

    def unit_influence(self) -> Array:
        """Return how far each group moves each arm's score in each unit, (A, U, G); sums over groups are zero.

        It is the delta method for a ratio, with the correction ``G / (G - 1)`` of a variance from few groups, so that
        squares summed over groups are an unbiased variance; NaN where a run scored one group only.
        """
        total = self.denominators.sum(axis=2, keepdims=True)
        centred = self.numerators - self.scores()[:, :, None] * self.denominators
        each = np.divide(centred, total, out=np.zeros_like(centred), where=total > 0)
        groups = self.scored.sum(axis=1).astype(np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            correction = np.where(groups > 1, np.sqrt(groups / (groups - 1)), np.nan)
        each *= correction[None, :, None]
        influence: Array = np.einsum("arg,ru->aug", each, self._averaging())
        return influence

    def image_degrees(self) -> int:
        """Return the degrees of freedom of what images explain: groups, less one for each set of images."""
        return len(self.groups) - len(np.unique(self.scored, axis=0))

    def _averaging(self) -> Array:
        """Return the weights (R, U) that take runs to means over the runs of a unit."""
        members = np.equal.outer(self.units, np.arange(int(self.units.max()) + 1)).astype(np.float64)
        averaging: Array = members / members.sum(axis=0)
        return averaging

    def _divided(self, above: Array, below: Array) -> Array:
        whole = below > 0
        return np.where(whole, above / np.where(whole, below, 1.0), self.empty)


def _units(factors: Mapping[str, NDArray[np.str_]]) -> NDArray[np.intp]:
    """Return the unit of each run: by the factor with fewest values, of those that several runs share but not all."""
    runs = factors[_SHARED[0]].shape[1]
    found, fewest = np.arange(runs, dtype=np.intp), runs
    for factor in _SHARED:
        different, number = np.unique(factors[factor], axis=1, return_inverse=True)
        if 1 < different.shape[1] < fewest:
            found, fewest = number.reshape(-1).astype(np.intp), different.shape[1]
    return found


def _in_words(factors: Mapping[str, NDArray[np.str_]]) -> str:
    """Say over what an arm's runs (R,) generalise: what varied, and what all of them share."""
    runs = len(factors[FACTORS[0]])
    known = factors["training"].any()
    varied = ["trainings"] if runs > 1 and not known else []
    shared = ["one training"] if runs == 1 and not known else []
    for factor in FACTORS:
        different = len(np.unique(factors[factor]))
        if different > 1:
            varied.append(_PLURALS[factor])
        elif factors[factor].any() and factor != "fold":
            shared.append(f"one {factor}")
    over = f"over {_listed(varied)}" if varied else ""
    return " ".join(part for part in (over, f"of {_listed(shared)}" if shared else "") if part)


def _listed(words: Sequence[str]) -> str:
    return " and ".join(part for part in (", ".join(words[:-1]), words[-1]) if part)


def blocks(table: pd.DataFrame, empty: float = 1.0) -> tuple[list[Block], dict[str, str]]:
    """Arrange a table of one segmenter's scores in blocks of arms that are paired.

    Args:
        table: one row an image, run and arm: columns ``arm``, ``replicate``, ``image``, ``numerator``, ``denominator``,
            and, if known, ``group`` (else every image is one), and ``FACTORS``.
        empty: score of a run without anything to divide by.

    Returns:
        The blocks, by the first of their arms; and what is wrong with arms in none of them: an image twice in a run, or
        a run without a score, which would say nothing of the others either.
    """
    import pandas as pd

    if table.empty:
        return [], {}
    grouped = table["image"]
    if "group" in table:
        grouped = table["group"].where(table["group"].notna() & (table["group"] != ""), table["image"])
    fold = table["fold"].fillna(0).astype(str) if "fold" in table else pd.Series("0", index=table.index)
    arm, arms = pd.factorize(table["arm"].astype(str))
    run, runs = pd.factorize(table["replicate"].astype(str).str.cat(fold, sep=" in fold "), sort=True)
    group, groups = pd.factorize(grouped.astype(str), sort=True)
    picture, pictures = pd.factorize(table["image"].astype(str), sort=True)
    shape = (len(arms), len(runs))
    seen = _summed(np.ones(len(table)), (arm, run, picture), (*shape, len(pictures)))
    sums = [
        _summed(table[column].to_numpy(dtype=np.float64), (arm, run, group), (*shape, len(groups)))
        for column in ("numerator", "denominator")
    ]
    scored = _summed(np.ones(len(table)), (arm, run, group), (*shape, len(groups))) > 0
    factors = {factor: _of_runs(table, factor, arm, run, shape) for factor in FACTORS}
    problems: dict[str, str] = {}
    members: dict[bytes, list[int]] = {}
    for a, label in enumerate(arms):
        undefined = (seen[a].any(axis=1) & (sums[1][a].sum(axis=1) == 0)).any()
        if (seen[a] > 1).any():
            problems[str(label)] = "an image was scored twice by one run"
        elif undefined and empty != empty:
            problems[str(label)] = "a run has no score of any image"
        else:
            members.setdefault(seen[a].tobytes(), []).append(a)
    found = []
    for alike in members.values():
        places = np.array(alike, dtype=np.intp)
        there = np.flatnonzero(seen[places[0]].any(axis=1))
        here = np.flatnonzero(scored[places[0]].any(axis=0))
        of_arms = {factor: values[np.ix_(places, there)] for factor, values in factors.items()}
        cut = np.ix_(places, there, here)
        found.append(
            Block(
                tuple(str(arms[int(a)]) for a in places),
                tuple(str(runs[int(r)]) for r in there),
                _units(of_arms),
                tuple(str(groups[int(g)]) for g in here),
                sums[0][cut],
                sums[1][cut],
                scored[places[0]][np.ix_(there, here)],
                empty,
                int(seen[places[0]].any(axis=0).sum()),
                tuple(_in_words({f: values[i] for f, values in of_arms.items()}) for i in range(len(places))),
            )
        )
    return found, problems


def _summed(values: Array, at: tuple[NDArray[np.intp], ...], shape: tuple[int, ...]) -> Array:
    """Sum values into an array of a shape, each at its place."""
    flat = np.ravel_multi_index(at, shape)
    return np.bincount(flat, weights=values, minlength=int(np.prod(shape))).astype(np.float64).reshape(shape)


def _of_runs(
    table: pd.DataFrame, factor: str, arm: NDArray[np.intp], run: NDArray[np.intp], shape: tuple[int, int]
) -> NDArray[np.str_]:
    """Return what each run of each arm has of a factor, text (A, R); empty where nothing is known."""
    found = np.full(shape, "", dtype=object)
    if factor in table:
        first = np.unique(arm * shape[1] + run, return_index=True)[1]
        known = table[factor].iloc[first]
        found[arm[first], run[first]] = known.where(known.notna(), "").astype(str).to_numpy()
    return found.astype(str)

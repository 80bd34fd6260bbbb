"""From the per-image table to arrays: what each arm of a study scored, by fold, seed and group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.stats.resampling import Array, Fold

if TYPE_CHECKING:
    import pandas as pd

#: Metrics whose direction is down; all others are better when higher.
LOWER_IS_BETTER = frozenset({"dice-loss", "fid", "kid", "sifid"})

#: Numerator and denominator of each micro metric, as weights of tp, fp, fn, tn.
MICRO: dict[str, tuple[tuple[int, int, int, int], tuple[int, int, int, int]]] = {
    "iou": ((1, 0, 0, 0), (1, 1, 1, 0)),
    "f1": ((2, 0, 0, 0), (2, 1, 1, 0)),
    "accuracy": ((1, 0, 0, 1), (1, 1, 1, 1)),
    "precision": ((1, 0, 0, 0), (1, 1, 0, 0)),
    "recall": ((1, 0, 0, 0), (1, 0, 1, 0)),
    "dice-loss": ((0, 1, 1, 0), (2, 1, 1, 0)),
}


class ArmKey(NamedTuple):
    """One segmenter trained on one recipe and scored on one role of one dataset."""

    dataset: str
    role: str
    segmenter: str
    recipe: str


@dataclass(frozen=True)
class Arm:
    """What an arm scored.

    Attributes:
        folds: its scores, one entry a fold.
        images: ids of the images of each fold, sorted.
        problem: why its numbers cannot be used, or an empty string.
    """

    folds: tuple[Fold, ...]
    images: tuple[tuple[str, ...], ...]
    problem: str = ""


def _parts(table: pd.DataFrame, metric: str, reduction: str) -> tuple[Array, Array] | None:
    """Return each row's contribution above and below the fraction line, or None when the table cannot give them."""
    if reduction == "micro":
        if metric not in MICRO or not {"tp", "fp", "fn", "tn"} <= set(table.columns):
            return None
        counts = table[["tp", "fp", "fn", "tn"]].to_numpy(dtype=np.float64)
        above, below = (counts @ np.array(weights, dtype=np.float64) for weights in MICRO[metric])
        return above, below
    if metric not in table.columns:
        return None
    score = table[metric].to_numpy(dtype=np.float64)
    # zero_division: nan leaves an image out of the mean.
    defined = ~np.isnan(score)
    return np.where(defined, score, 0.0), defined.astype(np.float64)


def _group_sums(codes: NDArray[np.intp], shape: tuple[int, int], values: Array) -> Array:
    """Sum values into a (S, G) table at flat positions."""
    sums: Array = np.bincount(codes, weights=values, minlength=shape[0] * shape[1]).astype(np.float64)
    return sums.reshape(shape)


def _fold(table: pd.DataFrame, above: Array, below: Array, empty: float) -> tuple[Fold, tuple[str, ...], str]:
    """Build one fold of one arm from its rows."""
    import pandas as pd

    image = table["image"].astype(str).to_numpy()
    group = table["group"].where(table["group"].notna() & (table["group"] != ""), table["image"]).astype(str)
    seed_codes, seeds = pd.factorize(table["seed"].to_numpy(), sort=True)
    group_codes, groups = pd.factorize(group.to_numpy(), sort=True)
    images = tuple(sorted(set(image)))
    shape = (len(seeds), len(groups))
    codes = seed_codes * len(groups) + group_codes
    problem = ""
    if len(table) != len(seeds) * len(images) or bool(table.duplicated(["seed", "image"]).any()):
        problem = "its seeds were not scored on the same images, once each"
    fold = Fold(
        tuple(int(s) for s in seeds),
        tuple(str(g) for g in groups),
        _group_sums(codes, shape, above),
        _group_sums(codes, shape, below),
        empty,
    )
    return fold, images, problem


def arms(images: pd.DataFrame, metric: str, reduction: str, zero_division: float = 1.0) -> dict[ArmKey, Arm]:
    """Arrange the per-image table (``IMAGE_COLUMNS``) for one metric.

    Args:
        images: one row an image, seed, fold and cell.
        metric: such as ``iou``.
        reduction: ``micro`` (from tp, fp, fn, tn) or ``micro-imagewise`` (from the metric's own column).
        zero_division: the micro score of an arm without a pixel to divide by.

    Returns:
        Arms by key; empty when the table does not have what the metric needs.
    """
    if images.empty:
        return {}
    parts = _parts(images, metric, reduction)
    if parts is None:
        return {}
    table = images.assign(**{"(above)": parts[0], "(below)": parts[1]})
    found: dict[ArmKey, Arm] = {}
    for key, rows in table.groupby(["dataset", "role", "segmenter", "recipe"], sort=False, dropna=False):
        built = [
            _fold(part, part["(above)"].to_numpy(), part["(below)"].to_numpy(), zero_division)
            for _, part in rows.groupby("fold", sort=True)
        ]
        problem = next((p for _, _, p in built if p), "")
        found[ArmKey(*(str(k) for k in key))] = Arm(
            tuple(f for f, _, _ in built), tuple(i for _, i, _ in built), problem
        )
    return found

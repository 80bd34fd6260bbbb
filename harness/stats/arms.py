"""From the per-image table to arrays: what each arm of a study scored, by fold, seed and group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.metrics.segmentation.confusion import quotient
from harness.metrics.segmentation.scores import size_of
from harness.metrics.spec import SegmentationMetric, segmentation_metrics
from harness.results.schema import score_columns
from harness.stats.resampling import Array, Fold

if TYPE_CHECKING:
    import pandas as pd


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


def _parts(table: pd.DataFrame, metric: SegmentationMetric, reduction: str, empty: float) -> tuple[Array, Array]:
    """Return each row's contribution above and below the fraction line."""
    above, below = (table[name].to_numpy(dtype=np.float64) for name in score_columns(metric.name))
    if reduction == "micro":
        return above, below
    score = quotient(above, below, empty)
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
        reduction: one of :data:`harness.metrics.segmentation.scores.REDUCTIONS`; one by size takes the images of it.
        zero_division: what stands where there is nothing to divide by, as the metric says.

    Returns:
        Arms by key; empty when the table does not have what the metric needs.
    """
    spec = segmentation_metrics().get(metric)
    size = size_of(reduction)
    if spec is None or not {*score_columns(metric), *(["size"] if size else [])} <= set(images.columns):
        return {}
    if size:
        images = images[images["size"] == size]
    if images.empty:
        return {}
    empty = spec.empty(zero_division)
    parts = _parts(images, spec, reduction, empty)
    table = images.assign(**{"(above)": parts[0], "(below)": parts[1]})
    found: dict[ArmKey, Arm] = {}
    for key, rows in table.groupby(["dataset", "role", "segmenter", "recipe"], sort=False, dropna=False):
        built = [
            _fold(part, part["(above)"].to_numpy(), part["(below)"].to_numpy(), empty)
            for _, part in rows.groupby("fold", sort=True)
        ]
        problem = next((p for _, _, p in built if p), "")
        found[ArmKey(*(str(k) for k in key))] = Arm(
            tuple(f for f, _, _ in built), tuple(i for _, i, _ in built), problem
        )
    return found

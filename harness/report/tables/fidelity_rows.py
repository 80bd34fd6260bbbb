"""What was measured of generators, by row and column of a table: numbers, means over folds, holes, the best value."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.metrics.fidelity.measure import FIDELITY
from harness.metrics.fidelity.sample_sets import of_set
from harness.report.format import digits_of, metric_name, number

if TYPE_CHECKING:
    from harness.results.schema import Measured, StudyResults

#: Directions of quantities that are no metrics of their own.
_LOWER_IS_BETTER = {
    "fid-corrected": True, "frechet-distance": True, "precision": False, "recall": False, "density": False,
    "coverage": False,
}  # fmt: skip

#: Headings where they are not the metric's name; a line break makes two lines in LaTeX.
HEADINGS = {
    "fid-corrected": "Corrected\nFID",
    "frechet-distance": "Fréchet\ndistance",
    "thumbnail-distance": "Thumbnail\ndistance",
    "agreement-chance": "Agreement\nby chance",
    "sim-black": "SIM of\nall-black",
    "sim-real": "SIM of real\nleave-one-out",
    "mask-area": "Area\ndistance",
    "mean-area": "Mean area",
    "mean-components": "Components",
    "empty-masks": "Empty\nmasks",
}


@dataclass(frozen=True)
class Number:
    """One fidelity row of the results, as plain values."""

    cell: str
    generator: str
    fitted: float
    role: str
    real: bool
    fold: str
    metric: str
    network: str
    value: float
    images: float
    status: str
    leak: str


@dataclass(frozen=True)
class Line:
    """The numbers of one row of a table: all folds of one generator or of one reference."""

    numbers: tuple[Number, ...]

    @property
    def first(self) -> Number:
        """What all of them share."""
        return self.numbers[0]

    @property
    def folds(self) -> tuple[str, ...]:
        """The folds that were planned."""
        return tuple(dict.fromkeys(n.fold for n in self.numbers))

    def measured(self, metric: str, network: str = "") -> list[Number]:
        """Return the numbers of a quantity that have a value; of one network when it is named."""
        own = [n for n in self.numbers if n.metric == metric and not math.isnan(n.value)]
        return [n for n in own if not network or n.network == network]

    def complete(self, metric: str, network: str = "") -> bool:
        """Say whether every fold has the quantity."""
        return len(self.measured(metric, network)) == len(self.folds)

    def mean(self, metric: str, network: str = "") -> float:
        """Return the mean over folds; NaN when one of them is missing: an average is never thinned."""
        found = self.measured(metric, network)
        return sum(n.value for n in found) / len(found) if self.complete(metric, network) else math.nan

    @property
    def sets(self) -> int:
        """How many sample sets each of its numbers is a mean over; 1 when it is no mean."""
        known = {n.metric for n in self.numbers}
        declared = [name for name in known if name in FIDELITY]
        return max((_count_sets(name, known) for name in declared), default=1)

    def hole(self, metric: str, declared: str, network: str = "") -> str:
        """Return how much of a quantity is missing, or why all of it is."""
        if found := self.measured(metric, network):
            return f"incomplete {len(found)}/{len(self.folds)}"
        return next((n.status for n in self.numbers if n.metric == declared and n.status not in ("", "done")), "–")

    def counts(self, metric: str, network: str = "") -> tuple[tuple[float, float], ...]:
        """Return the numbers of synthetic and real images that a quantity stands on, of each fold."""
        found = self.measured(metric, network)
        return tuple(sorted((_or_zero(n.images), _or_zero(self.real_images(n))) for n in found))

    def real_images(self, of: Number) -> float:
        """Return how many real images a number compares with; NaN when that is not recorded."""
        own = (n.value for n in self.numbers if n.metric == "n_real" and (n.network, n.fold) == (of.network, of.fold))
        return next(own, math.nan)

    @property
    def leaks(self) -> list[str]:
        """What was seen, in words."""
        return list(dict.fromkeys(n.leak for n in self.numbers if n.leak))


@dataclass(frozen=True)
class Column:
    """One column: a quantity, the metric that a study names to have it, and its network when there are several."""

    heading: str
    metric: str
    declared: str
    network: str = ""


def _or_zero(value: float) -> float:
    return 0.0 if math.isnan(value) else value


def _count_sets(metric: str, known: Collection[str]) -> int:
    """Return how many sets a metric has a number of each of; 1 when there are none."""
    return next(number for number in itertools.count(1) if of_set(metric, number + 1) not in known)


def fidelity_lines(results: StudyResults) -> list[Line]:
    """Return the fidelity rows of the results by generator, references first."""
    grouped: dict[tuple[str, str], list[Number]] = {}
    rows = results.rows[results.rows["kind"] == "fidelity"]
    for record in rows.to_dict("records"):
        text = {str(k): "" if v is None or v != v else str(v) for k, v in record.items()}
        one = Number(
            text["cell"] or text["generator"],
            text["generator"],
            float(text["real"] or math.nan),
            text["role"],
            text["arm"] == "real",
            str(round(float(text["fold"] or 0))),
            text["metric"],
            text["reduction"],
            float(text["value"] or math.nan),
            float(text["images"] or math.nan),
            text["status"],
            text["leak"],
        )
        grouped.setdefault((one.cell, one.role), []).append(one)
    lines = [Line(tuple(numbers)) for numbers in grouped.values()]
    return sorted(lines, key=lambda line: not line.first.real)


def _fits(results: StudyResults) -> dict[str, tuple[str, int]]:
    """Return for each cell that was measured its generator and how many real images that was fitted on."""
    found = {}
    for line in fidelity_lines(results):
        numbers = [n.fitted for n in line.numbers if not math.isnan(n.fitted)]
        found[line.first.cell] = (line.first.generator, round(max(numbers, default=0)))
    return found


def pools_by_generator(results: StudyResults) -> dict[str, dict[int, Measured]]:
    """Return what was measured of each generator in its first fold, by how many real images it was fitted on."""
    fits = _fits(results)
    found: dict[str, dict[int, Measured]] = {}
    for measured in results.measured:
        if measured.arm != "real" and measured.cell in fits:
            generator, fitted = fits[measured.cell]
            found.setdefault(generator, {}).setdefault(fitted, measured)
    return found


def largest_fits(results: StudyResults) -> list[Measured]:
    """Return what was measured of real images, and of each generator after its fit on the most of them, every fold.

    Figures that have a panel, or a page, a generator show these: the others differ in the number of real images only.
    """
    fits = _fits(results)
    most: dict[str, int] = {}
    for generator, fitted in fits.values():
        most[generator] = max(fitted, most.get(generator, 0))
    return [m for m in results.measured if m.cell not in fits or fits[m.cell][1] == most[fits[m.cell][0]]]


def columns_of(lines: Sequence[Line], quantities: dict[str, str]) -> list[Column]:
    """Return the columns of the quantities that were measured, and of the metrics that were to be.

    A quantity that was measured with several networks has a column for each, named.
    """
    columns = []
    for metric, declared in quantities.items():
        networks = dict.fromkeys(n.network for line in lines for n in line.measured(metric))
        # What a metric is named for (prdc for its coverage) has a column even where every fold is a hole.
        planned = metric_name(metric) == metric_name(declared) and any(
            n.metric in (metric, declared) for line in lines for n in line.numbers
        )
        heading = HEADINGS.get(metric, metric_name(metric))
        several = len(networks) > 1
        columns += [Column(f"{heading}\n({n})" if several and n else heading, metric, declared, n) for n in networks]
        if planned and not networks:
            columns.append(Column(heading, metric, declared))
    return columns


def lower_is_better(metric: str) -> bool | None:
    """Return the direction of a quantity; None when it has none."""
    if metric in _LOWER_IS_BETTER:
        return _LOWER_IS_BETTER[metric]
    return FIDELITY[metric].lower_is_better if metric in FIDELITY else None


def best(lines: Sequence[Line], column: Column, copies: Collection[str] = ()) -> set[int]:
    """Return which lines hold the best value among generators measured on equal numbers of images.

    References, leaked numbers, holes and generators that copy are never the best, and nothing is the best of one.
    Values that print the same are the best together. SIM has no best: an empty mask has more of it than a real one.

    Args:
        lines: of the table.
        column: of the table.
        copies: cells of generators that are flagged as copying.
    """
    lower = None if column.metric == "sim" else lower_is_better(column.metric)
    groups: dict[tuple[tuple[float, float], ...], dict[int, float]] = {}
    for index, line in enumerate(lines):
        value = line.mean(column.metric, column.network)
        sound = not line.first.real and not line.leaks and line.first.cell not in copies and not math.isnan(value)
        if lower is not None and sound:
            groups.setdefault(line.counts(column.metric, column.network), {})[index] = value
    found: set[int] = set()
    for values in groups.values():
        top = number(min(values.values()) if lower else max(values.values()), digits_of(column.metric))
        if len(values) > 1:
            found |= {i for i, value in values.items() if number(value, digits_of(column.metric)) == top}
    return found


def span(values: Iterable[float]) -> str:
    """Return a number of images, or the range that it has over folds."""
    found = sorted({round(v) for v in values if not math.isnan(v)})
    if not found:
        return "–"
    return str(found[0]) if len(found) == 1 else f"{found[0]}–{found[-1]}"

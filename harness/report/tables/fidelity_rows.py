"""What was measured of generators, by row and column of a table: numbers, means over folds, holes, the best value."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.metrics.fidelity.sample_sets import of_set
from harness.metrics.spec import FidelityMetric, Quantity, fidelity_metrics, sides_of
from harness.report.format import number

if TYPE_CHECKING:
    from harness.results.schema import Measured, StudyResults


@dataclass(frozen=True)
class Number:
    """One fidelity row of the results, as plain values."""

    cell: str
    generator: str
    n_fit: float
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
        declared = [name for name in known if name in fidelity_metrics()]
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

    quantity: Quantity
    declared: FidelityMetric
    network: str = ""

    @property
    def metric(self) -> str:
        """The quantity's name in results."""
        return self.quantity.name

    @property
    def heading(self) -> str:
        """What stands above it."""
        return f"{self.quantity.column}\n({self.network})" if self.network else self.quantity.column


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
        numbers = [n.n_fit for n in line.numbers if not math.isnan(n.n_fit)]
        found[line.first.cell] = (line.first.generator, round(max(numbers, default=0)))
    return found


def pools_by_generator(results: StudyResults) -> dict[str, dict[int, Measured]]:
    """Return what was measured of each generator in its first fold, by how many real images it was fitted on."""
    fits = _fits(results)
    found: dict[str, dict[int, Measured]] = {}
    for measured in results.measured:
        if measured.arm != "real" and measured.cell in fits:
            generator, n_fit = fits[measured.cell]
            found.setdefault(generator, {}).setdefault(n_fit, measured)
    return found


def largest_fits(results: StudyResults) -> list[Measured]:
    """Return what was measured of real images, and of each generator after its fit on the most of them, every fold.

    Figures that have a panel, or a page, a generator show these: the others differ in the number of real images only.
    """
    fits = _fits(results)
    most: dict[str, int] = {}
    for generator, n_fit in fits.values():
        most[generator] = max(n_fit, most.get(generator, 0))
    return [m for m in results.measured if m.cell not in fits or fits[m.cell][1] == most[fits[m.cell][0]]]


def columns_of(lines: Sequence[Line], table: str) -> list[Column]:
    """Return the columns of a table: of the quantities that were measured, and of the metrics that were to be.

    A quantity that was measured with several networks has a column for each, named.
    """
    columns = []
    for declared in fidelity_metrics().values():
        for quantity in declared.quantities:
            if quantity.table != table:
                continue
            names = sides_of(quantity) if quantity.two_sided else (quantity.name,)
            networks = dict.fromkeys(n.network for line in lines for name in names for n in line.measured(name))
            # What a metric is named for (prdc for its coverage) has a column even where every fold is a hole.
            own = (declared.name, declared.shown_as or declared.name)
            planned = quantity.name in own and any(n.metric in own for line in lines for n in line.numbers)
            several = len(networks) > 1
            columns += [Column(quantity, declared, n if several else "") for n in networks]
            if planned and not networks:
                columns.append(Column(quantity, declared))
    return columns


def best(lines: Sequence[Line], column: Column, copies: Collection[str] = ()) -> set[int]:
    """Return which lines hold the best value among generators measured on equal numbers of images.

    References, leaked numbers, holes and generators that copy are never the best, and nothing is the best of one.
    Values that print the same are the best together.

    Args:
        lines: of the table.
        column: of the table.
        copies: cells of generators that are flagged as copying.
    """
    quantity = column.quantity
    better = quantity.better if quantity.marked else None
    groups: dict[tuple[tuple[float, float], ...], dict[int, float]] = {}
    for index, line in enumerate(lines):
        value = line.mean(column.metric, column.network)
        sound = not line.first.real and not line.leaks and line.first.cell not in copies and not math.isnan(value)
        if better is not None and sound:
            groups.setdefault(line.counts(column.metric, column.network), {})[index] = value
    found: set[int] = set()
    for values in groups.values():
        top = number(min(values.values()) if better == "lower" else max(values.values()), quantity.digits)
        if len(values) > 1:
            found |= {i for i, value in values.items() if number(value, quantity.digits) == top}
    return found


def span(values: Iterable[float]) -> str:
    """Return a number of images, or the range that it has over folds."""
    found = sorted({round(v) for v in values if not math.isnan(v)})
    if not found:
        return "–"
    return str(found[0]) if len(found) == 1 else f"{found[0]}–{found[-1]}"

"""The tables of what was measured of generators: fidelity of images and of masks, and memorisation.

A row is a generator, averaged over folds, or real images of another role measured as synthetic ones are: the floor that
real images reach.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from string import Formatter
from typing import TYPE_CHECKING

from harness.metrics.fidelity.sample_sets import between_sets, quantity_of
from harness.metrics.spec import FidelityMetric, fidelity_metrics, owner_of, sides_of
from harness.report.format import number, p_value
from harness.report.tables.fidelity_rows import Column, Line, Number, best, columns_of, fidelity_lines, span
from harness.report.tables.scores import LEAK_NOTE
from harness.report.tables.table import Cell, Table
from harness.report.wording import generator_setting
from harness.results.catalogue import TableSpec

if TYPE_CHECKING:
    from harness.results.schema import StudyResults

#: Most columns of measurements that fit the width of a page, and when each has a deviation.
WIDEST, WIDEST_WITH_DEVIATION = 10, 6

_LEAD = ("Generator", "Fitted\non", "Images", "Against")


def _lead(line: Line, columns: Sequence[Column], copies: Collection[str]) -> list[Cell]:
    """Return the cells left of the measurements: which generator, fitted on how much, and images on both sides."""
    stand = [n for c in columns for n in line.measured(c.metric, c.network)]
    n_fit = "–" if line.first.real else span(n.n_fit for n in line.numbers)
    images, against = span(n.images for n in stand), span(line.real_images(n) for n in stand)
    role = line.first.role
    return [
        Cell(line.first.cell, mark="‡" if line.first.cell in copies else ""),
        Cell(n_fit),
        Cell(f"{line.sets} × {images}" if line.sets > 1 and images != "–" else images),
        Cell(role if against == "–" else f"{against} {role}"),
    ]


def _beside(line: Line, column: Column, sets: int) -> str:
    """Return what is printed after a value of one fold: the deviation between sets or, of one set, the metric's own.

    One table never has both: they say different things.
    """
    quantity, deviation = column.quantity, math.nan
    if sets > 1 and quantity.better is not None:
        deviation = line.mean(between_sets(column.metric), column.network)
    elif sets == 1 and quantity.deviation:
        deviation = line.mean(quantity.deviation, column.network)
    several = len(line.folds) > 1
    return "" if several or math.isnan(deviation) else f" ± {number(deviation, quantity.digits)}"


def _value_cell(line: Line, column: Column, bold: bool, sets: int) -> Cell:
    """Return a number; of a quantity that is measured on both sides, real / synthetic."""
    quantity = column.quantity
    names = sides_of(quantity) if quantity.two_sided else (quantity.name,)
    values = [line.mean(name, column.network) for name in names]
    if any(math.isnan(value) for value in values):
        return Cell(line.hole(names[-1], column.declared.name, column.network))
    # A count has no decimals, but the mean of counts does.
    digits = quantity.digits or int(any(value != round(value) for value in values))
    text = " / ".join(number(value, digits) for value in values) + _beside(line, column, sets)
    return Cell(text, bold=bold, mark="†" if line.leaks and not quantity.two_sided else "")


def _rows(lines: Sequence[Line], columns: Sequence[Column], copies: Collection[str]) -> list[list[Cell]]:
    tops = [best(lines, column, copies) for column in columns]
    sets = _most_sets(lines)
    return [
        [
            *_lead(line, columns, copies),
            *(_value_cell(line, column, index in top, sets) for column, top in zip(columns, tops, strict=True)),
        ]
        for index, line in enumerate(lines)
    ]


def _most_sets(lines: Sequence[Line]) -> int:
    """Return how many sample sets the generators of a table have; real images are always one."""
    return max((line.sets for line in lines), default=1)


def _sets_note(lines: Sequence[Line]) -> list[str]:
    """Return what numbers are means over, when there are several sets."""
    sets = _most_sets(lines)
    if sets == 1:
        return []
    images = span(n.images for line in lines if line.sets > 1 for n in line.numbers if n.images > 0)
    folds = any(len(line.folds) > 1 for line in lines)
    shown = "Means in each fold" if folds else "Mean ± standard deviation (n − 1)"
    return [f"{shown} over {sets} sets of {images} images of a generator, each measured on its own."]


def _common_notes(lines: Sequence[Line], rows: Sequence[Sequence[Cell]]) -> list[str]:
    notes = [LEAK_NOTE.format(leak) for leak in dict.fromkeys(leak for line in lines for leak in line.leaks)]
    notes += _sets_note(lines)
    if any(cell.bold for row in rows for cell in row):
        notes.append("Bold: the best of the generators that were measured on equal numbers of images and do not copy.")
    if any(cell.mark == "‡" for row in rows for cell in row):
        notes.append("‡ flagged as copies of training images, which look as good as those: see Memorisation.")
    if any(line.first.real for line in lines):
        notes.append("Above the rule: real images of another role, measured as synthetic ones are.")
    return notes


def _rules(lines: Sequence[Line]) -> frozenset[int]:
    references = sum(line.first.real for line in lines)
    return frozenset({references} if references < len(lines) else ())


def _networks(lines: Sequence[Line], column: Column) -> list[str]:
    measured = (n for line in lines for n in line.measured(column.metric, column.network))
    return list(dict.fromkeys(n.network for n in measured))


def _networks_note(lines: Sequence[Line], columns: Sequence[Column]) -> list[str]:
    """Return which network each column stands on."""
    headings: dict[str, list[str]] = {}
    for column in columns:
        for network in _networks(lines, column):
            if network and not column.declared.needs_segmenter:
                headings.setdefault(network, []).append(column.quantity.label)
    listed = "; ".join(f"{', '.join(names)}: {network}" for network, names in headings.items())
    return [f"Feature networks: {listed}."] if listed else []


def _records(lines: Sequence[Line], belongs: Callable[[Number], bool]) -> list[dict[str, object]]:
    """Return the numbers of a table as plain values, one a line."""
    return [
        {
            "generator": n.generator, "real": n.n_fit, "role": n.role, "fold": n.fold, "metric": n.metric,
            "reduction": n.network, "value": n.value, "images": n.images, "real_images": line.real_images(n),
            "status": n.status,
        }
        for line in lines
        for n in line.numbers
        if n.metric != "n_real" and belongs(n)
    ]  # fmt: skip


def _setting(results: StudyResults, lines: Sequence[Line], declared: set[str], *, averaged: bool = True) -> str:
    """Return the clauses of a caption; a measurement is one generator in one fold."""
    measurements = {(n.cell, n.fold): n.status for line in lines for n in line.numbers if n.metric in declared}
    done = sum(status in ("", "done") for status in measurements.values())
    return generator_setting(results, done, len(measurements), averaged=averaged)


def _belongs(metric: str, table: str) -> bool:
    """Say whether a number of the results belongs to what a table is about: to a metric that has a column there."""
    owner = owner_of(quantity_of(metric))
    tables = {quantity.table for quantity in owner.quantities} if owner else set()
    return table in tables or (table == "fidelity" and not tables & {"fidelity-masks", "memorisation"})


def _declared(table: str) -> set[str]:
    """Return the names of the metrics that have a column in a table."""
    return {one.name for one in fidelity_metrics().values() if any(q.table == table for q in one.quantities)}


def fidelity_tables(results: StudyResults) -> list[Table]:
    """Return the table of how close synthetic images are to real ones, in two parts when it is wider than a page."""
    lines = fidelity_lines(results)
    columns = columns_of(lines, "fidelity")
    parts = -(-len(columns) // (WIDEST if _most_sets(lines) == 1 else WIDEST_WITH_DEVIATION))
    chunks = [columns[i * len(columns) // parts : (i + 1) * len(columns) // parts] for i in range(parts)]
    caption = f"Fidelity of synthetic images; {_setting(results, lines, _declared('fidelity'))}."
    records = _records(lines, lambda n: _belongs(n.metric, "fidelity"))
    tables = []
    for index, chunk in enumerate(chunks):
        rows = _rows(lines, chunk, copying(results))
        tables.append(
            Table(
                f"fidelity-{index + 1}" if parts > 1 else "fidelity",
                "Fidelity of synthetic images",
                caption,
                [*_LEAD, *(column.heading for column in chunk)],
                rows,
                _rules(lines),
                [*_common_notes(lines, rows), *_column_notes(lines, chunk), *_networks_note(lines, chunk)],
                text_columns=2,
                records=records,
            )
        )
    return tables


def _column_notes(lines: Sequence[Line], columns: Sequence[Column]) -> list[str]:
    """Return what metrics say must be known of their columns."""
    notes = []
    for column in columns:
        quantity = column.quantity
        if isinstance(quantity, FidelityMetric) and quantity.biased_below:
            counts = [count for line in lines for both in line.counts(quantity.name) for count in both]
            if few := [count for count in counts if 0 < count < quantity.biased_below]:
                notes.append(
                    f"{quantity.label} of fewer than {quantity.biased_below} images (here {span(few)}) is biased "
                    "upwards, the more the fewer they are: compare it at equal numbers of images only."
                )
        if quantity.deviation and _most_sets(lines) == 1 and any(_beside(line, column, 1) for line in lines):
            notes.append(f"{quantity.label} ± its standard deviation over random subsets.")
        if quantity.note:
            words = {"networks": ", ".join(_networks(lines, column)) or "–"}
            words |= {
                q.name: span(n.value for line in lines for n in line.measured(q.name)) for q in column.declared.beside
            }
            used = [name for _, name, _, _ in Formatter().parse(quantity.note) if name]
            if all(words[name] != "–" for name in used):
                notes.append(quantity.note.format_map(words))
    return list(dict.fromkeys(notes))


def mask_table(results: StudyResults) -> Table | None:
    """Return the table of how close synthetic masks are to real ones, or None when that was not measured."""
    lines = fidelity_lines(results)
    columns = columns_of(lines, "fidelity-masks")
    if not columns:
        return None
    rows = _rows(lines, columns, copying(results))
    return Table(
        "fidelity-masks",
        "Fidelity of synthetic masks",
        f"Fidelity of synthetic masks; {_setting(results, lines, _declared('fidelity-masks'))}.",
        [*_LEAD, *(column.heading for column in columns)],
        rows,
        _rules(lines),
        [*_common_notes(lines, rows), *_column_notes(lines, columns)],
        text_columns=2,
        records=_records(lines, lambda n: _belongs(n.metric, "fidelity-masks")),
    )


def memorisation_table(results: StudyResults) -> Table | None:
    """Return the table of whether generators copy their training images, a row a fold; None when not measured."""
    lines = [
        Line(tuple(n for n in line.numbers if n.fold == fold))
        for line in fidelity_lines(results)
        for fold in line.folds
        if any(n.metric == "memorisation" for n in line.numbers)
    ]
    if not lines:
        return None
    memorisation = fidelity_metrics()["memorisation"]
    closer, told = Column(memorisation, memorisation), {(m.cell, str(m.fold)): m for m in results.measured}
    several = len({line.first.fold for line in lines}) > 1
    rows: list[list[Cell]] = []
    records: list[dict[str, object]] = []
    for line in lines:
        beside = told.get((line.first.cell, line.first.fold))
        values = {quantity.name: line.mean(quantity.name) for quantity in memorisation.quantities}
        copies = None if beside is None or math.isnan(values["memorisation"]) else beside.copies
        verdict = {None: "–", True: "copies", False: "no sign of copying"}[copies]
        reference = beside.reference if beside else ""
        cells = _lead(line, [closer], ())
        rows.append(
            [
                *cells[:2],
                *([Cell(line.first.fold)] if several else []),
                cells[2],
                _value_cell(line, closer, False, _most_sets(lines)),
                Cell(number(values["copied"], 4)),
                Cell(p_value(values["copied-p-value"])),
                Cell(number(values["exact-copies"], 0)),
                Cell(reference or "–"),
                Cell(verdict, bold=verdict == "copies"),
            ]
        )
        about = {"generator": line.first.generator, "real": line.first.n_fit, "fold": line.first.fold}
        images = next((n.images for n in line.measured("memorisation")), math.nan)
        judged = {"images": images, "reference": reference, "verdict": verdict.replace("–", "")}
        records.append({**about, **values, **judged, "status": line.first.status})
    return Table(
        "memorisation",
        "Memorisation",
        "Whether synthetic images are copies of the images that their generator was fitted on; "
        f"{_setting(results, lines, {'memorisation'}, averaged=False)}.",
        [
            *_LEAD[:2], *(["Fold"] if several else []), "Images",
            *(quantity.column for quantity in memorisation.quantities), "Reference", "Verdict",
        ],
        rows,
        _rules(lines),
        [
            *_common_notes(lines, []),
            memorisation.note,
            *(["Copied, p, exact copies and verdict: of all sets together."] if _most_sets(lines) > 1 else []),
        ],
        text_columns=2,
        records=records,
    )  # fmt: skip


def copying(results: StudyResults) -> set[str]:
    """Return the cells of generators that are flagged as copying."""
    return {measured.cell for measured in results.measured if measured.copies and measured.arm == "synthetic"}


def describe_copies(results: StudyResults) -> list[str]:
    """Return a sentence for each generator that was flagged, and for real images that were."""
    flagged = {measured.cell: measured.arm for measured in results.measured if measured.copies}
    found = {
        "real": "are flagged as copies of those that generators are fitted on: the split may hold near-duplicates",
        "synthetic": "are flagged as copies of its training images: see the table Memorisation",
    }
    return [f"Images of {cell} {found[arm]}." for cell, arm in flagged.items()]


IMAGE_FIDELITY = TableSpec(
    "fidelity",
    "Fidelity of synthetic images",
    "How close they are to real ones, by every metric that was measured; two tables when it is wider than a page.",
    lambda findings: fidelity_tables(findings.results),
    place=30,
)

MASK_FIDELITY = TableSpec(
    "fidelity-masks",
    "Fidelity of synthetic masks",
    "How close they are to real ones: SIM with its references, areas, components, empty masks.",
    lambda findings: [mask_table(findings.results)],
    place=40,
)

COPIES = TableSpec(
    "memorisation",
    "Memorisation",
    "Whether synthetic images are copies of training images.",
    lambda findings: [memorisation_table(findings.results)],
    place=50,
)

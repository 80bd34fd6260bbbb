"""The tables of what was measured of generators: fidelity of images and of masks, and memorisation.

A row is a generator, averaged over folds, or real images of another role measured as synthetic ones are: the floor that
real images reach.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

from harness.metrics.fidelity.measure import FIDELITY
from harness.metrics.fidelity.sample_sets import between_sets, quantity_of
from harness.report.format import digits_of, metric_name, number, p_value
from harness.report.tables.fidelity_rows import (
    HEADINGS,
    Column,
    Line,
    Number,
    best,
    columns_of,
    fidelity_lines,
    lower_is_better,
    span,
)
from harness.report.tables.scores import LEAK_NOTE
from harness.report.tables.table import Cell, Table
from harness.report.wording import generator_setting
from harness.results.catalogue import TableSpec

if TYPE_CHECKING:
    from harness.results.schema import StudyResults

#: Features of the Inception network: of fewer images, a covariance has not full rank and the FID is biased.
FULL_RANK = 2048

#: Quantities of the table of images, each with the metric that a study names to have it.
IMAGES = {
    "fid": "fid", "fid-corrected": "fid", "kid": "kid", "precision": "prdc", "recall": "prdc", "density": "prdc",
    "coverage": "prdc", "sifid": "sifid", "frechet-distance": "frechet-distance",
    "thumbnail-distance": "thumbnail-distance", "agreement": "agreement", "agreement-chance": "agreement",
}  # fmt: skip
MASKS = {"sim": "sim", "sim-black": "sim", "sim-real": "sim", "mask-area": "mask-area"}
MASK_PAIRS = {"mean-area": "mask-area", "mean-components": "mask-area", "empty-masks": "mask-area"}
MEMORISATION = ("memorisation", "copied", "copied-p-value", "exact-copies")

#: Most columns of measurements that fit the width of a page, and when each has a deviation.
WIDEST, WIDEST_WITH_DEVIATION = 10, 6

_LEAD = ("Generator", "Fitted\non", "Images", "Against")
_CLOSER = Column("Closer", "memorisation", "memorisation")


def _lead(line: Line, columns: Sequence[Column], copies: Collection[str]) -> list[Cell]:
    """Return the cells left of the measurements: which generator, fitted on how much, and images on both sides."""
    stand = [n for c in columns for n in line.measured(c.metric, c.network)]
    fitted = "–" if line.first.real else span(n.fitted for n in line.numbers)
    images, against = span(n.images for n in stand), span(line.real_images(n) for n in stand)
    role = line.first.role
    return [
        Cell(line.first.cell, mark="‡" if line.first.cell in copies else ""),
        Cell(fitted),
        Cell(f"{line.sets} × {images}" if line.sets > 1 and images != "–" else images),
        Cell(role if against == "–" else f"{against} {role}"),
    ]


def _beside(line: Line, column: Column, sets: int) -> str:
    """Return what is printed after a value of one fold: the deviation between sets or, where all have one, that of KID.

    One table never has both: they say different things.
    """
    deviation = math.nan
    if sets > 1 and lower_is_better(column.metric) is not None:
        deviation = line.mean(between_sets(column.metric), column.network)
    elif sets == 1 and column.metric == "kid":
        deviation = line.mean("kid-deviation", column.network)
    several = len(line.folds) > 1
    return "" if several or math.isnan(deviation) else f" ± {number(deviation, digits_of(column.metric))}"


def _value_cell(line: Line, column: Column, bold: bool, sets: int) -> Cell:
    value = line.mean(column.metric, column.network)
    if math.isnan(value):
        return Cell(line.hole(column.metric, column.declared, column.network))
    text = number(value, digits_of(column.metric)) + _beside(line, column, sets)
    return Cell(text, bold=bold, mark="†" if line.leaks else "")


def _pair_cell(line: Line, column: Column) -> Cell:
    """Return real / synthetic of a quantity that is measured on both sides, or a count of synthetic masks."""
    if column.metric == "empty-masks":
        value = line.mean(column.metric)
        whole = value == round(value) if not math.isnan(value) else True
        text = number(value, 0 if whole else 1)
        return Cell(line.hole(column.metric, column.declared) if math.isnan(value) else text)
    sides = [line.mean(f"{column.metric}-{side}") for side in ("real", "synthetic")]
    if any(math.isnan(side) for side in sides):
        return Cell(line.hole(f"{column.metric}-synthetic", column.declared))
    digits = 2 if column.metric == "mean-components" else 4
    return Cell(" / ".join(number(side, digits) for side in sides))


def _rows(lines: Sequence[Line], columns: Sequence[Column], copies: Collection[str]) -> list[list[Cell]]:
    tops = [best(lines, column, copies) for column in columns]
    sets = _most_sets(lines)
    return [
        [
            *_lead(line, columns, copies),
            *(
                _pair_cell(line, column)
                if column.metric in MASK_PAIRS
                else _value_cell(line, column, index in top, sets)
                for column, top in zip(columns, tops, strict=True)
            ),
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
            if network and column.declared != "agreement":
                headings.setdefault(network, []).append(metric_name(column.metric))
    listed = "; ".join(f"{', '.join(names)}: {network}" for network, names in headings.items())
    return [f"Feature networks: {listed}."] if listed else []


def _records(lines: Sequence[Line], belongs: Callable[[Number], bool]) -> list[dict[str, object]]:
    """Return the numbers of a table as plain values, one a line."""
    return [
        {
            "generator": n.generator, "real": n.fitted, "role": n.role, "fold": n.fold, "metric": n.metric,
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


def _of_masks(metric: str) -> bool:
    return quantity_of(metric) in MASKS or metric.startswith(tuple(MASK_PAIRS))


def fidelity_tables(results: StudyResults) -> list[Table]:
    """Return the table of how close synthetic images are to real ones, in two parts when it is wider than a page."""
    lines = fidelity_lines(results)
    named = dict.fromkeys(n.metric for line in lines for n in line.numbers if n.metric in FIDELITY)
    known = (*IMAGES.values(), *MASKS.values(), *MEMORISATION)
    quantities = IMAGES | {metric: metric for metric in named if metric not in known}
    columns = columns_of(lines, quantities)
    parts = -(-len(columns) // (WIDEST if _most_sets(lines) == 1 else WIDEST_WITH_DEVIATION))
    chunks = [columns[i * len(columns) // parts : (i + 1) * len(columns) // parts] for i in range(parts)]
    caption = f"Fidelity of synthetic images; {_setting(results, lines, {*quantities, *quantities.values()})}."
    records = _records(lines, lambda n: not _of_masks(n.metric) and quantity_of(n.metric) not in MEMORISATION)
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
                [*_common_notes(lines, rows), *_image_notes(lines, chunk), *_networks_note(lines, chunk)],
                text_columns=2,
                records=records,
            )
        )
    return tables


def _image_notes(lines: Sequence[Line], columns: Sequence[Column]) -> list[str]:
    """Return what the metrics of images need said."""
    shown = {column.metric for column in columns}
    notes = []
    counts = [count for line in lines for both in line.counts("fid") for count in both]
    if small := [count for count in counts if 0 < count < FULL_RANK and "fid" in shown]:
        notes.append(
            f"FID of fewer than {FULL_RANK} images (here {span(small)}) is biased upwards, the more the fewer they "
            "are: compare it at equal numbers of images only."
        )
    if "fid-corrected" in shown:
        notes.append("Corrected FID: that of subsets of different sizes, extrapolated to infinitely many images.")
    alone = _most_sets(lines) == 1
    if "kid" in shown and alone and any(_beside(line, column, 1) for line in lines for column in columns):
        notes.append("KID ± its standard deviation over random subsets.")
    neighbours = span(n.value for line in lines for n in line.measured("neighbours"))
    if "coverage" in shown and neighbours != "–":
        notes.append(f"Precision, recall, density and coverage: of {neighbours} nearest neighbours.")
    judges = dict.fromkeys(n for column in columns if column.declared == "agreement" for n in _networks(lines, column))
    if judges:
        notes.append(
            f"Agreement: mean IoU of the masks with what a segmenter trained on real pairs ({', '.join(judges)}) "
            "predicts on their images; by chance: with the masks of other images. Images and masks belong together as "
            "far as the first is above the second; real images show how far that can be."
        )
    return notes


def mask_table(results: StudyResults) -> Table | None:
    """Return the table of how close synthetic masks are to real ones, or None when that was not measured."""
    lines = fidelity_lines(results)
    columns = columns_of(lines, MASKS)
    if not columns:
        return None
    for metric, declared in MASK_PAIRS.items():
        if any(line.measured(metric) or line.measured(f"{metric}-synthetic") for line in lines):
            columns.append(Column(HEADINGS[metric], metric, declared))
    shown = {column.metric for column in columns}
    rows = _rows(lines, columns, copying(results))
    notes = _common_notes(lines, rows)
    if "sim" in shown:
        notes.append(
            "SIM: mean share of pixels equal to the most similar real mask; beside it what an all-black mask scores, "
            "and real masks among each other, above which more is no merit."
        )
    if "mask-area" in shown:
        notes.append(
            "Area: share of the image that is polyp; its distance is Wasserstein's. Mean area and components "
            "(connected parts a mask): real / synthetic."
        )
    return Table(
        "fidelity-masks",
        "Fidelity of synthetic masks",
        f"Fidelity of synthetic masks; {_setting(results, lines, set(MASKS.values()))}.",
        [*_LEAD, *(column.heading for column in columns)],
        rows,
        _rules(lines),
        notes,
        text_columns=2,
        records=_records(lines, lambda n: _of_masks(n.metric)),
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
    told = {(m.cell, str(m.fold)): m for m in results.measured}
    several = len({line.first.fold for line in lines}) > 1
    rows: list[list[Cell]] = []
    records: list[dict[str, object]] = []
    for line in lines:
        beside = told.get((line.first.cell, line.first.fold))
        values = {name: line.mean(name) for name in MEMORISATION}
        copies = None if beside is None or math.isnan(values["memorisation"]) else beside.copies
        verdict = {None: "–", True: "copies", False: "no sign of copying"}[copies]
        reference = beside.reference if beside else ""
        cells = _lead(line, [_CLOSER], ())
        rows.append(
            [
                *cells[:2],
                *([Cell(line.first.fold)] if several else []),
                cells[2],
                _value_cell(line, _CLOSER, False, _most_sets(lines)),
                Cell(number(values["copied"], 4)),
                Cell(p_value(values["copied-p-value"])),
                Cell(number(values["exact-copies"], 0)),
                Cell(reference or "–"),
                Cell(verdict, bold=verdict == "copies"),
            ]
        )
        about = {"generator": line.first.generator, "real": line.first.fitted, "fold": line.first.fold}
        images = next((n.images for n in line.measured("memorisation")), math.nan)
        judged = {"images": images, "reference": reference, "verdict": verdict.replace("–", "")}
        records.append({**about, **values, **judged, "status": line.first.status})
    return Table(
        "memorisation",
        "Memorisation",
        "Whether synthetic images are copies of the images that their generator was fitted on; "
        f"{_setting(results, lines, {'memorisation'}, averaged=False)}.",
        [
            *_LEAD[:2], *(["Fold"] if several else []), "Images", "Closer", "Copied", "p", "Exact\ncopies", "Reference",
            "Verdict",
        ],
        rows,
        _rules(lines),
        [
            *_common_notes(lines, []),
            "Closer: probability that a synthetic image lies closer to its nearest training image than a real image "
            "that was not seen does; 0.5 when they are alike, 1 when every image is a copy. Copied: share closer than "
            "99 % of the real ones, with the p value of so many by chance. Verdict copies: p below 0.01, or an exact "
            "copy.",
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

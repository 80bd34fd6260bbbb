"""The tables of checkpoint selection, in the form of the papers': a row a checkpoint, a column a metric."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from harness.report.format import digits_of, metric_name, number
from harness.report.tables.table import Cell, Table
from harness.report.wording import generator_setting
from harness.results.catalogue import TableSpec

if TYPE_CHECKING:
    from harness.results.schema import StudyResults


def as_number(value: Any) -> float:
    """Return a stored number as a float; NaN for nothing."""
    return math.nan if value is None or value == "" else float(value)


def _choice(row: Mapping[str, Any], chosen: int | None) -> str:
    """Return what became of a checkpoint, in words."""
    if chosen is not None and row["step"] == chosen:
        return "chosen"
    return f"cannot be chosen: {row['problem']}" if row.get("problem") else ""


def _cells(row: Mapping[str, Any], chosen: int | None, metrics: Sequence[str]) -> list[Cell]:
    choice = _choice(row, chosen)
    numbers = [number(as_number(row.get(metric)), digits_of(metric)) for metric in metrics]
    return [Cell(text, bold=choice == "chosen") for text in (str(row["step"]), *numbers, choice)]


def _record(row: Mapping[str, Any], chosen: int | None, metrics: Sequence[str]) -> dict[str, object]:
    values = {metric: as_number(row.get(metric)) for metric in metrics}
    return {"step": row["step"], **values, "chosen": row["step"] == chosen, "problem": row.get("problem", "")}


def selections(results: StudyResults) -> dict[str, dict[int, list[dict[str, Any]]]]:
    """Return the selection rows of the results, by part and fold: one dictionary a checkpoint, metrics as keys.

    Beside the metrics each has ``step`` (None when the stage has no result), ``problem``, ``chosen``, ``status``,
    ``role`` and ``samples``.
    """
    found: dict[str, dict[int, dict[Any, dict[str, Any]]]] = {}
    rows = results.rows[results.rows["kind"] == "selection"]
    for record in rows.to_dict("records"):
        plain = {str(k): None if v is None or v != v or v == "" else v for k, v in record.items()}
        fold = found.setdefault(str(plain["cell"] or plain["generator"] or ""), {}).setdefault(
            int(plain["fold"] or 0), {}
        )
        step = None if plain["step"] is None else int(plain["step"])
        word = str(plain["reduction"] or "")
        row = fold.setdefault(step, {"step": step, "problem": "" if word == "selected" else word})
        row |= {"chosen": word == "selected", "status": str(plain["status"] or ""), "role": str(plain["role"] or "")}
        row |= {"samples": as_number(plain["images"]), str(plain["metric"]): as_number(plain["value"])}
    return {cell: {fold: list(rows.values()) for fold, rows in folds.items()} for cell, folds in found.items()}


_BESIDE = ("step", "problem", "chosen", "status", "role", "samples")


def metrics_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the metrics of selection rows, the one that decides first."""
    return list(dict.fromkeys(name for row in rows for name in row if name not in _BESIDE))


def chosen_step(rows: Sequence[Mapping[str, Any]]) -> int | None:
    """Return the step that was chosen, if any."""
    return next((int(row["step"]) for row in rows if row["chosen"]), None)


def selection_tables(results: StudyResults) -> list[Table]:
    """Return one table for each part of a generator whose checkpoint was selected; a block a fold."""
    parts = selections(results)
    return [
        _part_table(results, cell, folds, "selection" if len(parts) == 1 else f"selection-{_file_name(cell)}")
        for cell, folds in parts.items()
    ]


def _file_name(cell: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", cell.lower()).strip("-")


def _part_table(results: StudyResults, cell: str, folds: dict[int, list[dict[str, Any]]], name: str) -> Table:
    """Return the table of one part."""
    metrics = metrics_of([row for rows in folds.values() for row in rows])
    several = len(folds) > 1
    body: list[list[Cell]] = []
    rules: set[int] = set()
    records: list[dict[str, object]] = []
    for fold, rows in folds.items():
        rules.add(len(body))
        chosen = chosen_step(rows)
        for position, row in enumerate(rows):
            lead = [Cell("" if position else str(fold))] if several else []
            if row["step"] is None:
                body.append([*lead, Cell("–"), *(Cell(row["status"]) for _ in metrics), Cell("")])
                records.append({"fold": fold, **_record({**row, "step": ""}, chosen, metrics)})
                continue
            body.append([*lead, *_cells(row, chosen, metrics)])
            records.append({"fold": fold, **_record(row, chosen, metrics)})
    first = next(iter(folds.values()))[0]
    samples = "" if math.isnan(first["samples"]) else f" of {round(first['samples'])} samples each"
    network = results.selection_networks.get(cell, "")
    done = sum(all(row["step"] is not None for row in rows) for rows in folds.values())
    return Table(
        name,
        f"Checkpoint selection, {cell}",
        f"Checkpoints of {cell}: {' and '.join(metric_name(m) for m in metrics)}{samples} against the {first['role']} "
        f"images{f', network {network}' if network else ''}; the chosen one is bold; "
        f"{generator_setting(results, done, len(folds))}.",
        [*(["Fold"] if several else []), "Step", *(metric_name(metric) for metric in metrics), "Choice"],
        body,
        frozenset(rules),
        text_columns=0,
        records=records,
    )


SELECTION = TableSpec(
    "selection",
    "Checkpoint selection",
    "What each checkpoint scored, which one was chosen and why others cannot be; a table a part of a generator.",
    lambda findings: selection_tables(findings.results),
    place=60,
)

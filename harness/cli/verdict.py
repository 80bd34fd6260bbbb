"""``harness verdict``: the verdicts of a report, on anyone's table of scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.errors import DataError

if TYPE_CHECKING:
    import pandas as pd


def command(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="SCORES.csv...",
            help="Tables with columns segmenter, arm, replicate, image, value, and if known group, fold, fit, pool, "
            "subset; each is a family of its own.",
        ),
    ],
    baseline: Annotated[
        str | None, typer.Option(help="Arm to compare with; by default the one called baseline or real.")
    ] = None,
    margin: Annotated[
        float | None, typer.Option(help="Differences below it do not matter, in units of the score.")
    ] = None,
    lower_is_better: Annotated[bool, typer.Option("--lower-is-better", help="As for a distance.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Say of each arm of a table of scores whether it is better or worse than the baseline."""
    from harness.stats.verdicts import verdict

    effects: list[dict[str, Any]] = []
    notes: list[str] = []
    for file in files:
        try:
            found = verdict(_read(file), baseline, margin, lower_is_better=lower_is_better)
        except DataError as error:
            raise DataError([f"{file}: {problem}" for problem in error.problems]) from error
        named: dict[str, Any] = {"file": str(file)} if len(files) > 1 else {}
        effects += [named | {str(k): v for k, v in row.items()} for row in found.to_dict("records")]
        notes += [f"{file}: {note}" if named else note for note in found.attrs["notes"]]
    if as_json:
        plain = [{k: None if v != v else v for k, v in effect.items()} for effect in effects]
        print(json.dumps({"effects": plain, "notes": notes}, indent=2))
    else:
        print("\n".join([*_lines(effects), *notes]))


def _read(file: Path) -> pd.DataFrame:
    """Read a table of scores; labels stay as they are written, so that ``01`` is not ``1``.

    Raises:
        DataError: there is no such file, or it is no table.
    """
    import pandas as pd

    try:
        table = pd.read_csv(file, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise DataError("there is no such file.") from error
    except (OSError, ValueError) as error:
        raise DataError(f"this cannot be read as a CSV table: {str(error).splitlines()[0]}") from error
    table.columns = table.columns.str.strip()
    for column in ("value", "segmenter", "arm", "replicate", "image"):
        if column in table:
            table[column] = table[column].where(~table[column].str.strip().str.lower().isin(("", "nan")), None)
    return table


def _lines(effects: list[dict[str, Any]]) -> list[str]:
    """Return the table of verdicts as aligned text."""
    from harness.report.format import interval, number, p_value, signed

    if not effects:
        return ["There is one arm only, so there is nothing to compare."]
    rows = [["segmenter", "arm", "compared with", "difference", "p (adjusted)", "detectable", "verdict"]]
    for effect in effects:
        difference = f"{signed(effect['difference'])} {interval(effect['low'], effect['high'], sign=True)}"
        words = effect["verdict"]
        if about := effect["reason"] or effect["over"]:
            words += f": {about}" if effect["reason"] else f" ({about})"
        rows.append(
            [
                *(effect[name] for name in ("segmenter", "arm", "baseline")),
                difference.strip(),
                p_value(effect["p_adjusted"]),
                number(effect["detectable"]),
                words,
            ]
        )
        if "file" in effect:
            rows[-1].insert(0, effect["file"])
    if "file" in effects[0]:
        rows[0].insert(0, "file")
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]

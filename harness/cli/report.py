"""``harness report``: render from what is stored, list what a report can show, compare two reports."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from harness.plugins.discovery import Found

app = typer.Typer(no_args_is_help=True)
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


@app.command()
def render(
    name: Annotated[str, typer.Argument(help="Name of a study, or the path of a YAML file.")],
    profile: Annotated[str | None, typer.Option("--profile", "-p", help="Overrides to apply.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="PATH=VALUE override.")] = None,
    as_json: Json = False,
) -> None:
    """Render a study's report from what is stored now. Trains nothing; holes are marked."""
    from harness.cli.study import command_line, planned_study
    from harness.engine.collect import collect
    from harness.home import reports_folder
    from harness.report.render import render as render_report

    plan, store = planned_study(name, profile, settings)
    results = collect(plan, store, command_line(name, profile, settings))
    page = render_report(results, reports_folder() / plan.loaded.folder_name)
    if as_json:
        print(json.dumps({"report": str(page), "done": results.done, "total": results.total}))
    else:
        print(f"Report of {results.done} of {results.total} cells: {page}" if results.total else f"Report: {page}")


@app.command("list")
def list_command(as_json: Json = False) -> None:
    """List every table and figure that a study may ask for, in the order of the report."""
    from harness.results import catalogue

    def described(found: Iterable[Found[Any]]) -> list[dict[str, Any]]:
        return [
            {"name": one.name, "title": one.thing.title, "caption": one.thing.caption, "place": one.thing.place}
            | {"origin": one.origin}
            for one in found
        ]

    listed = {
        "tables": described(catalogue.tables().values()),
        "figures": described(catalogue.figures().values()),
    }
    if as_json:
        print(json.dumps(listed, indent=2))
        return
    rows = [row for shown in listed.values() for row in shown]
    names, titles = (max(len(str(row[key])) for row in rows) for key in ("name", "title"))
    for kind, shown in listed.items():
        print(f"{kind}:")
        for row in shown:
            print(f"  {row['name']:{names}}  {row['title']:{titles}}  {row['origin']}")


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="Folder of a report, or its results.csv.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Folder of another.")],
    as_json: Json = False,
) -> None:
    """Compare two reports number by number."""
    from harness.report.compare import compare as compare_reports

    table, text = compare_reports(first, second)
    print(table.to_json(orient="records", indent=2) if as_json else text)

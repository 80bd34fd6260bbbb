"""The command line. Imports every room, and nothing heavy before a command runs."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import typer

from harness.errors import HarnessError

#: Groups of commands, one module of this package each, with what they are for; a single one is its ``command``.
GROUPS: dict[str, str] = {
    "study": "Declared studies: list, show, plan, run, status.",
    "data": "Datasets: import, list, show, check, split, export.",
    "metrics": "Measure folders, zips, datasets or stored results.",
    "generator": "Generators: list, fit, sample.",
    "plugin": "Plugins and all else that one file adds: list, show, check.",
    "weights": "Network weights: list, fetch, add, verify.",
    "store": "Stage results: du, gc, verify, explain.",
    "report": "Reports: render, list, compare.",
    "track": "MLflow: sync.",
    "verdict": "Verdicts on any table of scores.",
    "doctor": "Check this machine and this installation.",
}


def _print_version(wanted: bool) -> None:
    if wanted:
        from harness import __version__

        print(__version__)
        raise typer.Exit


def build(group: str | None) -> typer.Typer:
    """Return the application with one group's commands in full; the others have names only and import nothing."""
    app = typer.Typer(
        name="harness",
        help="Does synthetic data help my segmentation model, which generator makes it, and how much of it do I need?",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )

    @app.callback()
    def harness(
        version: bool = typer.Option(
            False, "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ) -> None:
        """Do what the named group of commands does."""

    for name, summary in GROUPS.items():
        if name == group:
            module = importlib.import_module(f"harness.cli.{name}")
            if hasattr(module, "command"):
                app.command(name)(module.command)
            else:
                app.add_typer(module.app, name=name, help=summary)
        else:
            app.add_typer(typer.Typer(), name=name, help=summary, invoke_without_command=True)
    return app


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line; users see one sentence for a mistake of theirs, never a traceback."""
    arguments = sys.argv[1:] if arguments is None else arguments
    group = next((word for word in arguments if not word.startswith("-")), None)
    try:
        build(group if group in GROUPS else None)(arguments)
    except HarnessError as error:
        for line in str(error).splitlines():
            print(f"harness: {line}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print(
            "harness: interrupted; what is finished is kept, and the same command goes on from there.", file=sys.stderr
        )
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)

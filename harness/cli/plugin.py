"""``harness plugin``: what one file can add, what plugins take, and whether they keep their contract."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import types
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import typer

from harness.errors import PluginError, nearest
from harness.plugins.contract import KINDS, Kind, Plugin
from harness.plugins.registry import load_plugin, registry

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

app = typer.Typer(no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
KindOption = Annotated[
    str | None, typer.Option("--kind", help="generators, refiners or segmenters, when a name stands for more than one.")
]
PluginName = Annotated[str, typer.Argument(help="A listed name, module:Class, or path/to/file.py:Class.")]


#: What can be added from one file besides plugins, in the order of the list: its kind, the function that returns what
#: there is by name (:class:`harness.plugins.discovery.Found`), and the attribute that says in a line what one of it is.
ALSO_LISTED: tuple[tuple[str, str, str], ...] = (
    ("metrics", "harness.metrics.spec:found_segmentation", "definition"),
    ("metrics", "harness.metrics.spec:found_fidelity", "definition"),
    ("tables", "harness.results.catalogue:tables", "title"),
    ("figures", "harness.results.catalogue:figures", "title"),
    ("executors", "harness.engine.executors:executors", "summary"),
    ("stage-kinds", "harness.engine.stages:kinds", "__doc__"),
)


@app.command("list")
def list_plugins(as_json: AsJson = False) -> None:
    """List everything that one file can add: built-in, installed, or an extension."""
    entries = [registry()[key] for key in sorted(registry(), key=lambda key: (KINDS.index(key[0]), key[1]))]
    rows = [*(dataclasses.asdict(entry) for entry in entries), *also_listed()]
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    _print_table(
        ["kind", "name", "from", "what it is"],
        [[row["kind"][:-1], row["name"], _short(row["origin"]), row["summary"] or row["target"]] for row in rows],
    )


def also_listed() -> Iterator[dict[str, str]]:
    """Yield the rows of what is no plugin, as those of plugins are."""
    for kind, where, attribute in ALSO_LISTED:
        module, _, function = where.partition(":")
        for one in getattr(importlib.import_module(module), function)().values():
            summary = str(getattr(one.thing, attribute, None) or one.thing.__doc__ or "").strip().partition("\n")[0]
            yield {"kind": kind, "name": one.name, "target": one.target, "origin": one.origin, "summary": summary}


def _short(origin: str) -> str:
    """Return the path of an extension as seen from the current folder, where it is below that."""
    path = Path(origin)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else origin


@app.command("show")
def show(name: PluginName, kind: KindOption = None, as_json: AsJson = False) -> None:
    """Show what a plugin implements, what it needs and makes, and its parameters."""
    found_kind, plugin = find(name, kind)
    card = dataclasses.asdict(plugin.card) if hasattr(plugin, "card") else None
    parameters = [_describe(n, field) for n, field in plugin.Parameters.model_fields.items()]
    documentation = inspect.getdoc(plugin) or ""
    if as_json:
        document = {
            "kind": found_kind,
            "name": plugin.name,
            "version": plugin.version,
            "description": documentation,
            "card": card,
            "parameters": parameters,
        }
        print(json.dumps(document, indent=1))
        return
    print(f"{plugin.name} ({found_kind[:-1]}, version {plugin.version})\n\n{documentation}\n")
    if card is not None:
        _print_table(["card", ""], [[key, _plain(value)] for key, value in card.items()])
    if parameters:
        headings = ["parameter", "type", "default", "allowed", "description"]
        rows = [[p["name"], p["type"], _plain(p["default"]), p["allowed"], p["description"]] for p in parameters]
        _print_table(headings, rows)
    else:
        print("It has no parameters.")


@app.command("check")
def check(
    name: PluginName,
    kind: KindOption = None,
    as_json: AsJson = False,
    fresh_process: Annotated[bool, typer.Option(help="Also load and sample in a new process (some seconds).")] = True,
) -> None:
    """Try out what a plugin promises, on tiny drawn pairs; exit 1 when a check fails."""
    import tempfile

    from harness.conformance import check_plugin

    found_kind, plugin = find(name, kind)
    with tempfile.TemporaryDirectory(prefix="harness-plugin-") as folder:
        checks = check_plugin(found_kind, plugin, Path(folder), fresh_process=fresh_process)
    passed = all(c.passed for c in checks)
    if as_json:
        document = {"kind": found_kind, "name": plugin.name, "passed": passed, "checks": [c._asdict() for c in checks]}
        print(json.dumps(document, indent=1))
    else:
        width = max(len(c.name) for c in checks)
        for c in checks:
            print(f"{'ok  ' if c.passed else 'FAIL'}  {c.name:<{width}}  {c.sentence}")
    if not passed:
        raise typer.Exit(1)


def find(name: str, kind: str | None) -> tuple[Kind, type[Plugin]]:
    """Return a plugin's kind and class.

    Args:
        name: a registered name, ``module:Class`` or ``path/to/file.py:Class``.
        kind: one of the three kinds, or None to infer it.

    Raises:
        PluginError: there is no such plugin or kind, it cannot be imported, or the name stands for several kinds.
    """
    if kind is not None:
        chosen = next((k for k in KINDS if kind in (k, k[:-1])), None)
        if chosen is None:
            raise PluginError(f"There is no kind {kind!r}{nearest(kind, KINDS)}; kinds are: {', '.join(KINDS)}.")
        return chosen, load_plugin(chosen, name)
    kinds = [k for k in KINDS if (k, name) in registry()]
    if len(kinds) > 1:
        raise PluginError(f"{name!r} is in {' and '.join(kinds)}; add --kind {kinds[0]}.")
    if kinds:
        return kinds[0], load_plugin(kinds[0], name)
    if ":" not in name:
        offered = sorted(n for _, n in registry())
        raise PluginError(f"There is no plugin {name!r}{nearest(name, offered)}; there are: {', '.join(offered)}.")
    return _find_by_class(name)


def _find_by_class(target: str) -> tuple[Kind, type[Plugin]]:
    """Try a ``module:Class`` as each kind; of the errors, show the one that is not about being of another kind."""
    errors: list[PluginError] = []
    for kind in KINDS:
        try:
            return kind, load_plugin(kind, target)
        except PluginError as error:
            errors.append(error)
    telling = [error for error in errors if "must derive from" not in str(error)]
    if telling:
        raise telling[0]
    raise PluginError(
        f"{target!r} is no plugin: its class must derive from Generator, Refiner or Segmenter of harness.learning."
    )


def _describe(name: str, field: FieldInfo) -> dict[str, Any]:
    """Return a parameter as plain values: name, type, default, what is allowed, description."""
    limits = {"Ge": ">=", "Gt": ">", "Le": "<=", "Lt": "<"}
    allowed = [
        f"{limits[type(limit).__name__]} {getattr(limit, type(limit).__name__.lower())}"
        for limit in field.metadata
        if type(limit).__name__ in limits
    ]
    choices = _choices(field.annotation)
    default = field.get_default(call_default_factory=True)
    return {
        "name": name,
        "type": _type_name(field.annotation),
        "default": json.loads(json.dumps(default, default=str)),
        "allowed": ", ".join(allowed + [str(choice) for choice in choices]),
        "description": field.description or "",
    }


def _choices(annotation: Any) -> list[Any]:
    """Return the values of every Literal inside an annotation."""
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    return [choice for argument in get_args(annotation) for choice in _choices(argument)]


def _type_name(annotation: Any) -> str:
    """Return an annotation in the words of a study file: text, number, whole number, list."""
    words = {str: "text", int: "whole number", float: "number", bool: "true or false", type(None): "nothing"}
    if annotation in words:
        return words[annotation]
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return "text" if all(isinstance(argument, str) for argument in arguments) else "one of"
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_type_name(argument) for argument in arguments))
    if origin in (tuple, list):
        return f"list of {_type_name(arguments[0])}" if arguments else "list"
    return getattr(annotation, "__name__", str(annotation))


def _plain(value: Any) -> str:
    """Return a value as a person would write it in a study."""
    if isinstance(value, (list, tuple)):
        return ", ".join(str(item) for item in value) or "-"
    return "-" if value in (None, "") else str(value).lower() if isinstance(value, bool) else str(value)


def _print_table(headings: list[str], rows: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for position, heading in enumerate(headings):
        table.add_column(heading, no_wrap=position == 0)
    for row in rows:
        table.add_row(*(cell.replace("[", "\\[") for cell in row))
    Console(soft_wrap=False).print(table)
    print()

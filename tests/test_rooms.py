"""The rooms of the harness: every arrow of an import runs down, and none runs in a circle."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
#: From low to high; a room imports itself and lower ones only.
ROOMS = (
    "errors", "home", "study", "data", "store", "weights", "plugins", "metrics", "learning", "results", "engine",
    "stats", "report", "tracking", "conformance", "cli",
)  # fmt: skip


def modules(package: str) -> dict[str, Path]:
    """Every module of a package by dotted name."""
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(path: Path, known: dict[str, Path]) -> set[str]:
    """Modules that a file imports anywhere in it, also for type checkers alone."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                names.add(inner if inner in known else node.module)
    return {name for name in names if name in known}


def room(module: str) -> str:
    return module.split(".")[1]


HARNESS = modules("harness")


def test_the_root_holds_rooms_and_two_loose_modules() -> None:
    loose = {path.stem for path in (ROOT / "harness").glob("*.py")}
    assert loose - {"__init__", "__main__"} == {"errors", "home"}
    assert {path.parent.name for path in (ROOT / "harness").glob("*/__init__.py")} == set(ROOMS[2:])


@pytest.mark.parametrize("name", sorted(name for name in HARNESS if "." in name and not name.endswith("__main__")))
def test_imports_run_down(name: str) -> None:
    height = ROOMS.index(room(name))
    above = {other for other in imported(HARNESS[name], HARNESS) if "." in other and ROOMS.index(room(other)) > height}
    assert not above, f"{name} imports {above}, of a higher room"


@pytest.mark.parametrize("package", ["harness", "generators", "segmenters"])
def test_no_import_runs_in_a_circle(package: str) -> None:
    known = modules(package)
    graph = {name: imported(path, known) - {name} for name, path in known.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_plugins_import_one_room() -> None:
    known = {**HARNESS, **modules("generators"), **modules("segmenters")}
    for name, path in known.items():
        if not name.startswith("harness"):
            rooms = {other for other in imported(path, known) if other.startswith("harness")}
            assert all(other.startswith("harness.learning") for other in rooms), (name, rooms)


@pytest.mark.parametrize("name", sorted(ROOMS[2:]))
def test_each_room_says_what_it_is_for(name: str) -> None:
    text = ast.get_docstring(ast.parse((ROOT / "harness" / name / "__init__.py").read_text()))
    assert text
    assert text[0].isupper()

"""How the harness finds plugins: built-ins by file name, installed packages by entry point, files by path.

Listing those imports none of them. What an extension defines has the name that it gives itself.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from harness.errors import PluginError, nearest
from harness.plugins.contract import KINDS, Generator, Kind, Plugin, Refiner, Segmenter
from harness.plugins.discovery import discover, extension_files, installed, origin_of, remembered
from harness.plugins.import_file import import_file


@dataclass(frozen=True)
class PluginEntry:
    """A plugin that is known but not yet imported.

    Attributes:
        kind: ``generators``, ``refiners`` or ``segmenters``.
        name: what a study calls it.
        target: ``module:Class``, or ``path/to/file.py:Class``.
        origin: ``built-in``, the extension's file, or the distribution that brings it.
        summary: the first line of its docstring, when that is known without importing.
    """

    kind: Kind
    name: str
    target: str
    origin: str
    summary: str


#: What a plugin of each kind derives from.
BASES: dict[Kind, type[Plugin]] = {"generators": Generator, "refiners": Refiner, "segmenters": Segmenter}


def _read_built_in(path: Path, package: str) -> PluginEntry | None:
    """Read a built-in's class name, kind and summary from its source, without importing it."""
    for node in ast.parse(path.read_text()).body:
        if not isinstance(node, ast.ClassDef):
            continue
        bases = {base.id for base in node.bases if isinstance(base, ast.Name)}
        kind = next((k for k, base in BASES.items() if base.__name__ in bases), None)
        if kind is None:
            continue
        summary = (ast.get_docstring(node) or "").partition("\n")[0]
        module = path.parent.name if path.name == "__init__.py" else path.stem
        return PluginEntry(kind, module.replace("_", "-"), f"{package}.{module}:{node.name}", "built-in", summary)
    return None


def registry() -> dict[tuple[Kind, str], PluginEntry]:
    """Return every plugin by kind and name: built-ins by file name, installed packages by entry point, extensions.

    Raises:
        PluginError: two plugins of one kind have the same name, or an extension cannot be imported.
    """
    return _with_extensions(extension_files())


@remembered
def _with_extensions(_: tuple[Path, ...]) -> dict[tuple[Kind, str], PluginEntry]:
    """Return every plugin; what is given are the files that the answer holds for."""
    found = dict(_without_extensions())
    for kind, base in BASES.items():
        for one in discover(base, []).values():
            summary = (inspect.getdoc(one.thing) or "").partition("\n")[0]
            _add(found, PluginEntry(kind, one.name, one.target, one.origin, summary))
    return found


@cache
def _without_extensions() -> dict[tuple[Kind, str], PluginEntry]:
    found: dict[tuple[Kind, str], PluginEntry] = {}
    for package in ("generators", "segmenters"):
        specification = importlib.util.find_spec(package)
        for root in (specification.submodule_search_locations or []) if specification else []:
            files = [*Path(root).glob("*.py"), *Path(root).glob("*/__init__.py")]
            for path in sorted(files):
                entry = None if path.parent == Path(root) and path.stem == "__init__" else _read_built_in(path, package)
                if entry:
                    found[entry.kind, entry.name] = entry
    for kind in KINDS:
        for point in installed(f"harness.{kind}"):
            _add(found, PluginEntry(kind, point.name, point.value, origin_of(point), ""))
    return found


def _add(found: dict[tuple[Kind, str], PluginEntry], entry: PluginEntry) -> None:
    known = found.setdefault((entry.kind, entry.name), entry)
    if known.target != entry.target:
        raise PluginError(
            f"Two {entry.kind} are called {entry.name!r}: {known.target} ({known.origin}), {entry.target} "
            f"({entry.origin}); rename one or take it away."
        )


def _import_target(target: str) -> type[Plugin]:
    """Import ``module:Class`` or ``path/to/file.py:Class``."""
    where, _, attribute = target.rpartition(":")
    if not where:
        raise PluginError(f"{target!r} names no class; write module:Class or path/to/file.py:Class.")
    try:
        module = import_file(Path(where)) if where.endswith(".py") else importlib.import_module(where)
    except PluginError:
        raise
    except Exception as error:
        raise PluginError(f"Plugin {target!r} cannot be imported: {type(error).__name__}: {error}.") from error
    found = getattr(module, attribute, None)
    if not (isinstance(found, type) and issubclass(found, Plugin)):
        offered = [
            n
            for n, v in vars(module).items()
            if isinstance(v, type) and issubclass(v, Plugin) and v.__module__ == module.__name__
        ]
        there = ", ".join(offered) or "none"
        raise PluginError(f"{where} has no plugin class {attribute!r}{nearest(attribute, offered)}; it has {there}.")
    return found


def load_plugin(kind: Kind, name: str) -> type[Any]:
    """Return the class of a plugin.

    Args:
        kind: ``generators``, ``refiners`` or ``segmenters``.
        name: a registered name, ``module:Class``, or ``path/to/file.py:Class``.

    Raises:
        PluginError: there is none of that name, it cannot be imported, or it is of another kind.
    """
    entry = registry().get((kind, name))
    if entry is None and ":" not in name:
        offered = sorted(n for k, n in registry() if k == kind)
        raise PluginError(f"There is no {kind[:-1]} {name!r}{nearest(name, offered)}; there are: {', '.join(offered)}.")
    found = _import_target(entry.target if entry else name)
    if not issubclass(found, BASES[kind]):
        raise PluginError(
            f"{name!r} is not a {kind[:-1]}: its class {found.__name__} must derive from {BASES[kind].__name__}."
        )
    if not getattr(found, "name", ""):
        raise PluginError(
            f"The plugin class {found.__name__} of {name!r} has no name; give it a class attribute name = '...'."
        )
    return found

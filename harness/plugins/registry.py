"""How the harness finds plugins: built-ins by file name, installed packages by entry point, files by path.

Listing plugins imports none of them.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from harness.errors import PluginError, nearest
from harness.plugins.contract import KINDS, Generator, Kind, Plugin, Refiner, Segmenter
from harness.plugins.import_file import import_file


@dataclass(frozen=True)
class PluginEntry:
    """A plugin that is known but not yet imported.

    Attributes:
        kind: ``generators``, ``refiners`` or ``segmenters``.
        name: what a study calls it.
        target: ``module:Class``, or ``module`` when the class is the only plugin in it.
        origin: ``built-in``, or the distribution that brings it.
        summary: the first line of its docstring, when that is known without importing.
    """

    kind: Kind
    name: str
    target: str
    origin: str
    summary: str


_BASES: dict[Kind, type[Plugin]] = {"generators": Generator, "refiners": Refiner, "segmenters": Segmenter}


def _read_built_in(path: Path, package: str) -> PluginEntry | None:
    """Read a built-in's class name, kind and summary from its source, without importing it."""
    for node in ast.parse(path.read_text()).body:
        if not isinstance(node, ast.ClassDef):
            continue
        bases = {base.id for base in node.bases if isinstance(base, ast.Name)}
        kind = next((k for k, base in _BASES.items() if base.__name__ in bases), None)
        if kind is None:
            continue
        summary = (ast.get_docstring(node) or "").partition("\n")[0]
        module = path.parent.name if path.name == "__init__.py" else path.stem
        return PluginEntry(kind, module.replace("_", "-"), f"{package}.{module}:{node.name}", "built-in", summary)
    return None


@cache
def registry() -> dict[tuple[Kind, str], PluginEntry]:
    """Return every plugin by kind and name: built-ins by file name, then installed packages by entry point.

    Raises:
        PluginError: two plugins of one kind have the same name.
    """
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
        for point in entry_points(group=f"harness.{kind}"):
            origin = point.dist.name if point.dist else "an installed package"
            known = found.get((kind, point.name))
            if known and known.target != point.value:
                raise PluginError(
                    f"Two {kind} are called {point.name!r}: {known.target} ({known.origin}), {point.value} ({origin}); "
                    "uninstall one or rename its entry point."
                )
            found[kind, point.name] = PluginEntry(kind, point.name, point.value, origin, "")
    return found


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
    if not issubclass(found, _BASES[kind]):
        raise PluginError(
            f"{name!r} is not a {kind[:-1]}: its class {found.__name__} must derive from {_BASES[kind].__name__}."
        )
    if not getattr(found, "name", ""):
        raise PluginError(
            f"The plugin class {found.__name__} of {name!r} has no name; give it a class attribute name = '...'."
        )
    return found

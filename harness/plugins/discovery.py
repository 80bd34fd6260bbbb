"""Finding what a room of the harness offers: built-ins of its packages, and extensions of the user's.

An *extension* is a Python file in the folder ``extensions`` of a project (``HARNESS_EXTENSIONS`` names another), or a
module that an installed package names under the entry-point group ``harness.extensions``. What it defines is known by
its type: a metric, a table, a figure, an executor or a stage kind in an extension stands beside the built-in ones.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

from harness.errors import PluginError
from harness.home import extensions_folder
from harness.plugins.import_file import import_file

T = TypeVar("T")


@dataclass(frozen=True)
class Found(Generic[T]):
    """One thing that was found.

    Attributes:
        name: what a study, a command or a table calls it.
        thing: the object, or the class.
        module: dotted name of the module that defines it.
        origin: ``built-in``, the extension's file, or the distribution that brings it.
    """

    name: str
    thing: T
    module: str
    origin: str


def extensions() -> Iterator[tuple[ModuleType, str]]:
    """Import and yield every extension with its origin: the project's files by name, then installed packages.

    Raises:
        PluginError: one cannot be imported; names it.
    """
    for path in sorted(extensions_folder().glob("*.py")):
        yield _imported(str(path), lambda path=path: import_file(path)), str(path)
    for point in entry_points(group="harness.extensions"):
        origin = point.dist.name if point.dist else "an installed package"
        yield _imported(point.value, lambda point=point: importlib.import_module(point.value)), origin


def _imported(shown: str, load: Any) -> ModuleType:
    try:
        module: ModuleType = load()
    except PluginError:
        raise
    except Exception as error:
        raise PluginError(
            f"The extension {shown} cannot be imported: {type(error).__name__}: {error}; mend it, or move it away."
        ) from error
    return module


def modules_of(package: str) -> Iterator[ModuleType]:
    """Import and yield the modules of a package, by name; its subpackages are left alone."""
    specification = importlib.util.find_spec(package)
    places = (specification.submodule_search_locations or []) if specification else []
    for found in sorted(pkgutil.iter_modules([str(Path(place)) for place in places]), key=lambda one: one.name):
        if not found.ispkg:
            yield importlib.import_module(f"{package}.{found.name}")


def discover(of: type[T], packages: Sequence[str]) -> dict[str, Found[Any]]:
    """Return what is an ``of``, or a concrete class derived from it, by name: built-ins first, then extensions.

    Args:
        of: a class whose instances, or whose subclasses, have a ``name``.
        packages: whose modules hold the built-ins.

    Raises:
        PluginError: two things have one name, or an extension cannot be imported.
    """
    modules = [(module, "built-in") for package in packages for module in modules_of(package)]
    found: dict[str, Found[Any]] = {}
    for module, origin in [*modules, *extensions()]:
        for thing in _defined_in(module, of):
            name = str(thing.name)
            known = found.get(name)
            if known is not None and known.thing is not thing:
                raise PluginError(
                    f"Two of a kind ({of.__name__}) are called {name!r}: one of {known.module} ({known.origin}) and "
                    f"one of {module.__name__} ({origin}); rename one."
                )
            found.setdefault(name, Found(name, thing, module.__name__, origin))
    return found


def _defined_in(module: ModuleType, of: type[T]) -> Iterator[Any]:
    """Yield a module's own instances and concrete subclasses of a class, in the order of their definition."""
    for value in vars(module).values():
        derived = inspect.isclass(value) and issubclass(value, of) and value.__module__ == module.__name__
        if isinstance(value, of) or (derived and not inspect.isabstract(value) and vars(value).get("name")):
            yield value

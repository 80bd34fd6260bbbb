"""Finding what a room of the harness offers: built-ins of its packages, and extensions of the user's.

An *extension* is a Python file in the folder ``extensions`` of a project (``HARNESS_EXTENSIONS`` names another folder),
or a module that an installed package names under the entry-point group ``harness.extensions``. What it defines is known
by its type: a metric, a table, a figure, an executor, a stage kind or a plugin in an extension stands beside the
built-in ones. Files whose names start with ``_`` or a dot are left alone.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial, wraps
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

from harness.errors import HarnessError, PluginError
from harness.home import extensions_folder
from harness.plugins.import_file import import_file, place_of

T = TypeVar("T")


@dataclass(frozen=True)
class Found(Generic[T]):
    """One thing that was found.

    Attributes:
        name: what a study, a command or a table calls it.
        thing: the object, or the class.
        module: dotted name of the module that it was found in.
        origin: ``built-in``, the extension's file, or the distribution that brings it.
    """

    name: str
    thing: T
    module: str
    origin: str

    @property
    def target(self) -> str:
        """Where it is: ``module`` or ``path/to/file.py``, and of a class ``:Class`` behind it."""
        return target_of(self.thing) if inspect.isclass(self.thing) else place_of(self.module)


def target_of(found: type) -> str:
    """Return what another process finds a class by: ``module:Class`` or ``path/to/file.py:Class``."""
    return f"{place_of(found.__module__)}:{found.__name__}"


#: Extensions that are being imported.
_importing: set[str] = set()


def remembered(find: Callable[..., T]) -> Callable[..., T]:
    """Remember what a function finds, once every extension is imported.

    An extension that asks what there is while it is being imported is told all but what it has yet to define: an answer
    for then, not for later.
    """
    kept = cache(find)

    @wraps(find)
    def found(*arguments: Any) -> T:
        return (find if _importing else kept)(*arguments)

    return found


def discover(of: type, packages: Sequence[str]) -> dict[str, Found[Any]]:
    """Return what is an ``of``, by name: built-ins first, by module, then extensions.

    A class counts when it derives from ``of``, is concrete, and is defined where it was found; one whose own name
    starts with ``_`` is a base for others. An object counts wherever it comes from.

    Args:
        of: a class whose instances, or whose subclasses, have a ``name``.
        packages: whose modules hold the built-ins.

    Raises:
        PluginError: two things have one name, one has none, or an extension cannot be imported; names the file.
    """
    return dict(_found(of, tuple(packages), extension_files()))


@remembered
def _found(of: type, packages: tuple[str, ...], files: tuple[Path, ...]) -> dict[str, Found[Any]]:
    modules = [(module, "built-in") for package in packages for module in modules_of(package)]
    found: dict[str, Found[Any]] = {}
    for module, origin in [*modules, *_extensions(files)]:
        for thing in _defined_in(module, of):
            one = Found(_name_of(thing, of, module), thing, module.__name__, origin)
            known = found.setdefault(one.name, one)
            if known.thing is not thing:
                raise PluginError(
                    f"Two of a kind ({of.__name__}) are called {one.name!r}: one in {place_of(known.module)} and one "
                    f"in {place_of(one.module)}; rename one."
                )
    return found


def modules_of(package: str) -> Iterator[ModuleType]:
    """Import and yield the modules of a package, by name, without those whose names start with ``_``."""
    names = (found.name for found in pkgutil.iter_modules(importlib.import_module(package).__path__))
    for name in sorted(names):
        if not name.startswith("_"):
            yield importlib.import_module(f"{package}.{name}")


def extension_files() -> tuple[Path, ...]:
    """Return the files in the project's folder of extensions, by name."""
    folder = extensions_folder()
    try:
        return tuple(sorted(path for path in folder.iterdir() if path.suffix == ".py" and path.name[0] not in "_."))
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise PluginError(
            f"Extensions are looked for in {folder}, which cannot be read: {error.strerror}; mend it, or let "
            "HARNESS_EXTENSIONS name another folder."
        ) from error


@cache
def installed(group: str) -> tuple[EntryPoint, ...]:
    """Return what installed packages name under a group of entry points."""
    return tuple(entry_points(group=group))


def origin_of(point: EntryPoint) -> str:
    """Return the distribution that an entry point comes from."""
    return point.dist.name if point.dist else "an installed package"


def _extensions(files: Sequence[Path]) -> Iterator[tuple[ModuleType, str]]:
    """Import and yield every extension with its origin: the project's files, then those of installed packages."""
    for path in files:
        yield _imported(str(path), partial(import_file, path)), str(path)
    for point in installed("harness.extensions"):
        yield _imported(point.value, partial(importlib.import_module, point.value)), origin_of(point)


def _imported(shown: str, load: Callable[[], ModuleType]) -> ModuleType:
    outermost = shown not in _importing
    _importing.add(shown)
    try:
        return load()
    # An extension may fail in any way that Python code can, and must not end a command without a word.
    except (Exception, SystemExit) as error:
        reason = str(error) if isinstance(error, HarnessError) else f"{type(error).__name__}: {error}"
        raise PluginError(
            f"The extension {shown} cannot be imported: {' '.join(reason.split())}; mend it, or move it away."
        ) from error
    finally:
        if outermost:
            _importing.discard(shown)


def _defined_in(module: ModuleType, of: type) -> Iterator[Any]:
    """Yield a module's instances, and its own concrete subclasses, of a class, in the order of their definition."""
    for value in vars(module).values():
        own = inspect.isclass(value) and value.__module__ == module.__name__ and not value.__name__.startswith("_")
        if isinstance(value, of) or (own and issubclass(value, of) and _is_offered(value, of)):
            yield value


def _is_offered(derived: type, of: type) -> bool:
    """Whether a class is itself what is looked for: where classes are (``of`` is abstract), or because it has a name.

    A subclass of a concrete class may only serve to make instances, which are what is looked for then.
    """
    return not inspect.isabstract(derived) and (inspect.isabstract(of) or bool(vars(derived).get("name")))


def _name_of(thing: Any, of: type, module: ModuleType) -> str:
    name = getattr(thing, "name", None)
    if isinstance(name, str) and name:
        return name
    shown = thing.__name__ if inspect.isclass(thing) else repr(thing)
    raise PluginError(
        f"{shown} in {place_of(module.__name__)} is a {of.__name__} without a name; give it one: name = '...'."
    )

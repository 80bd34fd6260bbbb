"""Fingerprint of the code that computes a result: a plugin's module, and what it imports to compute with.

Comments, formatting, docstrings, what is imported for type checkers alone, and whether a card says that its generator
is a control do not count; anything that can change a number does. A module that says ``CHANGES_NO_RESULT = True``,
since it is there for logs or errors alone, does not count for what imports it, nor does what it imports itself.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from harness.plugins.import_file import imported_from_file

#: What computes in the harness, and the plugins that ship: a change there is one of every plugin and stage that imports
#: it. Weights files are known by their digests, and the contract and the data classes compute nothing.
_COMPUTES = (
    "harness.learning.",
    "harness.metrics.",
    "harness.data.decoding",
    "harness.data.phantom",
    "harness.weights.encoders",
    "harness.weights.inception",
    "harness.weights.tensors",
    "generators.",
    "segmenters.",
)


class _Code(NamedTuple):
    """What a file holds.

    Attributes:
        digest: of what computes in it.
        imported: dotted names that it imports.
        counts: False when it says that it changes no result.
    """

    digest: str
    imported: frozenset[str]
    counts: bool


@cache
def _parsed(path: Path, changed: int, module: str) -> _Code:
    """Read a file; ``changed``, its modification time, lets edits be seen."""
    tree = _computing(ast.parse(path.read_bytes()))
    imported = frozenset(_imported(tree, module, path.name == "__init__.py"))
    digest = hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:16]
    return _Code(digest, imported, not any(map(_says_that_it_changes_nothing, tree.body)))


def _computing(tree: ast.Module) -> ast.Module:
    """Take out of a module what computes nothing: docstrings, what type checkers alone read, ``Card(control=...)``."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(ast.Name("Card")):
                node.keywords = [keyword for keyword in node.keywords if keyword.arg != "control"]
        body = getattr(node, "body", None)
        if not isinstance(body, list):
            continue
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and _is_text(body[:1]):
            del body[0]
        body[:] = [kept for one in body for kept in (one.orelse if _is_for_type_checkers(one) else [one])]
    return tree


def _is_text(statements: list[ast.stmt]) -> bool:
    match statements:
        case [ast.Expr(ast.Constant(str()))]:
            return True
    return False


def _is_for_type_checkers(statement: ast.stmt) -> bool:
    match statement:
        case ast.If(ast.Name("TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING")):
            return True
    return False


def _says_that_it_changes_nothing(statement: ast.stmt) -> bool:
    match statement:
        case ast.Assign([ast.Name("CHANGES_NO_RESULT")], ast.Constant(True)):
            return True
    return False


def _module_file(module: str) -> Path | None:
    """Find a module's file without importing it, or anything on the way to it."""
    package, *inner = module.split(".")
    try:
        specification = importlib.util.find_spec(package)
    except (ImportError, ValueError, AttributeError):
        return None
    for root in (specification.submodule_search_locations or []) if specification else []:
        place = Path(root, *inner)
        for file in (place.with_suffix(".py"), place / "__init__.py"):
            if file.is_file() and (inner or file.name == "__init__.py"):
                return file
    return None


def _imported(tree: ast.Module, module: str, is_package: bool) -> set[str]:
    """Return dotted names that a module imports, relative ones resolved; ``from a import b`` gives both a and a.b."""
    names: set[str] = set()
    here = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else []
            base = [*base, *([node.module] if node.module else [])]
            source = ".".join(base)
            names.add(source)
            names.update(f"{source}.{alias.name}" for alias in node.names)
    return names


def _siblings(path: Path, imported: frozenset[str]) -> dict[str, Path]:
    """Return files beside a plugin file (one given by path) that it imports by name."""
    names = {name.split(".")[0] for name in imported if name}
    return {name: path.parent / f"{name}.py" for name in names if (path.parent / f"{name}.py").is_file()}


def _imports_of(path: Path, imported: frozenset[str], package: str) -> Iterator[tuple[str, Path]]:
    """Yield the modules that a file imports from a package, and from the rooms that compute."""
    for name in imported:
        if name.split(".")[0] == package or name.startswith(_COMPUTES):
            file = _module_file(name)
            if file is not None and file != path:
                yield name, file


def code_of(plugin: type) -> dict[str, str]:
    """Return the fingerprint of each file that computes a plugin's results, by module name.

    Those are the plugin's own file, what it imports from its own package (of a file given by path: what lies beside
    it), what it imports of ``harness.learning``, with what that computes with, and of plugins that ship.

    Args:
        plugin: a plugin class, however it was found.
    """
    return code_of_imported(plugin.__module__)


def code_of_imported(module: str) -> dict[str, str]:
    """Return the same of a module that is imported, by its name."""
    own = getattr(sys.modules.get(module), "__file__", None)
    if own is None:
        return {}
    by_path = imported_from_file(module)
    found = _followed(module, Path(own), "" if by_path else module.split(".")[0], Path(own).parent)
    return {"plugin" if by_path and name == module else name: digest for name, digest in found.items()}


def code_of_module(module: str) -> dict[str, str]:
    """Return the fingerprint of a module of ``harness.learning`` and of what it computes with, by module name."""
    file = _module_file(module)
    assert file is not None, module
    return _followed(module, file, "", None)


def _followed(module: str, file: Path, package: str, beside: Path | None) -> dict[str, str]:
    """Return the fingerprints of a module and of those that it imports, by name.

    Args:
        module: to start from.
        file: that it is in.
        package: whose modules are followed too; empty when none are.
        beside: folder in which modules are found by their bare names, where ``package`` is empty.
    """
    found: dict[str, str] = {}
    waiting = [(module, file)]
    while waiting:
        name, path = waiting.pop()
        code = _parsed(path, path.stat().st_mtime_ns, name)
        if name in found or (found and not code.counts):
            continue
        found[name] = code.digest
        waiting += _imports_of(path, code.imported, package)
        if not package and path.parent == beside:
            waiting += _siblings(path, code.imported).items()
    return dict(sorted(found.items()))

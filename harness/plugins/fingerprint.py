"""Fingerprint of the code that computes a result: a plugin's module, and what it imports to compute with.

Comments, formatting and docstrings do not count; anything that can change a number does.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from harness.plugins.import_file import imported_from_file

#: What computes in the harness itself: a change there is one of every plugin and stage that imports it. Weights are
#: known by the digest of their numbers, and the contract and the data classes compute nothing.
_COMPUTES = ("harness.learning.", "harness.metrics.", "harness.data.decoding", "harness.data.phantom")


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body = node.body[1:]
    return tree


@cache
def _parsed(path: Path, changed: int, module: str) -> tuple[str, frozenset[str]]:
    """Return a file's fingerprint and the names it imports; ``changed``, its modification time, lets edits be seen."""
    tree = ast.parse(path.read_bytes())
    imported = frozenset(_imported(tree, module, path.name == "__init__.py"))
    shape = ast.dump(_without_docstrings(tree))
    return hashlib.sha256(shape.encode()).hexdigest()[:16], imported


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
    """Return dotted names that a module imports, relative ones resolved; ``from a import b`` gives both a and a.b.

    What is imported for type checkers alone computes nothing, and does not count.
    """
    names: set[str] = set()
    here = module.split(".") if is_package else module.split(".")[:-1]
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            waiting += node.orelse
            continue
        waiting += ast.iter_child_nodes(node)
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
    """Yield the modules that a file imports from a package, and from the rooms of the harness that compute."""
    for name in imported:
        if name.split(".")[0] == package or name.startswith(_COMPUTES):
            file = _module_file(name)
            if file is not None and file != path:
                yield name, file


def code_of(plugin: type) -> dict[str, str]:
    """Return the fingerprint of each file that computes a plugin's results, by module name.

    Those are the plugin's own file, what it imports from its own package (of a file given by path: what lies beside
    it), and what it imports of ``harness.learning``, with what that computes with.

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
    found = _followed([(module, Path(own))], "" if by_path else module.split(".")[0], Path(own).parent)
    if by_path:
        found["plugin"] = found.pop(module)
    return dict(sorted(found.items()))


def code_of_module(module: str) -> dict[str, str]:
    """Return the fingerprint of a module of ``harness.learning`` and of what it computes with, by module name."""
    file = _module_file(module)
    assert file is not None, module
    return dict(sorted(_followed([(module, file)], "", None).items()))


def _followed(waiting: list[tuple[str, Path]], package: str, beside: Path | None) -> dict[str, str]:
    """Return the fingerprints of modules and of those that they import, by name.

    Args:
        waiting: modules to start from, with their files.
        package: whose modules are followed too; empty when none are.
        beside: folder in which modules are found by their bare names, where ``package`` is empty.
    """
    found: dict[str, str] = {}
    while waiting:
        name, path = waiting.pop()
        if name in found:
            continue
        found[name], imports = _parsed(path, path.stat().st_mtime_ns, name)
        waiting += _imports_of(path, imports, package)
        if not package and path.parent == beside:
            waiting += _siblings(path, imports).items()
    return found

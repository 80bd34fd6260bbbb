"""Fingerprint of the code that computes a result: a plugin's module and what it imports from its own package.

Comments, formatting and docstrings do not count; anything that can change a number does.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
from functools import cache
from pathlib import Path


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


def code_of(plugin: type) -> dict[str, str]:
    """Return the fingerprint of each file that computes a plugin's results, by module name.

    Args:
        plugin: a plugin class, however it was found.
    """
    module = plugin.__module__
    own = getattr(sys.modules.get(module), "__file__", None)
    if own is None:
        return {}
    package = module.split(".")[0]
    found: dict[str, str] = {}
    waiting: list[tuple[str, Path]] = [(module, Path(own))]
    while waiting:
        name, path = waiting.pop()
        if name in found:
            continue
        fingerprint, imports = _parsed(path, path.stat().st_mtime_ns, name)
        found[name] = fingerprint
        if module.startswith("harness_plugin_"):
            waiting += list(_siblings(path, imports).items())
            continue
        for imported in imports:
            file = _module_file(imported) if imported.split(".")[0] == package else None
            if file is not None:
                waiting.append((imported, file))
    if module.startswith("harness_plugin_"):
        found["plugin"] = found.pop(module)
    return dict(sorted(found.items()))

"""What changes a plugin's fingerprint: code that can change a number, here and in what it imports; nothing else."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

import pytest

from harness.plugins.fingerprint import code_of
from harness.plugins.registry import load_plugin

PLUGIN = '''"""Docstring."""
from harness.learning import Refiner
from {package}inner.layers import gain


class One(Refiner):
    """Docstring."""

    name = "one"

    def refine(self, synthetic, sources, seeds, context):
        # a comment
        return gain * 2
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    name = f"brush_{os.getpid()}_{tmp_path.name.replace('-', '_')}"
    folder = tmp_path / name
    (folder / "inner").mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "inner" / "__init__.py").write_text("")
    (folder / "inner" / "layers.py").write_text("import math\ngain = 1\n")
    (folder / "other.py").write_text("unused = 1\n")
    (folder / "one.py").write_text(PLUGIN.format(package="."))
    monkeypatch.syspath_prepend(str(tmp_path))
    return folder


def fingerprint(package: Path) -> dict[str, str]:
    for name in [name for name in sys.modules if name.startswith(package.name)]:
        del sys.modules[name]
    return code_of(importlib.import_module(f"{package.name}.one").One)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + 1_000_000))


def test_comments_docstrings_and_formatting_do_not_count(package: Path) -> None:
    before = fingerprint(package)
    edit(package / "one.py", "# a comment", "# another")
    edit(package / "one.py", '"""Docstring."""', '"""More words."""')
    edit(package / "one.py", "gain * 2", "(gain   *   2)")
    assert fingerprint(package) == before


def test_code_counts_here_and_in_what_is_imported_from_the_package(package: Path) -> None:
    before = fingerprint(package)
    edit(package / "inner" / "layers.py", "gain = 1", "gain = 3")
    changed = fingerprint(package)
    assert {name for name in before if before[name] != changed[name]} == {f"{package.name}.inner.layers"}
    edit(package / "one.py", "* 2", "* 4")
    assert fingerprint(package)[f"{package.name}.one"] != before[f"{package.name}.one"]


def test_files_that_are_not_imported_do_not_count(package: Path) -> None:
    before = fingerprint(package)
    edit(package / "other.py", "unused = 1", "unused = 2")
    assert fingerprint(package) == before


def test_a_plugin_file_counts_with_its_siblings_and_not_by_its_place(tmp_path: Path) -> None:
    prints = []
    for place in ("a", "b"):
        folder = tmp_path / place
        folder.mkdir()
        (folder / "strokes.py").write_text("width = 1\n")
        source = PLUGIN.format(package="").replace(
            "from inner.layers import gain", "import strokes\ngain = strokes.width"
        )
        (folder / "one.py").write_text(source)
        sys.path.insert(0, str(folder))
        try:
            prints.append(code_of(load_plugin("refiners", f"{folder / 'one.py'}:One")))
        finally:
            sys.path.remove(str(folder))
            sys.modules.pop("strokes", None)
    assert prints[0] == prints[1]
    assert set(prints[0]) == {"plugin", "strokes"}

"""What changes a plugin's fingerprint: code that can change a number, here and in what it imports; nothing else."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

import pytest

from harness.plugins import fingerprint as module_under_test
from harness.plugins.fingerprint import code_of, code_of_module
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


def test_whether_a_card_says_that_it_is_a_control_changes_no_number(package: Path) -> None:
    edit(package / "one.py", "class One", "CARD = Card(learns=False)\n\n\nclass One")
    path = package / "one.py"
    path.write_text("from harness.learning import Card\n" + path.read_text())
    before = fingerprint(package)
    edit(path, "Card(learns=False)", "Card(learns=False, control=True)")
    assert fingerprint(package) == before
    edit(path, "Card(learns=False, control=True)", "Card(learns=True, control=True)")
    assert fingerprint(package) != before


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


LEARNING = {
    "learning": "import math\n\n\ndef order(seed):\n    return seed + 1\n",
    "watched": "from harness.learning.deeper import level\n\n\ndef looked_at():\n    return level\n",
    "deeper": "level = 3\n",
}


@pytest.fixture
def learning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copies of modules of harness.learning, which stand where the real ones do: edit one and see."""
    folder = tmp_path / "learning"
    folder.mkdir()
    for name, text in LEARNING.items():
        (folder / f"{name}.py").write_text(text)
    found = module_under_test._module_file

    def copied(module: str) -> Path | None:
        copy = folder / f"{module.rpartition('.')[2]}.py"
        return copy if module.startswith("harness.learning.") and copy.is_file() else found(module)

    monkeypatch.setattr(module_under_test, "_module_file", copied)
    return folder


def import_in(path: Path, line: str) -> None:
    """Have a file import something in a function that nobody calls: what is not there can be read, not imported."""
    path.write_text(f"{path.read_text()}\n\ndef late():\n    {line}\n")


def changed_by(package: Path, file: Path, old: str, new: str) -> set[str]:
    """Names of the modules whose fingerprints an edit changes, in the key of the package's plugin."""
    before = fingerprint(package)
    edit(file, old, new)
    after = fingerprint(package)
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def test_a_learning_module_counts_for_what_imports_it_and_for_nothing_else(package: Path, learning: Path) -> None:
    assert changed_by(package, learning / "learning.py", "seed + 1", "seed + 2") == set()
    import_in(package / "inner" / "layers.py", "from harness.learning.learning import order")
    assert changed_by(package, learning / "learning.py", "seed + 2", "seed + 3") == {"harness.learning.learning"}
    assert changed_by(package, learning / "learning.py", "import math\n", "import math  # and more\n") == set()


def test_what_a_learning_module_computes_with_counts_too(package: Path, learning: Path) -> None:
    import_in(package / "one.py", "from harness.learning import watched")
    assert changed_by(package, learning / "deeper.py", "3", "4") == {"harness.learning.deeper"}


@pytest.mark.parametrize("test", ["TYPE_CHECKING", "typing.TYPE_CHECKING"])
def test_what_is_imported_for_type_checkers_counts_nowhere(package: Path, learning: Path, test: str) -> None:
    path = package / "inner" / "layers.py"
    source = f"import typing\nfrom typing import TYPE_CHECKING\n{path.read_text()}"
    path.write_text(source)
    before = fingerprint(package)
    for_checkers = f"{source}if {test}:\n    from harness.learning import deeper\n"
    path.write_text(for_checkers)
    assert fingerprint(package) == before
    path.write_text(f"{for_checkers}else:\n    from harness.learning import batches\n")
    assert set(fingerprint(package)) - set(before) == {"harness.learning.batches"}


def test_a_module_that_says_that_it_changes_no_result_counts_for_nobody(package: Path, learning: Path) -> None:
    import_in(package / "one.py", "from harness.learning import watched")
    assert set(fingerprint(package)) > {"harness.learning.watched", "harness.learning.deeper"}
    path = learning / "watched.py"
    path.write_text(f"CHANGES_NO_RESULT = True\n{path.read_text()}")
    found = fingerprint(package)
    assert set(found) == {f"{package.name}.one", f"{package.name}.inner.layers"}
    # What another module computes with still counts.
    import_in(package / "inner" / "layers.py", "from harness.learning.deeper import level")
    assert "harness.learning.deeper" in fingerprint(package)
    path.write_text(path.read_text().replace("True", "False"))
    assert "harness.learning.watched" in fingerprint(package)


def test_a_plugin_counts_whatever_it_says_of_itself(package: Path) -> None:
    edit(package / "one.py", "class One", "CHANGES_NO_RESULT = True\n\n\nclass One")
    before = fingerprint(package)
    edit(package / "one.py", "* 2", "* 4")
    assert fingerprint(package) != before


def test_the_contract_and_the_data_may_be_imported_from_their_rooms(package: Path) -> None:
    """It is not how plugins are documented to do it, but it works, and the key is the same but for the line."""
    before = fingerprint(package)
    edit(
        package / "one.py",
        "from harness.learning import Refiner",
        "from harness.data.pairs import PairSet\nfrom harness.plugins.contract import Refiner",
    )
    assert set(fingerprint(package)) == set(before)


def test_plugins_that_ship_count_for_what_is_made_of_them(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "from generators.dcgan import DCGAN\nfrom harness.learning import Generator\n\n\n"
        'class Mine(DCGAN, Generator):\n    """Mine."""\n\n    name = "mine"\n'
    )
    found = code_of(load_plugin("generators", f"{path}:Mine"))
    shipped = code_of(load_plugin("generators", "dcgan"))
    assert found.items() - shipped.items() == {("plugin", found["plugin"])}
    assert shipped.keys() - found.keys() <= {"generators"}  # the package itself, which is empty


def test_the_code_of_a_module_is_its_own_and_what_it_computes_with(learning: Path) -> None:
    before = code_of_module("harness.learning.watched")
    assert set(before) == {"harness.learning.watched", "harness.learning.deeper"}
    edit(learning / "deeper.py", "3", "4")
    after = code_of_module("harness.learning.watched")
    assert {name for name in after if after[name] != before[name]} == {"harness.learning.deeper"}


def test_training_a_segmenter_computes_with_its_batches_and_scores_and_with_no_network_of_fidelity() -> None:
    found = code_of_module("harness.learning.train_segmenter")
    assert set(found) >= {
        "harness.learning.train_segmenter",
        "harness.learning.batches",
        "harness.learning.optimisation",
        "harness.learning.precision",
        "harness.metrics.segmentation.confusion",
    }
    assert not [name for name in found if name.startswith(("harness.metrics.fidelity", "harness.metrics.features"))]


def test_what_is_only_logged_is_in_the_key_of_no_generator_that_ships() -> None:
    """A first stage measures how well it reconstructs, for its logs: mask-ldm makes the same pictures without."""
    from harness.plugins.registry import registry

    for kind, name in registry():
        found = code_of(load_plugin(kind, name))
        assert not [module for module in found if module.startswith(("harness.metrics", "harness.learning.measures"))]

"""``harness plugin`` and extensions: all that one file can add is listed, known by name, and fails in one sentence."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.cli.plugin import ALSO_LISTED
from harness.plugins.contract import KINDS

KINDS_OF_ONE_FILE = '''
"""A generator, a refiner, a segmenter and an executor."""

from harness.engine.executors.in_process import InProcessExecutor
from harness.learning import Generator, Refiner, Sample, Segmenter


class Flat(Generator):
    """Makes nothing of note."""

    name = "flat"

    def fit(self, pairs, context):
        raise NotImplementedError

    def sample(self, checkpoint, seeds, context, masks=None):
        raise NotImplementedError


class Same(Refiner):
    """Leaves pairs as they are."""

    name = "same"

    def refine(self, synthetic, sources, seeds, context):
        return Sample(synthetic.masks, synthetic.images)


class Nothing(Segmenter):
    """Finds nothing."""

    name = label = "nothing"
    batch_size = 1

    def module(self, steps):
        raise NotImplementedError


class Careful(InProcessExecutor):
    name = "careful"
    summary = "As in-process, but careful."
'''


@pytest.fixture
def extension(harness_home: Path) -> Callable[..., Path]:
    def write(text: str, name: str = "mine.py") -> Path:
        path = harness_home / "extensions" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    return write


def test_everything_that_one_file_adds_is_listed_with_its_origin(
    extension: Callable[..., Path], command: Callable[..., Any]
) -> None:
    path = extension(KINDS_OF_ONE_FILE)
    rows = [row for row in command("plugin", "list", "--json").json if row["origin"] != "built-in"]
    assert [set(row) for row in rows] == [{"kind", "name", "target", "origin", "summary"}] * 4
    assert {(row["kind"], row["name"], row["target"], row["origin"], row["summary"]) for row in rows} == {
        ("generators", "flat", f"{path}:Flat", str(path), "Makes nothing of note."),
        ("refiners", "same", f"{path}:Same", str(path), "Leaves pairs as they are."),
        ("segmenters", "nothing", f"{path}:Nothing", str(path), "Finds nothing."),
        ("executors", "careful", f"{path}:Careful", str(path), "As in-process, but careful."),
    }
    shown = command("plugin", "list").out
    assert "extensions/mine.py" in shown
    assert str(path.parent) not in shown


def test_every_kind_that_is_listed_has_something_built_in(command: Callable[..., Any], harness_home: Path) -> None:
    kinds = [row["kind"] for row in command("plugin", "list", "--json").json if row["summary"]]
    assert list(dict.fromkeys(kinds)) == list(dict.fromkeys([*KINDS, *(kind for kind, _, _ in ALSO_LISTED)]))


def test_a_plugin_of_an_extension_is_known_by_its_name(
    extension: Callable[..., Path], command: Callable[..., Any]
) -> None:
    extension(KINDS_OF_ONE_FILE)
    assert command("plugin", "show", "flat", "--json").json["description"] == "Makes nothing of note."
    checked = command("plugin", "check", "same", "--json").json
    assert checked["passed"], checked
    assert {row["name"] for row in command("generator", "list", "--json").json} >= {"flat", "dcgan"}
    assert "did you mean 'flat'" in command("plugin", "show", "flatt").err


def test_an_extension_cannot_take_the_name_of_a_built_in(
    extension: Callable[..., Path], command: Callable[..., Any]
) -> None:
    path = extension(KINDS_OF_ONE_FILE.replace('"flat"', '"dcgan"'))
    answer = command("plugin", "list")
    assert answer.code == 2
    assert f"Two generators are called 'dcgan': generators.dcgan:DCGAN (built-in), {path}:Flat ({path})" in answer.err


BROKEN = "import torch\nraise ValueError('half\\nfinished')\n"


@pytest.mark.parametrize(
    "words",
    [
        ("plugin", "list"),
        ("generator", "list"),
        ("study", "plan", "quickstart"),
        ("study", "run", "quickstart", "--executor", "local"),
        ("study", "show", "quickstart"),
    ],
)
def test_a_broken_extension_is_one_sentence_that_names_it(
    extension: Callable[..., Path], command: Callable[..., Any], words: tuple[str, ...]
) -> None:
    path = extension(BROKEN)
    answer = command(*words)
    assert answer.code == 2
    assert answer.out == ""
    assert "Traceback" not in answer.err
    assert (
        f"The extension {path} cannot be imported: ValueError: half finished; mend it, or move it away." in answer.err
    )


def _plugins_by_doctor() -> list[Any]:
    from harness.cli.doctor import run_checks

    return [check for check in run_checks(False) if check.name in ("plugins", "extensions")]


def test_the_doctor_finds_a_broken_extension(extension: Callable[..., Path]) -> None:
    path = extension(BROKEN)
    checks = {check.name: check for check in _plugins_by_doctor()}
    assert (list(checks), checks["plugins"].status) == (["plugins"], "broken")
    assert str(path) in checks["plugins"].found
    extension(KINDS_OF_ONE_FILE)
    found = {check.name: check.found for check in _plugins_by_doctor()}
    assert found["extensions"] == f"mine.py in {path.parent}"


@pytest.mark.parametrize("words", ["--help", "--version", "data list", "weights list", "study list"])
def test_what_needs_no_extension_does_not_import_one(
    extension: Callable[..., Path], command: Callable[..., Any], words: str
) -> None:
    path = extension(f"open({str(Path.cwd() / 'imported')!r}, 'w')\n{BROKEN}")
    assert command(*words.split()).code == 0
    assert not (path.parents[1] / "imported").exists()


def test_the_package_can_be_run(harness_home: Path) -> None:
    listed = subprocess.run(
        [sys.executable, "-m", "harness", "plugin", "list", "--json"], capture_output=True, text=True, check=True
    )
    assert {row["kind"] for row in json.loads(listed.stdout)} >= set(KINDS)
    wrong = subprocess.run([sys.executable, "-m", "harness", "plugin", "show", "dgan"], capture_output=True, text=True)
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("harness: There is no plugin 'dgan'; did you mean 'dcgan'?")

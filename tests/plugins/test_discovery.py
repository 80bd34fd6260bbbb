"""What is found in packages and in extensions, by type; and what is refused, with the file that is wrong."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest

from harness.errors import PluginError
from harness.plugins import discovery
from harness.plugins.discovery import Found, discover
from harness.plugins.import_file import import_file


class Tool(ABC):
    """What is found as classes."""

    name: ClassVar[str]

    @abstractmethod
    def use(self) -> str:
        """Return a word."""


@dataclass(frozen=True)
class Colour:
    """What is found as objects."""

    name: str


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the files of these tests import what is defined here."""
    kinds = ModuleType("kinds")
    kinds.Tool, kinds.Colour = Tool, Colour  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "kinds", kinds)


@pytest.fixture
def extension(harness_home: Path) -> Callable[[str, str], Path]:
    """Write a file into the project's folder of extensions."""
    folder = harness_home / "extensions"
    folder.mkdir()

    def write(name: str, text: str) -> Path:
        (folder / name).write_text(text)
        return folder / name

    return write


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Make a package of modules, and return its name."""

    def make(**modules: str) -> str:
        name = f"room_{tmp_path.name}"
        (tmp_path / name).mkdir()
        for module, text in {"__init__": "", **modules}.items():
            (tmp_path / name / f"{module}.py").write_text(text.replace("ROOM", name))
        monkeypatch.syspath_prepend(str(tmp_path))
        return name

    return make


HAMMER = """
from kinds import Tool

class Hammer(Tool):
    name = "hammer"

    def use(self):
        return "bang"
"""
RED = "from kinds import Colour\nRED = Colour('red')\n"


def test_built_ins_come_first_then_extensions_each_with_its_origin(
    package: Callable[..., str], extension: Callable[[str, str], Path]
) -> None:
    room = package(warm=RED, cold="from kinds import Colour\nBLUE = Colour('blue')\nNAVY = Colour('navy')\n")
    path = extension("a-colour.py", "from kinds import Colour\nGREEN = Colour('green')\n")
    found = discover(Colour, [room])
    assert [(one.name, one.origin) for one in found.values()] == [
        ("blue", "built-in"), ("navy", "built-in"), ("red", "built-in"), ("green", str(path)),
    ]  # fmt: skip
    assert (found["red"].target, found["green"].target) == (f"{room}.warm", str(path))
    assert found["green"].thing == Colour("green")


def test_classes_are_found_where_they_are_defined_and_can_be_used(
    package: Callable[..., str], extension: Callable[[str, str], Path]
) -> None:
    room = package(first="from ROOM.second import Hammer\n", second=HAMMER)
    extension("saw.py", f"from {room}.second import Hammer\n{HAMMER.replace('ammer', 'atchet')}")
    found = discover(Tool, [room])
    assert {name: one.thing().use() for name, one in found.items()} == {"hammer": "bang", "hatchet": "bang"}
    assert found["hammer"].target == f"{room}.second:Hammer"
    assert found["hatchet"].target == f"{found['hatchet'].origin}:Hatchet"


def test_bases_for_others_are_not_found(extension: Callable[[str, str], Path]) -> None:
    """Abstract classes, those whose names start with ``_``, and classes that only make objects."""
    extension(
        "tools.py",
        f"{HAMMER}\n"
        "class Sharp(Tool):\n    pass\n"
        "class _Striking(Hammer):\n    pass\n"
        "class Mallet(_Striking):\n    name = 'mallet'\n"
        "from kinds import Colour\n"
        "class Bright(Colour):\n    pass\n"
        "LIME = Bright('lime')\n",
    )
    assert list(discover(Tool, [])) == ["hammer", "mallet"]
    assert list(discover(Colour, [])) == ["lime"]


def test_what_two_files_share_is_one_thing(package: Callable[..., str], extension: Callable[[str, str], Path]) -> None:
    room = package(warm=RED)
    extension("again.py", f"from {room}.warm import RED\nSAME = RED\n")
    assert [one.origin for one in discover(Colour, [room]).values()] == ["built-in"]


def test_two_of_one_name_are_refused_with_both_places(
    package: Callable[..., str], extension: Callable[[str, str], Path]
) -> None:
    room = package(warm=RED)
    path = extension("red.py", RED)
    with pytest.raises(
        PluginError, match=f"Two of a kind \\(Colour\\) are called 'red': one in {room}.warm and one in "
    ):
        discover(Colour, [room])
    other = extension("more.py", RED)
    with pytest.raises(PluginError, match=f"one in {other} and one in {path}; rename one"):
        discover(Colour, [])


def test_an_inherited_name_is_a_second_thing_of_that_name(extension: Callable[[str, str], Path]) -> None:
    extension("tools.py", f"{HAMMER}\nclass Sledge(Hammer):\n    pass\n")
    with pytest.raises(PluginError, match="Two of a kind \\(Tool\\) are called 'hammer'"):
        discover(Tool, [])


@pytest.mark.parametrize("name", ["", "name = ''", "name = 3"])
def test_a_class_without_a_name_is_refused_with_its_place(extension: Callable[[str, str], Path], name: str) -> None:
    path = extension("tools.py", HAMMER.replace('name = "hammer"', name))
    with pytest.raises(PluginError, match=f"Hammer in {path} is a Tool without a name"):
        discover(Tool, [])


def test_an_object_without_a_name_is_refused_with_its_place(extension: Callable[[str, str], Path]) -> None:
    path = extension("colours.py", "from kinds import Colour\nX = Colour('')\n")
    with pytest.raises(PluginError) as raised:
        discover(Colour, [])
    assert f"in {path} is a Colour without a name" in str(raised.value)


@pytest.mark.parametrize("name", ["_shared.py", ".#colours.py", "._colours.py", "colours.py.orig", "notes.txt"])
def test_private_hidden_and_other_files_are_left_alone(extension: Callable[[str, str], Path], name: str) -> None:
    extension(name, "raise AssertionError('imported')")
    assert discover(Colour, []) == {}


def test_private_modules_of_a_package_are_left_alone(package: Callable[..., str]) -> None:
    room = package(_shared="raise AssertionError('imported')", __main__="raise AssertionError('run')", warm=RED)
    assert list(discover(Colour, [room])) == ["red"]


def test_without_a_folder_there_are_no_extensions(harness_home: Path) -> None:
    assert discover(Colour, []) == {}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("import nothing_of_that_name", "ModuleNotFoundError: No module named 'nothing_of_that_name'"),
        ("def (:", "SyntaxError: invalid syntax"),
        ("raise ValueError('first\\nsecond')", "ValueError: first second"),
        ("raise SystemExit(0)", "SystemExit: 0"),
        ("from harness.errors import DataError\nraise DataError('no pictures')", "cannot be imported: no pictures;"),
    ],
)
def test_a_broken_extension_is_one_sentence_that_names_it(
    extension: Callable[[str, str], Path], text: str, told: str
) -> None:
    path = extension("mine.py", text)
    for _ in range(2):
        with pytest.raises(PluginError) as raised:
            discover(Colour, [])
        assert str(raised.value).startswith(f"The extension {path} cannot be imported: ")
        assert told in str(raised.value)
        assert len(str(raised.value).splitlines()) == 1
    path.write_text(RED)
    assert list(discover(Colour, [])) == ["red"]


def test_a_folder_that_cannot_be_read_is_one_sentence(harness_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_EXTENSIONS", "tools")
    (harness_home / "tools").write_text("a file")
    with pytest.raises(PluginError, match=f"{harness_home}/tools, which cannot be read: Not a directory; .*_EXTENSION"):
        discover(Colour, [])


def test_the_variable_names_another_folder_wherever_the_current_one_is(
    harness_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extension: Callable[[str, str], Path]
) -> None:
    extension("mine.py", RED.replace("red", "pink"))
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "red.py").write_text(RED)
    monkeypatch.setenv("HARNESS_EXTENSIONS", "../theirs")
    assert [one.origin for one in discover(Colour, []).values()] == [str(tmp_path / "theirs" / "red.py")]
    monkeypatch.delenv("HARNESS_EXTENSIONS")
    monkeypatch.chdir(tmp_path)
    assert discover(Colour, []) == {}


def test_a_file_is_imported_once_and_one_that_is_added_later_is_seen(
    extension: Callable[[str, str], Path], tmp_path: Path
) -> None:
    count = tmp_path / "count"
    path = extension("tools.py", f"{HAMMER}\nopen({str(count)!r}, 'a').write('x')\n")
    for kind in (Tool, Colour, Tool):
        discover(kind, [])
    assert count.read_text() == "x"
    extension("colours.py", RED)
    assert list(discover(Colour, [])) == ["red"]
    path.unlink()
    assert discover(Tool, []) == {}


def test_an_extension_may_ask_what_there_is_while_it_is_imported(
    package: Callable[..., str], extension: Callable[[str, str], Path]
) -> None:
    """It sees what is built in; what it defines after that is found all the same."""
    room = package(warm=RED)
    extension(
        "tools.py",
        f"from harness.plugins.discovery import discover\nfrom kinds import Colour\n"
        f"PALE = Colour('pale ' + discover(Colour, ['{room}'])['red'].name)\n",
    )
    assert discover(Tool, []) == {}
    assert list(discover(Colour, [room])) == ["red", "pale red"]


METRIC = """
from harness.metrics.spec import SegmentationMetric
OTHER = SegmentationMetric(name="other", label="", better="lower", definition="", fraction=None)
"""
TABLE = "from harness.results import TableSpec\nOTHER = TableSpec('other', '', '', list)\n"
ASKS_METRICS = "from harness.metrics.spec import segmentation_metrics as there\nTOLD = there()\n"
ASKS_TABLES = "from harness.results.catalogue import tables as there\nTOLD = there()\n"


@pytest.mark.parametrize(
    ("first", "second"), [(ASKS_TABLES + METRIC, ASKS_METRICS), (ASKS_METRICS + TABLE, ASKS_TABLES)]
)
def test_an_extension_that_asks_what_there_is_hides_nothing_of_another(
    extension: Callable[[str, str], Path], first: str, second: str
) -> None:
    """The first asks and only then defines; the second, imported meanwhile, is told of all but that."""
    extension("a.py", first)
    asker = extension("b.py", second)
    discover(Colour, [])  # imports both
    assert "other" not in import_file(asker).TOLD
    assert "other" in import_file(asker).there()


def test_what_is_returned_can_be_changed_without_harm(extension: Callable[[str, str], Path]) -> None:
    extension("colours.py", RED)
    discover(Colour, []).clear()
    assert list(discover(Colour, [])) == ["red"]


@pytest.mark.parametrize("module", ["warm", "broken"])
def test_an_installed_package_brings_extensions_under_its_own_name(
    package: Callable[..., str], extension: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    room = package(warm=RED, broken="1 / 0")
    extension("colours.py", "from kinds import Colour\nBLUE = Colour('blue')\n")

    class Point(EntryPoint):
        dist: Any = type("Distribution", (), {"name": "paint-shop"})

    points = (Point("any", f"{room}.{module}", "harness.extensions"),)
    monkeypatch.setattr(discovery, "installed", lambda group: points if group == "harness.extensions" else ())
    if module == "warm":
        found = discover(Colour, [])
        assert list(found) == ["blue", "red"]
        assert found["red"] == Found("red", Colour("red"), f"{room}.warm", "paint-shop")
    else:
        with pytest.raises(PluginError, match=f"The extension {room}.broken cannot be imported: ZeroDivisionError"):
            discover(Colour, [])


def test_two_threads_see_whole_modules(extension: Callable[[str, str], Path]) -> None:
    from concurrent.futures import ThreadPoolExecutor

    path = extension("slow.py", f"import time\ntime.sleep(0.2)\n{RED}")
    with ThreadPoolExecutor(4) as threads:
        assert all(Colour("red") == module.RED for module in threads.map(import_file, [path] * 4))
    assert import_file(path).__file__ == str(path)

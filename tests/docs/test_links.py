"""What the documentation names is there: pages, headings, pictures, files and modules of this repository."""

import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())

FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`[^`\n]+`")
LINK = re.compile(r"\]\(\s*([^)\s]+)[^)]*\)|(?:src|href)=\"([^\"]+)\"")
EXTERNAL = re.compile(r"[a-z][a-z+.-]*:")
HEADING = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)
PLACE = re.compile(r"(?<![\w/.-])(?:harness|generators|segmenters|benchmarks|tests|docs)/[a-z0-9_./-]*[a-z0-9_]")
MODULE = re.compile(
    r"(?:\bfrom|\bimport|-m) +((?:harness|generators|segmenters|benchmarks)(?:\.\w+)*)|`(harness\.\w+\.\w[\w.]*)`"
)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    known: set[str] = set()
    times: Counter[str] = Counter()
    for heading in HEADING.findall(FENCE.sub("", page.read_text())):
        shown = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        known.add(f"{slug}-{times[slug]}" if times[slug] else slug)
        times[slug] += 1
    return known


def broken_links(page: Path) -> list[str]:
    """The relative links of a page that lead to no file, or to no heading of it, as they stand in it."""
    text = CODE.sub("", FENCE.sub("", page.read_text()))
    nowhere = []
    for target in ("".join(found) for found in LINK.findall(text)):
        path, _, anchor = target.partition("#")
        there = page.parent / path if path else page
        if EXTERNAL.match(target):
            continue
        if not there.exists() or (anchor and (there.suffix != ".md" or anchor not in anchors(there))):
            nowhere.append(target)
    return nowhere


def missing_names(page: Path) -> list[str]:
    """Paths and modules of this repository that a page names and that are not there."""
    text = page.read_text()
    places = [name for name in PLACE.findall(text) if not (ROOT / name).exists()]
    modules = ["".join(found) for found in MODULE.findall(text)]
    return places + [name for name in modules if not _is_module(name)]


def _is_module(name: str) -> bool:
    """Whether a dotted name is a module, or a name that the module before its last dot has in its text."""
    place, _, last = name.rpartition(".")
    return bool(_files(name)) or any(re.search(rf"\b{last}\b", file.read_text()) for file in _files(place))


def _files(module: str) -> list[Path]:
    path = ROOT / module.replace(".", "/")
    return [file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()]


@each_page
def test_links_lead_somewhere(page):
    assert broken_links(page) == []


@each_page
def test_paths_and_modules_exist(page):
    assert missing_names(page) == []


def test_every_page_and_picture_is_linked():
    index = (ROOT / "docs" / "README.md").read_text()
    pages = [page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").glob("*/*.md")]
    assert [page for page in pages if f"]({page})" not in index] == []
    written = "".join(page.read_text() for page in PAGES)
    assert [path.name for path in (ROOT / "docs" / "pictures").iterdir() if path.name not in written] == []


def test_links_that_lead_nowhere_are_found(tmp_path):
    (tmp_path / "other.md").write_text("# A page\n\n## `code` & *two* words, once\n\n## Twice\n\n## Twice\n")
    page = tmp_path / "page.md"
    page.write_text(
        "# Here\n\n[a](#here) [b](other.md) [c](other.md#code--two-words-once) [d](other.md#twice-1)\n"
        '[e](https://example.org/x#y) `[f](nowhere.md)` [g](missing.md) ![h](missing.png "title")\n'
        '[i](other.md#twice-2) [j](#there) <img src="missing.svg" alt="k">\n\n```\n[l](nowhere.md)\n# there\n```\n'
    )
    assert broken_links(page) == ["missing.md", "missing.png", "other.md#twice-2", "#there", "missing.svg"]


def test_names_of_what_is_not_there_are_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "`harness/errors.py`, `harness.learning.augmentation.geometric_transform`, `python -m benchmarks.fid`,\n"
        "`harness/gone.py`, `harness.learning.augmentation.gone`, `harness.gone.thing`, `python -m benchmarks.gone`\n"
        "```\nfrom harness.learning import Card\nfrom harness.fitting import X\n```\n"
    )
    assert missing_names(page) == [
        "harness/gone.py",
        "harness.learning.augmentation.gone",
        "harness.gone.thing",
        "benchmarks.gone",
        "harness.fitting",
    ]

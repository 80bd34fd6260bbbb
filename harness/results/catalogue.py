"""The catalogue of what a report can show: every table and figure by name, built-in or an extension's.

A table is a :class:`TableSpec`, a figure a :class:`FigureSpec`, defined at the top level of a module of the report or
of an extension (a file in the project's folder ``extensions``). What it is made from is the one argument of its
function: :class:`harness.report.findings.Findings`, the results of a study with their statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.plugins.discovery import Found, discover

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Behind everything that is built in.
LAST = 1000


@dataclass(frozen=True)
class TableSpec:
    """A kind of table.

    Attributes:
        name: what a study asks for it by. The names of its tables, which are those of their files, begin with it.
        title: what it shows, in a few words.
        caption: what else a list says of it; a table has a caption of its own, with the facts of its study.
        build: returns the tables (:class:`harness.report.tables.table.Table`) of a study's ``Findings``; None stands
            for one that has nothing to show.
        place: where it stands in the report, lowest first; built-in ones are below 100.
    """

    name: str
    title: str
    caption: str
    build: Callable[[Any], Iterable[Any]]
    place: float = LAST


@dataclass(frozen=True)
class Panel:
    """One picture of a figure, with a file of its own.

    Attributes:
        figure: drawn with matplotlib, 3.5 inches wide; None when there is nothing to show.
        number: stands behind the figure's name in that of the file, where there are several (one a generator).
        title: where it is not the figure's.
        caption: where it is not the figure's.
    """

    figure: Figure | None
    number: int | None = None
    title: str = ""
    caption: str = ""


@dataclass(frozen=True)
class FigureSpec:
    """A kind of figure.

    Attributes:
        name: what a study asks for it by, and the name of its file.
        title: what it shows, in a few words.
        caption: what a reader must know to read it.
        draw: returns the panels of a study's ``Findings``. It is called in the style of the house, and what it returns
            is written as PNG and PDF.
        place: where it stands in the report, lowest first; built-in ones are below 200. Figures of one place alternate,
            by the numbers of their panels.
    """

    name: str
    title: str
    caption: str
    draw: Callable[[Any], Iterable[Panel]]
    place: float = LAST


def tables() -> dict[str, Found[TableSpec]]:
    """Return every table by name, in the order of the report.

    Raises:
        PluginError: two have one name, or an extension cannot be imported.
    """
    return _in_order(discover(TableSpec, ["harness.report.tables", "harness.report.papers"]))


def figures() -> dict[str, Found[FigureSpec]]:
    """Return every figure by name, in the order of the report.

    Raises:
        PluginError: two have one name, or an extension cannot be imported.
    """
    return _in_order(discover(FigureSpec, ["harness.report.figures", "harness.report.papers"]))


def _in_order(found: dict[str, Found[Any]]) -> dict[str, Found[Any]]:
    return dict(sorted(found.items(), key=lambda item: item[1].thing.place))

"""Render a study's results as a folder of pages, tables, figures and ``results.csv``."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import HarnessError, PluginError
from harness.report.figures.style import house_style, save
from harness.report.findings import Findings
from harness.report.page import FigureFile, pages
from harness.results import catalogue

if TYPE_CHECKING:
    from harness.plugins.discovery import Found
    from harness.report.tables.table import Table
    from harness.results.schema import StudyResults


def render(results: StudyResults, folder: Path) -> Path:
    """Write the report of a study into ``folder``, replacing an earlier one at once.

    A pure function of ``results``: rendered twice, every file has the same bytes. It trains nothing and reads nothing
    but the papers' numbers that the study names.

    Args:
        results: the study's results, complete or not.
        folder: such as ``reports/NAME``.

    Returns:
        The path of ``report.html``.

    Raises:
        HarnessError: ``folder`` exists and is not a report, or cannot be written.
        PluginError: a table or a figure of an extension cannot be made.
    """
    folder = folder.absolute()
    if folder.exists() and not (folder.is_dir() and ((folder / "report.md").is_file() or not any(folder.iterdir()))):
        raise HarnessError(f"{folder} is not a report (it has no report.md): move it away or name another folder.")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise HarnessError(
            f"The report cannot be written to {folder}: {error.strerror}; name another folder."
        ) from error
    try:
        _write(results, building)
        building.chmod(0o755)
        _replace(building, folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return folder / "report.html"


def _replace(building: Path, folder: Path) -> None:
    """Put a finished report in the place of an earlier one."""
    earlier = building.with_name(building.name + "-earlier")
    if folder.exists():
        folder.replace(earlier)
    building.replace(folder)
    shutil.rmtree(earlier, ignore_errors=True)


def _write(results: StudyResults, folder: Path) -> None:
    """Write all files of a report into an empty folder."""
    findings = Findings(results)
    (folder / "results.csv").write_text(results.csv(), encoding="utf-8", newline="")
    tables = _write_tables(findings, folder / "tables")
    figures = _write_figures(findings, folder / "figures")
    for name, text in pages(findings, tables, figures).items():
        (folder / name).write_text(text, encoding="utf-8", newline="")


def _write_tables(findings: Findings, folder: Path) -> list[Table]:
    """Write the tables that the study asks for and return them; all that apply when it asks for none."""
    folder.mkdir()
    tables: list[Table] = []
    for found in _wanted(catalogue.tables(), findings.results.tables):
        with _extension_named(found):
            for table in found.thing.build(findings):
                if table is not None:
                    _write_table(table, folder)
                    tables.append(table)
    _check_names([table.name for table in tables])
    return tables


def _write_table(table: Table, folder: Path) -> None:
    for ending, text in (("md", table.markdown()), ("tex", table.latex()), ("csv", table.csv())):
        (folder / f"{table.name}.{ending}").write_text(text, encoding="utf-8", newline="")


def _write_figures(findings: Findings, folder: Path) -> list[FigureFile]:
    """Draw the figures that the study asks for and return them; all that apply when it asks for none."""
    folder.mkdir()
    drawn: list[tuple[float, int, FigureFile]] = []
    for found in _wanted(catalogue.figures(), findings.results.figures):
        spec: catalogue.FigureSpec = found.thing
        with _extension_named(found), house_style():
            for panel in spec.draw(findings):
                stem = folder / (spec.name if panel.number is None else f"{spec.name}-{panel.number}")
                if save(panel.figure, stem):
                    file = FigureFile.read(stem, panel.title or spec.title, panel.caption or spec.caption)
                    drawn.append((spec.place, panel.number or 0, file))
    _check_names([file.name for _, _, file in drawn])
    return [file for _, _, file in sorted(drawn, key=lambda one: one[:2])]


def _wanted(known: dict[str, Found[Any]], names: Sequence[str]) -> list[Found[Any]]:
    """Return what a study asks for, in the order of the report."""
    return [found for name, found in known.items() if not names or name in names]


@contextmanager
def _extension_named(found: Found[Any]) -> Iterator[None]:
    """Say which extension failed, in one sentence; the report's own mistakes stay as they are."""
    try:
        yield
    except Exception as error:
        if found.origin == "built-in" or isinstance(error, HarnessError):
            raise
        raise PluginError(
            f"{found.name!r} of {found.origin} cannot be made: {type(error).__name__}: {error}; mend it, or leave it "
            "out of the report."
        ) from error


def _check_names(names: Sequence[str]) -> None:
    """Refuse two files of one name: the second would replace the first."""
    for name in names:
        if names.count(name) > 1:
            raise PluginError(f"Two of the report's tables, or of its figures, are called {name!r}; rename one.")

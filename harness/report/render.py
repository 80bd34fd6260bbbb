"""Render a study's results as a folder of pages, tables, figures and ``results.csv``."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import HarnessError
from harness.report import figures, pictures
from harness.report.names import FIGURES, TABLES
from harness.report.page import FigureFile, pages
from harness.report.published import published_tables
from harness.report.results_csv import results_csv
from harness.report.score_tables import all_scores, comparison_table, fidelity_table, score_tables
from harness.stats.study import effects, scores

if TYPE_CHECKING:
    from harness.report.table import Table
    from harness.results import StudyResults
    from harness.stats import Effect, Score


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
    measured = all_scores(results)
    comparison = results.comparison
    primary = measured.get((comparison.metric, comparison.reduction)) or scores(
        results, comparison.metric, comparison.reduction
    )
    compared = effects(results, primary)
    (folder / "tables").mkdir()
    (folder / "figures").mkdir()
    (folder / "results.csv").write_text(results_csv(results), encoding="utf-8", newline="")
    tables = _tables(results, measured, compared)
    for table in tables:
        for ending, text in (("md", table.markdown()), ("tex", table.latex()), ("csv", table.csv())):
            (folder / "tables" / f"{table.name}.{ending}").write_text(text, encoding="utf-8", newline="")
    drawn = _figures(results, primary, compared, folder / "figures")
    for name, text in pages(results, tables, drawn, primary, compared).items():
        (folder / name).write_text(text, encoding="utf-8", newline="")


def _tables(results: StudyResults, measured: dict[tuple[str, str], list[Score]], compared: list[Effect]) -> list[Table]:
    """Build the tables that the study asks for; all that apply when it asks for none."""
    wanted = set(results.tables or TABLES)
    tables: list[Table] = []
    if "comparison" in wanted and compared:
        tables.append(comparison_table(results, compared))
    if "scores" in wanted:
        tables.extend(score_tables(results, measured))
    if "fidelity" in wanted and (fidelity := fidelity_table(results)):
        tables.append(fidelity)
    if "published" in wanted:
        tables.extend(published_tables(results))
    return tables


def _figures(results: StudyResults, primary: list[Score], compared: list[Effect], folder: Path) -> list[FigureFile]:
    """Draw the figures that the study asks for; all that apply when it asks for none."""
    wanted = set(results.figures or FIGURES)
    drawn: list[FigureFile] = []

    def draw(kind: str, name: str, title: str, caption: str, work: Callable[[Path], bool]) -> None:
        stem = folder / name
        if kind in wanted and work(stem):
            drawn.append(FigureFile.read(stem, title, caption))

    draw(
        "ratio",
        "ratio",
        "Score against the number of synthetic images",
        "Whiskers: 95 % intervals over images and training runs; band: real images only; hollow: control arms.",
        partial(figures.ratio_figure, results, primary),
    )
    draw(
        "comparison",
        "comparison",
        "Difference from the control arm",
        "Lines: 95 % intervals. Filled: found after Holm's correction; hollow: no evidence either way; cross: not "
        "comparable.",
        partial(figures.comparison_figure, results, compared),
    )
    draw(
        "selection",
        "selection",
        "Checkpoint selection",
        "What each checkpoint scored on the images it was selected by.",
        partial(figures.selection_figure, results),
    )
    draw(
        "samples",
        "samples",
        "Real and synthetic images",
        "The first of each set, not chosen; masks outlined.",
        partial(pictures.samples_figure, results),
    )
    for index, grid in enumerate(results.predictions):
        draw(
            "predictions",
            f"predictions-{index}",
            f"Predictions of {grid.segmenter}",
            "Green: ground truth; orange: prediction.",
            partial(pictures.predictions_figure, grid),
        )
    return drawn

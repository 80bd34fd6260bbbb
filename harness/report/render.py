"""Render a study's results as a folder of pages, tables, figures and ``results.csv``."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import HarnessError
from harness.report.figures import conditioning as mask_to_image_figures
from harness.report.figures import fidelity as fidelity_figures
from harness.report.figures import image_grids as pictures
from harness.report.figures import learning_curves as by_real_figures
from harness.report.figures import scores as figures
from harness.report.format import FIGURES, TABLES
from harness.report.page import FigureFile, pages
from harness.report.papers.tables import published_tables
from harness.report.tables.fidelity import fidelity_tables, mask_table, memorisation_table
from harness.report.tables.fidelity_rows import largest_fits
from harness.report.tables.scores import clinical_tables, comparison_table, score_tables, scored, size_tables
from harness.report.tables.selection import selection_tables
from harness.results.results_csv import results_csv
from harness.stats.study import effects

if TYPE_CHECKING:
    from harness.report.tables.scores import Scored
    from harness.report.tables.table import Table
    from harness.results.schema import MadeFrom, StudyResults
    from harness.stats import Effect, Score


#: Draws one figure if the study asks for it: its kind, file name, title and caption, and what draws it.
_Draw = Callable[[str, str, str, str, Callable[[Path], bool]], None]


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
    of = scored(results)
    primary = of(results.comparison.metric, results.comparison.reduction)
    compared = effects(results, primary)
    (folder / "tables").mkdir()
    (folder / "figures").mkdir()
    (folder / "results.csv").write_text(results_csv(results), encoding="utf-8", newline="")
    tables = _tables(results, of, compared)
    for table in tables:
        for ending, text in (("md", table.markdown()), ("tex", table.latex()), ("csv", table.csv())):
            (folder / "tables" / f"{table.name}.{ending}").write_text(text, encoding="utf-8", newline="")
    drawn = _figures(results, primary, compared, folder / "figures")
    for name, text in pages(results, tables, drawn, primary, compared).items():
        (folder / name).write_text(text, encoding="utf-8", newline="")


def _tables(results: StudyResults, of: Scored, compared: list[Effect]) -> list[Table]:
    """Build the tables that the study asks for; all that apply when it asks for none."""
    wanted = set(results.tables or TABLES)
    tables: list[Table] = []
    if "comparison" in wanted and compared:
        tables.append(comparison_table(results, compared))
    if "scores" in wanted:
        tables.extend(score_tables(results, of))
    if "scores-clinical" in wanted:
        tables.extend(clinical_tables(results, of))
    if "scores-by-size" in wanted:
        tables.extend(size_tables(results, of))
    if "fidelity" in wanted:
        tables.extend(fidelity_tables(results))
    if "fidelity-masks" in wanted and (masks := mask_table(results)):
        tables.append(masks)
    if "memorisation" in wanted and (memorisation := memorisation_table(results)):
        tables.append(memorisation)
    if "selection" in wanted:
        tables.extend(selection_tables(results))
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
        "Whiskers: 95 % intervals over images and training runs; band: real images only; hollow: control arms. An axis "
        "with two strokes at its foot does not begin at 0.",
        partial(figures.ratio_figure, results, primary),
    )
    draw(
        "score-by-real",
        "score-by-real",
        "Score against the number of real images",
        "A training set without real images stands on those that its generators were fitted on. Whiskers: 95 % "
        "intervals over images and training runs; hollow: control arms. An axis with two strokes at its foot does not "
        "begin at 0.",
        partial(by_real_figures.score_by_real_figure, results, primary),
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
        "samples",
        "samples",
        "Real and synthetic images",
        "The first of each set, not chosen; masks outlined.",
        partial(pictures.samples_figure, results),
    )
    draw(
        "generators",
        "generators",
        "Real images and those of each generator, with their masks",
        "The first of each pool, not chosen; below each image its mask.",
        partial(pictures.generators_figure, results),
    )
    _made_from_figures(results, draw)
    _generator_figures(results, draw)
    for index, grid in enumerate(results.predictions):
        draw(
            "predictions",
            f"predictions-{index}",
            f"Predictions of {grid.segmenter}",
            "Green: ground truth; orange: prediction.",
            partial(pictures.predictions_figure, grid),
        )
    return drawn


def _made_from_figures(results: StudyResults, draw: _Draw) -> None:
    """Draw pairs beside the real pairs that they were made from, and before and after refinement."""
    cells: dict[str, list[MadeFrom]] = {}
    for one in results.made:
        cells.setdefault(one.cell, []).append(one)
    for index, (cell, shown) in enumerate(cells.items()):
        draw(
            "sources",
            f"sources-{index}",
            f"What {cell} made from one real pair",
            "Real pairs and the first that were made from each, not chosen; below each image its mask.",
            partial(pictures.sources_figure, shown),
        )
        draw(
            "refinement",
            f"refinement-{index}",
            f"Samples of {cell} before and after refinement",
            "The first samples, not chosen, above the same samples after refinement; their masks stay.",
            partial(pictures.refinement_figure, shown),
        )


def _generator_figures(results: StudyResults, draw: _Draw) -> None:
    """Draw what was measured of generators."""
    draw(
        "selection",
        "selection",
        "Checkpoint selection",
        "What each checkpoint scored on the images it was selected by. Large: the chosen one; cross: cannot be chosen "
        "(on the axis: it has no value).",
        partial(fidelity_figures.selection_figure, results),
    )
    for index, samples in enumerate(results.checkpoints):
        draw(
            "checkpoints",
            f"checkpoints-{index}",
            f"What the checkpoints of {samples.cell} made",
            "A row has one seed, and one mask where images are made for masks; a column is a checkpoint, evenly spaced "
            "when there are many. The first samples, not chosen.",
            partial(mask_to_image_figures.checkpoints_figure, samples),
        )
    draw(
        "fidelity-by-real",
        "fidelity-by-real",
        "Distance from real images against their number",
        "Whiskers: standard deviation between sample sets, where there are several. FID of few images is biased "
        "upwards, the more the fewer they are, so that its fall need not be an improvement. An axis with two strokes "
        "at its foot does not begin at 0.",
        partial(by_real_figures.fidelity_by_real_figure, results),
    )
    _mask_figures(results, draw)
    draw(
        "mask-areas",
        "mask-areas",
        "How much of an image is polyp",
        "Share of masks in each 5 % of polyp area; the black line is that of the real masks.",
        partial(fidelity_figures.mask_areas_figure, largest_fits(results)),
    )
    draw(
        "mask-areas-by-real",
        "mask-areas-by-real",
        "How much of an image is polyp, by number of real images",
        "Share of masks in each 5 % of polyp area: above, the real masks that a generator is compared with; below, "
        "those that it made after a fit on n of them. In each panel the number of masks.",
        partial(by_real_figures.mask_areas_by_real_figure, results),
    )
    for index, (name, measured) in enumerate(fidelity_figures.with_diversity(results)):
        draw(
            "mask-diversity",
            f"mask-diversity-{index}",
            f"Masks of {name} made from one real mask",
            "A real mask, the pixel-wise mean of the synthetic masks made from it, and their standard deviation. "
            "Bright is high in both.",
            partial(fidelity_figures.mask_diversity_figure, measured),
        )
    for index, measured in enumerate(fidelity_figures.with_closest(results)):
        draw(
            "closest",
            f"closest-{index}",
            f"Closest training images of {measured.cell}",
            "The images that lie closest to a training image, above that image, with the distance in grey levels.",
            partial(fidelity_figures.closest_figure, measured),
        )


def _mask_figures(results: StudyResults, draw: _Draw) -> None:
    """Draw masks that a plugin of its own made, what they are most similar to, and images made for them."""
    draw(
        "masks",
        "masks",
        "Real and synthetic masks",
        "The first of each set, not chosen.",
        partial(mask_to_image_figures.masks_figure, results),
    )
    for index, measured in enumerate(mask_to_image_figures.with_closest_masks(results)):
        draw(
            "closest-masks",
            f"closest-masks-{index}",
            f"Masks of {measured.cell} and the most similar real ones",
            "The first synthetic masks, not chosen, above the most similar real mask of each, with the share of equal "
            "pixels (SIM).",
            partial(mask_to_image_figures.closest_masks_figure, measured),
        )
    for index, variations in enumerate(results.variations):
        draw(
            "variations",
            f"variations-{index}",
            f"Several images of {variations.cell} for one mask",
            "The first masks, not chosen, and right of each the images that were made for it, each by a seed of its "
            "own, before any refinement.",
            partial(mask_to_image_figures.variations_figure, variations),
        )

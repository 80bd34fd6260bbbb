"""Figures that are grids of images: real and synthetic samples, what was made from a real pair, and predictions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harness.data.overlay import overlay
from harness.report.figures.style import canvas
from harness.results.catalogue import FigureSpec, Panel

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from harness.data.pairs import PairSet
    from harness.report.findings import Findings
    from harness.results.schema import MadeFrom, PredictionGrid, StudyResults

#: Columns of a sample grid, rows of a prediction grid, and recipes shown beside each other.
SAMPLES, CASES, RECIPES = 6, 4, 5


def tiles(figure: Any, axes: Any, rows: Sequence[Sequence[NDArray[np.uint8] | None]], labels: Sequence[str]) -> None:
    """Fill axes with pictures; a label stands left of each row."""
    for index, (row, label) in enumerate(zip(rows, labels, strict=True)):
        for axis, picture in zip(axes[index], [*row, *[None] * (axes.shape[1] - len(row))], strict=True):
            axis.set_xticks([])
            axis.set_yticks([])
            for spine in axis.spines.values():
                spine.set_visible(False)
            if picture is not None:
                axis.imshow(picture, interpolation="nearest")
        axes[index][0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=6.5)
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0.01, hspace=0.01)


def _sets(results: StudyResults, synthetic: Iterable[str]) -> dict[str, PairSet]:
    """Return the real pairs and those of the named generators or controls that there are; none of masks alone."""
    masks_alone = {name for name, pipeline in results.pipelines.items() if pipeline.makes == "masks"}
    shown = {name: results.synthetic.get(name) for name in synthetic if name not in masks_alone}
    named = {"real": results.real, **shown}
    return {name: pairs for name, pairs in named.items() if pairs is not None and len(pairs)}


def samples_figure(results: StudyResults) -> Figure | None:
    """Draw some real pairs and some of each generator, masks outlined; None when there are none."""
    sets = _sets(results, results.synthetic)
    if not sets:
        return None
    rows = [
        [overlay(pairs.images[i], pairs.masks[i]) for i in range(min(SAMPLES, len(pairs)))] for pairs in sets.values()
    ]
    columns = max(len(row) for row in rows)
    with canvas(0.52 * len(sets) + 0.1, nrows=len(sets), ncols=columns) as (figure, axes):
        tiles(figure, axes, rows, [wrapped(name) for name in sets])
    return figure


def generators_figure(results: StudyResults) -> Figure | None:
    """Draw the first real images and the first of each generator's pool (paper B, Figure 12), each above its mask.

    Returns:
        The figure; None when no generator has a pair.
    """
    sets = _sets(results, results.generators)
    if not set(sets) - {"real"}:
        return None
    rows: list[list[NDArray[np.uint8]]] = []
    for pairs in sets.values():
        few = pairs.first(min(SAMPLES, len(pairs)))
        rows += [list(few.images), list(as_pictures(few.masks))]
    labels = [label for name in sets for label in (wrapped(name), "mask")]
    columns = max(len(row) for row in rows)
    with canvas(0.52 * len(rows) + 0.1, nrows=len(rows), ncols=columns) as (figure, axes):
        tiles(figure, axes, rows, labels)
    return figure


def sources_figure(shown: Sequence[MadeFrom]) -> Figure | None:
    """Draw a few real pairs and the first pairs that one generator made from each (paper B, Figure 4).

    Two rows a real pair: images above their masks, the real one in the first column.

    Returns:
        The figure; None when no pair was made from one real pair.
    """
    known = [(one.source, one.made) for one in shown if one.source is not None]
    if not known:
        return None
    rows: list[list[NDArray[np.uint8]]] = []
    for source, made in known:
        rows.append([*source.images, *made.images])
        rows.append([*as_pictures(source.masks), *as_pictures(made.masks)])
    columns = max(3, *(len(row) for row in rows))
    with canvas(0.52 * len(rows) + 0.25, nrows=len(rows), ncols=columns) as (figure, axes):
        tiles(figure, axes, rows, ["image", "mask"] * len(known))
        axes[0, 0].set_title("real", fontsize=7)
        axes[0, 1].set_title("made from it", fontsize=7, loc="left")
    return figure


def refinement_figure(shown: Sequence[MadeFrom]) -> Figure | None:
    """Draw samples of one generator above the same samples after refinement (paper B, Figure 7).

    Two rows a real image, which stands in the first column where the samples were made from one.

    Returns:
        The figure; None when nothing refines the generator's pairs.
    """
    known = [(one.source, one.before, one.made) for one in shown if one.before is not None]
    if not known:
        return None
    real = any(source is not None for source, _, _ in known)
    rows: list[list[NDArray[np.uint8] | None]] = []
    for source, before, made in known:
        first: list[NDArray[np.uint8] | None] = [source.images[0] if source is not None else None] if real else []
        rows += [[*first, *before.images], [*[None] * len(first), *made.images]]
    columns = max(3, *(len(row) for row in rows))
    with canvas(0.52 * len(rows) + 0.25, nrows=len(rows), ncols=columns) as (figure, axes):
        tiles(figure, axes, rows, ["before", "after"] * len(known))
        if real:
            axes[0, 0].set_title("real", fontsize=7)
        axes[0, int(real)].set_title("made from it" if real else "samples", fontsize=7, loc="left")
    return figure


def as_pictures(masks: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return masks (N, H, W) in {0, 1} as black and white pictures (N, H, W, 3)."""
    return np.repeat(masks[..., None] * np.uint8(255), 3, axis=-1)


def wrapped(name: str) -> str:
    """Break a long label into lines behind its dashes, commas and colons."""
    lines = [""]
    for word in re.split(r"(?<=[-,:])", name):
        if lines[-1] and len(lines[-1]) + len(word) > 12:
            lines.append("")
        lines[-1] += word
    return "\n".join(lines)


def predictions_figure(grid: PredictionGrid) -> Figure | None:
    """Draw ground truth and predictions, outlined, on report images, a column a recipe; None when empty."""
    names = list(grid.predictions)[:RECIPES]
    cases = min(CASES, len(grid.images))
    if not names or not cases:
        return None
    rows = []
    for case in range(cases):
        image, truth = grid.images[case], grid.truth[case]
        predicted = [overlay(image, truth, grid.predictions[name][case]) for name in names]
        rows.append([image, overlay(image, truth), *predicted])
    with canvas(0.62 * cases + 0.45, nrows=cases, ncols=2 + len(names)) as (figure, axes):
        tiles(figure, axes, rows, [""] * cases)
        for axis, name in zip(axes[0], ["image", "truth", *names], strict=True):
            axis.set_title(wrapped(name), fontsize=5.5)
    return figure


def _by_cell(made: Iterable[MadeFrom]) -> dict[str, list[MadeFrom]]:
    cells: dict[str, list[MadeFrom]] = {}
    for one in made:
        cells.setdefault(one.cell, []).append(one)
    return cells


def _sources(findings: Findings) -> Iterator[Panel]:
    for position, (cell, shown) in enumerate(_by_cell(findings.results.made).items()):
        yield Panel(sources_figure(shown), position, f"What {cell} made from one real pair")


def _refinement(findings: Findings) -> Iterator[Panel]:
    for position, (cell, shown) in enumerate(_by_cell(findings.results.made).items()):
        yield Panel(refinement_figure(shown), position, f"Samples of {cell} before and after refinement")


def _predictions(findings: Findings) -> Iterator[Panel]:
    for position, grid in enumerate(findings.results.predictions):
        yield Panel(predictions_figure(grid), position, f"Predictions of {grid.segmenter}")


SAMPLE_GRID = FigureSpec(
    "samples",
    "Real and synthetic images",
    "The first of each set, not chosen; masks outlined.",
    lambda findings: [Panel(samples_figure(findings.results))],
    place=40,
)

GENERATORS = FigureSpec(
    "generators",
    "Real images and those of each generator, with their masks",
    "The first of each pool, not chosen; below each image its mask.",
    lambda findings: [Panel(generators_figure(findings.results))],
    place=50,
)

SOURCES = FigureSpec(
    "sources",
    "What a generator made from one real pair",
    "Real pairs and the first that were made from each, not chosen; below each image its mask.",
    _sources,
    place=60,
)

REFINEMENT = FigureSpec(
    "refinement",
    "Samples of a generator before and after refinement",
    "The first samples, not chosen, above the same samples after refinement; their masks stay.",
    _refinement,
    place=60,
)

PREDICTIONS = FigureSpec(
    "predictions",
    "Predictions of a segmenter",
    "Green: ground truth; magenta: prediction; white: both.",
    _predictions,
    place=170,
)

"""Figures of generators that make masks, or images for masks (the mask-conditioned diffusion study, Figures 2 to 5)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from harness.data.overlay import overlay
from harness.report.figures.image_grids import SAMPLES, as_pictures, tiles, wrapped
from harness.report.figures.style import COLOURS, canvas
from harness.report.format import number
from harness.results.catalogue import FigureSpec, Panel

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from harness.report.findings import Findings
    from harness.results.schema import CheckpointSamples, Measured, StudyResults, Variations

#: Checkpoints that fit beside each other, and columns of a figure with fewer, so that its pictures stand close.
MOST_CHECKPOINTS, FEWEST_COLUMNS = 7, 5


def masks_figure(results: StudyResults) -> Figure | None:
    """Draw the first real masks above the first of each generator that has a plugin for masks (Figure 2).

    Returns:
        The figure; None when no generator has one.
    """
    made = {name: masks for name, masks in results.masks.items() if len(masks)}
    if not made:
        return None
    sets = {**({} if results.real is None else {"real": results.real.masks}), **made}
    rows = [list(as_pictures(masks[:SAMPLES])) for masks in sets.values()]
    with canvas(0.52 * len(rows) + 0.1, nrows=len(rows), ncols=max(map(len, rows))) as (figure, axes):
        tiles(figure, axes, rows, [wrapped(name) for name in sets])
    return figure


def with_closest_masks(results: StudyResults) -> list[Measured]:
    """Return the first fold of each generator whose masks were compared with real ones by SIM."""
    from harness.report.tables.fidelity_rows import largest_fits

    found: dict[str, Measured] = {}
    for measured in largest_fits(results):
        if measured.closest_masks is not None and measured.arm != "real":
            found.setdefault(measured.cell, measured)
    return list(found.values())


def closest_masks_figure(measured: Measured) -> Figure | None:
    """Draw the first synthetic masks above the most similar real mask of each, with their SIM (Figure 3).

    Returns:
        The figure; None when SIM was not measured.
    """
    closest = measured.closest_masks
    if closest is None or not len(closest.similarity):
        return None
    count = min(SAMPLES, len(closest.similarity))
    rows = [list(as_pictures(masks[:count])) for masks in (closest.synthetic, closest.real)]
    with canvas(1.35, nrows=2, ncols=max(count, 3)) as (figure, axes):
        tiles(figure, axes, rows, [wrapped(measured.cell), "most\nsimilar\nreal mask"])
        for axis, similarity in zip(axes[0], closest.similarity[:count], strict=False):
            axis.set_title(number(float(similarity)), fontsize=6.5)
    return figure


def variations_figure(variations: Variations) -> Figure | None:
    """Draw masks in the first column, and right of each the images that were made for it by other seeds (Figure 5).

    Left of a mask stands its agreement with the images, where that was measured.

    Returns:
        The figure; None when there are no masks.
    """
    if not len(variations.masks):
        return None
    rows = [
        [mask, *images] for mask, images in zip(as_pictures(variations.masks), list(variations.images), strict=True)
    ]
    with canvas(0.55 * len(rows) + 0.2, nrows=len(rows), ncols=len(rows[0])) as (figure, axes):
        measured = [] if variations.agreement is None else [number(float(value)) for value in variations.agreement]
        tiles(figure, axes, rows, measured or [""] * len(rows))
        axes[0, 0].set_title("mask", fontsize=7)
        axes[0, 1].set_title("images made for it", fontsize=7, loc="left")
    return figure


def spread(steps: Sequence[int], chosen: int, most: int = MOST_CHECKPOINTS) -> list[int]:
    """Return positions of at most so many checkpoints, evenly spaced from the first to the last, the chosen among them.

    Args:
        steps: of the checkpoints, in order.
        chosen: the step that must be among them, if it is one of them.
        most: at least 3.
    """
    if len(steps) <= most:
        return list(range(len(steps)))
    positions = [round(i * (len(steps) - 1) / (most - 1)) for i in range(most)]
    wanted = list(steps).index(chosen) if chosen in steps else positions[0]
    if wanted not in positions:
        # The one nearest to it gives way, unless it is the first or the last.
        positions.remove(min(positions[1:-1], key=lambda position: abs(position - wanted)))
    return sorted({*positions, wanted})


def checkpoints_figure(samples: CheckpointSamples) -> Figure | None:
    """Draw what the checkpoints made of equal seeds, a row a seed, a column a checkpoint, the chosen one marked
    (Figure 4).

    Left of images that were made for masks stand the masks; on pairs, masks are outlined.

    Returns:
        The figure; None when no checkpoint has samples.
    """
    if not samples.steps:
        return None
    shown = spread(samples.steps, samples.chosen)
    conditioned = samples.part == "images"
    rows: list[list[NDArray[np.uint8]]] = []
    for row in range(samples.images.shape[1]):
        first = list(as_pictures(samples.masks[0, row : row + 1])) if conditioned else []
        pairs = [(samples.images[at, row], samples.masks[at, row]) for at in shown]
        outlined = samples.part == "pairs"
        rows.append([*first, *(overlay(image, mask) if outlined else image for image, mask in pairs)])
    columns = max(FEWEST_COLUMNS, len(rows[0]))
    with canvas(0.5 * len(rows) + 0.35, nrows=len(rows), ncols=columns) as (figure, axes):
        tiles(figure, axes, rows, [""] * len(rows))
        if conditioned:
            axes[0, 0].set_title("mask", fontsize=6)
        for axis, at in zip(axes[0, int(conditioned) :], shown, strict=False):
            step = samples.steps[at]
            chosen = step == samples.chosen
            style = {"fontweight": "bold", "color": COLOURS[0]} if chosen else {}
            axis.set_title(f"{step}\nchosen" if chosen else str(step), fontsize=6, **style)
    return figure


def _checkpoints(findings: Findings) -> Iterator[Panel]:
    for position, samples in enumerate(findings.results.checkpoints):
        yield Panel(checkpoints_figure(samples), position, f"What the checkpoints of {samples.cell} made")


def _closest_masks(findings: Findings) -> Iterator[Panel]:
    for position, measured in enumerate(with_closest_masks(findings.results)):
        title = f"Masks of {measured.cell} and the most similar real ones"
        yield Panel(closest_masks_figure(measured), position, title)


def _variations(findings: Findings) -> Iterator[Panel]:
    for position, variations in enumerate(findings.results.variations):
        yield Panel(variations_figure(variations), position, f"Several images of {variations.cell} for one mask")


CHECKPOINTS = FigureSpec(
    "checkpoints",
    "What the checkpoints of a generator made",
    "A row has one seed, and one mask where images are made for masks; a column is a checkpoint, evenly spaced "
    "when there are many. The first samples, not chosen.",
    _checkpoints,
    place=80,
)

MASKS = FigureSpec(
    "masks",
    "Real and synthetic masks",
    "The first of each set, not chosen.",
    lambda findings: [Panel(masks_figure(findings.results))],
    place=100,
)

CLOSEST_MASKS = FigureSpec(
    "closest-masks",
    "Masks of a generator and the most similar real ones",
    "The first synthetic masks, not chosen, above the most similar real mask of each, with the share of equal "
    "pixels (SIM).",
    _closest_masks,
    place=110,
)

VARIATIONS = FigureSpec(
    "variations",
    "Several images of a generator for one mask",
    "The first masks, not chosen, and right of each the images that were made for it, each by a seed of its "
    "own, before any refinement.",
    _variations,
    place=120,
)

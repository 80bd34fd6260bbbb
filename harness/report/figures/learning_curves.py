"""Figures against the number of real images: scores, distances and polyp areas (paper B, Figures 10, 11 and 13)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from harness.metrics.fidelity.sample_sets import between_sets
from harness.report.figures.fidelity import BIN, BINS, area_shares, same_areas, together
from harness.report.figures.scores import shown_scores
from harness.report.figures.style import COLOURS, GREY, MARKERS, canvas, legend_rows, mark_cut, whiskers
from harness.report.format import metric_name
from harness.report.tables.fidelity_rows import Line, fidelity_lines, pools_by_generator
from harness.results.catalogue import FigureSpec, Panel

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from harness.report.wording import Recipe
    from harness.results.schema import Measured, StudyResults
    from harness.stats import Score

#: Distances that have a panel, where they were measured of several numbers of real images.
DISTANCES = ("fid", "fid-corrected", "kid", "sifid", "frechet-distance", "thumbnail-distance")
#: Numbers of real images beside each other in a figure of polyp areas.
COLUMNS = 5


def score_by_real_figure(results: StudyResults, listed: list[Score]) -> Figure | None:
    """Draw the primary metric against the number of real images that an arm stands on (paper B, Figure 11).

    A panel a segmenter; a line for real images only, and one for each generator, alone or beside the real ones. An arm
    without real images stands on those that its generators were fitted on. Whiskers are 95 % intervals; control arms
    have hollow markers and no line.

    Returns:
        The figure; None when no line has two numbers of real images.
    """
    shown = shown_scores(results, listed)
    lines = _score_lines([recipe for _, recipe in shown])
    if not lines:
        return None
    segmenters = [name for name in results.segmenters if any(score.key.segmenter == name for score, _ in shown)]
    looks = _looks(lines)
    bases = sorted({recipe.base for own in lines.values() for recipe in own})
    columns, rows = legend_rows(list(lines))
    with canvas(1.9 * len(segmenters) + 0.3 + 0.16 * rows, nrows=len(segmenters), sharex=True) as (figure, axes):
        handles: dict[str, Any] = {}
        for axis, segmenter in zip(axes[:, 0], segmenters, strict=True):
            own_scores = {s.key.recipe: s for s, _ in shown if s.key.segmenter == segmenter}
            for index, (name, own) in enumerate(lines.items()):
                measured = [recipe for recipe in own if recipe.label in own_scores]
                shift = (index - (len(lines) - 1) / 2) * 0.01 * bases[-1]
                x = [recipe.base + shift for recipe in measured]
                points = [own_scores[recipe.label] for recipe in measured]
                handles.setdefault(name, whiskers(axis, x, points, **looks[name]))
            axis.set_title(segmenter, loc="left")
            axis.set_ylabel(metric_name(results.comparison.metric))
            _finish(axis, bases)
        axes[-1, 0].set_xlabel("Real images that the training set stands on")
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=columns)
    return figure


def _score_lines(listed: Sequence[Recipe]) -> dict[str, list[Recipe]]:
    """Return by legend entry the recipes of each line that has several numbers of real images, fewest first."""
    kinds: dict[tuple[str, str], list[Recipe]] = {}
    for recipe in dict.fromkeys(listed):
        kinds.setdefault((recipe.arm, recipe.generator), []).append(recipe)
    lines: dict[str, list[Recipe]] = {}
    for own in kinds.values():
        for amount, alike in _by_amount(own).items():
            if len({recipe.base for recipe in alike}) > 1:
                name = ", ".join(part for part in (_line_name(alike[0]), amount) if part)
                lines[name] = sorted(alike, key=lambda recipe: recipe.base)
    return lines


def _line_name(recipe: Recipe) -> str:
    """Return what the training sets of a line hold."""
    names = {"real": "real only", "synthetic": f"{recipe.generator} only", "control": f"{recipe.generator} (control)"}
    return names.get(recipe.arm, f"real + {recipe.generator}")


def _by_amount(own: Sequence[Recipe]) -> dict[str, list[Recipe]]:
    """Split recipes by their amount of synthetic images, a real one or in all, whichever most of them share.

    Amounts that nothing but the number of real images tells apart are one line without an amount.
    """
    if not any(recipe.synthetic for recipe in own):
        return {"": list(own)}
    by_ratio: dict[str, list[Recipe]] = {}
    by_count: dict[str, list[Recipe]] = {}
    for recipe in own:
        ratio = f"{recipe.synthetic / max(recipe.base, 1):.1f}".removesuffix(".0")
        by_ratio.setdefault(f"{ratio} per real image", []).append(recipe)
        by_count.setdefault(f"{recipe.synthetic} images", []).append(recipe)
    split = by_ratio if len(by_ratio) <= len(by_count) else by_count
    if len(split) > 1 and len({recipe.base for recipe in own}) == len(own):
        return {"": list(own)}
    return split


def _looks(lines: dict[str, list[Recipe]]) -> dict[str, dict[str, Any]]:
    """Give real images black, every other line a colour and a marker, and control arms grey ones that are hollow."""
    looks: dict[str, dict[str, Any]] = {}
    for name, own in lines.items():
        index = len(looks)
        if own[0].arm == "control":
            look = {"color": GREY, "marker": MARKERS[index % len(MARKERS)], "linestyle": "none"}
            looks[name] = {**look, "markerfacecolor": "white"}
        elif own[0].synthetic:
            looks[name] = {"color": COLOURS[index % (len(COLOURS) - 1)], "marker": MARKERS[index % len(MARKERS)]}
        else:
            looks[name] = {"color": "black", "marker": MARKERS[index % len(MARKERS)], "linestyle": "--"}
    return looks


def _finish(axis: Any, numbers: Sequence[int]) -> None:
    """Give a panel its grid, a tick for each number of real images, and the mark of a cut axis."""
    if len(numbers) <= 12:
        axis.set_xticks(numbers)
    axis.grid(axis="y", color="#e6e6e6", linewidth=0.5)
    axis.set_axisbelow(True)
    mark_cut(axis)


def fidelity_by_real_figure(results: StudyResults) -> Figure | None:
    """Draw distances against the number of real images that generators were fitted on (paper B, Figure 13).

    A panel a distance, a line a generator. Whiskers are the standard deviation between sample sets; with folds, or one
    set, there are none.

    Returns:
        The figure; None when no generator was measured after fits on different numbers of images.
    """
    generators: dict[str, list[Line]] = {}
    for line in fidelity_lines(results):
        if not line.first.real and not math.isnan(line.first.n_fit):
            generators.setdefault(line.first.generator, []).append(line)
    several = {name: sorted(own, key=_fitted) for name, own in generators.items() if len({*map(_fitted, own)}) > 1}
    metrics = [m for m in DISTANCES if any(sum(line.complete(m) for line in own) > 1 for own in several.values())]
    if not metrics:
        return None
    numbers = sorted({_fitted(line) for own in several.values() for line in own})
    columns, rows = legend_rows(list(several))
    with canvas(1.35 * len(metrics) + 0.5 + 0.16 * rows, nrows=len(metrics), sharex=True) as (figure, axes):
        handles: dict[str, Any] = {}
        for axis, metric in zip(axes[:, 0], metrics, strict=True):
            for index, (name, own) in enumerate(several.items()):
                known = [line for line in own if line.complete(metric)]
                shift = (index - (len(several) - 1) / 2) * 0.008 * numbers[-1]
                handles[name] = axis.errorbar(
                    [_fitted(line) + shift for line in known],
                    [line.mean(metric) for line in known],
                    yerr=[_deviation(line, metric) for line in known],
                    color=COLOURS[index % len(COLOURS)],
                    marker=MARKERS[index % len(MARKERS)],
                    markersize=3.6,
                    elinewidth=0.8,
                    capsize=1.5,
                )
            axis.set_ylabel(metric_name(metric))
            _finish(axis, numbers)
        axes[-1, 0].set_xlabel("Real images that the generator was fitted on")
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=columns)
    return figure


def _fitted(line: Line) -> int:
    """Return how many real images a generator was fitted on; of folds, the most."""
    return round(max(n.n_fit for n in line.numbers))


def _deviation(line: Line, metric: str) -> float:
    """Return the standard deviation between the sample sets of one fold; 0, which draws nothing, without one."""
    found = line.mean(between_sets(metric)) if len(line.folds) == 1 else math.nan
    return 0.0 if math.isnan(found) else found


def mask_areas_by_real_figure(results: StudyResults) -> Figure | None:
    """Draw how much of an image is polyp for each number of real images (paper B, Figure 10).

    A column a number; above the real masks that the generators were compared with, below the synthetic ones, a row a
    generator. Generators of equal masks, such as one before and after refinement, share a row. The number of masks
    stands in each panel; of folds, the first is drawn.

    Returns:
        The figure; None when no generator's areas were measured after fits on different numbers of images.
    """
    generators = {
        name: pools
        for name, pools in pools_by_generator(results).items()
        if len(pools) > 1 and all(m.areas is not None and m.real_areas is not None for m in pools.values())
    }
    if not generators:
        return None
    rows = together(generators, _same)
    numbers = sorted({number for _, pools in rows for number in pools})
    blocks = [numbers[first : first + COLUMNS] for first in range(0, len(numbers), COLUMNS)]
    columns, lines = legend_rows(["real", *(", ".join(names) for names, _ in rows)])
    height = 0.62 * len(blocks) * (1 + len(rows)) + 0.35 + 0.16 * lines
    size = {"nrows": len(blocks) * (1 + len(rows)), "ncols": min(COLUMNS, len(numbers))}
    with canvas(height, sharex=True, sharey=True, **size) as (figure, axes):
        handles: dict[str, Any] = {}
        for block, shown in enumerate(blocks):
            top = block * (1 + len(rows))
            for column, number in enumerate(shown):
                compared = next(other[number] for _, other in rows if number in other)
                axes[top, column].set_title(f"n = {number}", fontsize=7)
                handles["real"] = _areas(axes[top, column], compared.real_areas, GREY)
                for row, (names, other) in enumerate(rows):
                    axis = axes[top + 1 + row, column]
                    if number in other:
                        colour = COLOURS[row % len(COLOURS)]
                        handles[", ".join(names)] = _areas(axis, other[number].areas, colour)
            for column in range(len(shown), axes.shape[1]):
                # The last histogram of each column has the numbers below it.
                axes[top - 1, column].tick_params(labelbottom=True)
                for axis in axes[top : top + 1 + len(rows), column]:
                    axis.set_axis_off()
        for axis in axes.flat:
            axis.set_xlim(0, BIN * BINS)
            axis.set_xticks((0, 50, 100))
            axis.tick_params(labelsize=6)
        figure.supylabel("Share of the masks (%)", fontsize=8)
        figure.supxlabel("Share of the image that is polyp (%)", fontsize=8)
        figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=columns)
    return figure


def _same(first: dict[int, Measured], second: dict[int, Measured]) -> bool:
    """Say whether two generators made the same masks."""
    return first.keys() == second.keys() and all(same_areas([first[n]], [second[n]]) for n in first)


def _areas(axis: Any, areas: Any, colour: str) -> Any:
    """Draw one histogram with its number of masks; return what stands for it in a legend."""
    shares, edges = area_shares(areas)
    axis.text(0.97, 0.94, f"{len(areas)}", transform=axis.transAxes, ha="right", va="top", fontsize=6)
    return axis.stairs(shares, edges, fill=True, color=colour, alpha=0.75)


SCORE_BY_REAL = FigureSpec(
    "score-by-real",
    "Score against the number of real images",
    "A training set without real images stands on those that its generators were fitted on. Whiskers: 95 % "
    "intervals over images and training runs; hollow: control arms. An axis with two strokes at its foot does not "
    "begin at 0.",
    lambda findings: [Panel(score_by_real_figure(findings.results, findings.primary))],
    place=20,
)

FIDELITY_BY_REAL = FigureSpec(
    "fidelity-by-real",
    "Distance from real images against their number",
    "Whiskers: standard deviation between sample sets, where there are several. FID of few images is biased "
    "upwards, the more the fewer they are, so that its fall need not be an improvement. An axis with two strokes "
    "at its foot does not begin at 0.",
    lambda findings: [Panel(fidelity_by_real_figure(findings.results))],
    place=90,
)

MASK_AREAS_BY_REAL = FigureSpec(
    "mask-areas-by-real",
    "How much of an image is polyp, by number of real images",
    "Share of masks in each 5 % of polyp area: above, the real masks that a generator is compared with; below, "
    "those that it made after a fit on n of them. In each panel the number of masks.",
    lambda findings: [Panel(mask_areas_by_real_figure(findings.results))],
    place=140,
)

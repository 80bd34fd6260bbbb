"""Figures of what was measured of generators: checkpoint selection, mask areas, mask diversity, closest pairs."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from harness.report.figures.style import COLOURS, GREY, MARKERS, canvas
from harness.report.format import listed, metric_name, number
from harness.report.tables.fidelity_rows import largest_fits
from harness.report.tables.selection import as_number, chosen_step, metrics_of, selections
from harness.results.catalogue import FigureSpec, Panel

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from harness.report.findings import Findings
    from harness.results.schema import Measured, StudyResults

T = TypeVar("T")

#: Pairs in a figure of closest pairs, and real masks in one of mask diversity.
PAIRS, MASKS = 6, 4
#: Bins of polyp area in per cent, as in the papers' histograms.
BIN, BINS = 5, 20
#: Characters of a panel's title that fit in one line.
LONGEST_TITLE = 50


def selection_figure(results: StudyResults) -> Figure | None:
    """Draw the metrics that checkpoints were selected by against the step, a panel a metric, a line a part and fold.

    Returns:
        The figure; None when no selection has a result.
    """
    curves: dict[str, list[tuple[Sequence[Mapping[str, Any]], int | None]]] = {}
    metrics: dict[str, None] = {}
    for cell, folds in selections(results).items():
        for rows in folds.values():
            if known := [row for row in rows if row["step"] is not None]:
                curves.setdefault(cell, []).append((known, chosen_step(known)))
                metrics |= dict.fromkeys(metrics_of(known))
    if not curves:
        return None
    return _draw_curves(curves, list(metrics))


def _draw_curves(
    curves: Mapping[str, Sequence[tuple[Sequence[Mapping[str, Any]], int | None]]], metrics: list[str]
) -> Figure:
    """Draw selections by name; those of one name (its folds) share a colour and a marker."""
    names = list(curves) if len(curves) > 1 else []
    everything = [(rows, chosen) for selected in curves.values() for rows, chosen in selected]
    marks = ["chosen"] if any(chosen is not None for _, chosen in everything) else []
    marks += ["cannot be chosen"] if any(row.get("problem") for rows, _ in everything for row in rows) else []
    height = 1.6 * len(metrics) + 0.4 + 0.16 * -(-(len(names) + len(marks)) // 2)
    with canvas(height, nrows=len(metrics), sharex=True) as (figure, axes):
        from matplotlib.lines import Line2D

        handles: dict[str, Any] = {}
        for axis, metric in zip(axes[:, 0], metrics, strict=True):
            for index, (name, selected) in enumerate(curves.items()):
                look: dict[str, Any] = {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)]}
                for rows, chosen in selected:
                    _curve(axis, rows, chosen, metric, look)
                if name in names:
                    handles[name] = Line2D([], [], markersize=3, markerfacecolor="white", **look)
            axis.set_ylabel(metric_name(metric))
            axis.grid(axis="y", color="#e6e6e6", linewidth=0.5)
            axis.set_axisbelow(True)
        axes[-1, 0].locator_params(axis="x", nbins=5, integer=True)
        axes[-1, 0].set_xlabel("Checkpoint step")
        chosen_colour = GREY if names else COLOURS[0]
        looks: dict[str, dict[str, Any]] = {
            "chosen": {"color": chosen_colour, "marker": MARKERS[0], "markersize": 6},
            "cannot be chosen": {"color": GREY, "marker": "x", "markersize": 5},
        }
        handles |= {mark: Line2D([], [], linestyle="none", **looks[mark]) for mark in marks}
        if handles:
            figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=2)
    return figure


def _curve(
    axis: Any, rows: Sequence[Mapping[str, Any]], chosen: int | None, metric: str, look: Mapping[str, Any]
) -> None:
    """Draw one selection by one metric; what cannot be chosen is a cross, on the axis where it has no value."""
    points = sorted((int(row["step"]), as_number(row.get(metric)), bool(row.get("problem"))) for row in rows)
    usable = [(step, value) for step, value, problem in points if not problem and math.isfinite(value)]
    axis.plot(*_columns(usable), markersize=3, markerfacecolor="white", **look)
    axis.plot(*_columns([p for p in usable if p[0] == chosen]), markersize=6, linestyle="none", zorder=3, **look)
    cross: dict[str, Any] = {"color": GREY, "marker": "x", "markersize": 5, "linestyle": "none"}
    axis.plot(*_columns([(s, value) for s, value, problem in points if problem and math.isfinite(value)]), **cross)
    without = [(step, 0.0) for step, value, problem in points if problem and not math.isfinite(value)]
    if without:  # an empty line that is not clipped has no extent, and the layout falls apart over it
        axis.plot(*_columns(without), transform=axis.get_xaxis_transform(), clip_on=False, **cross)


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def area_shares(areas: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return which share of masks, in per cent, lies in each bin of polyp area, and the edges of the bins in per cent.

    Args:
        areas: shares of an image that are polyp, (N,), 0 to 1.

    Returns:
        (``BINS``,) and (``BINS`` + 1,). An area on an edge lies in the bin above it, 100 % in the last one.
    """
    import numpy as np

    edges = np.arange(BINS + 1, dtype=np.float64) * BIN
    # Rounding must not move an area on an edge into the bin below.
    counts, _ = np.histogram((100 * areas).round(9), edges)
    return 100 * counts / len(areas), edges


def same_areas(first: Sequence[Measured], second: Sequence[Measured]) -> bool:
    """Say whether two generators made masks of the same areas in every fold: as one does before and after refinement
    of its images."""
    import numpy as np

    return len(first) == len(second) and all(
        one.areas is not None and other.areas is not None and np.array_equal(one.areas, other.areas)
        for one, other in zip(first, second, strict=True)
    )


def together(found: Mapping[str, T], same: Callable[[T, T], bool]) -> list[tuple[list[str], T]]:
    """Return what belongs to each name, with the names that have the same in one entry."""
    entries: list[tuple[list[str], T]] = []
    for name, item in found.items():
        alike = next((names for names, other in entries if same(other, item)), None)
        if alike is None:
            entries.append(([name], item))
        else:
            alike.append(name)
    return entries


def mask_areas_figure(measurements: Sequence[Measured]) -> Figure | None:
    """Draw how much of an image is polyp (paper B, Figures 3 and 6): real masks, then a panel a generator.

    Heights are shares of the masks, so that sets of different sizes compare; folds are pooled. Generators of the same
    masks, such as one before and after refinement, share a panel.

    Returns:
        The figure; None when no areas were measured.
    """
    import numpy as np

    pooled: dict[str, list[Measured]] = {}
    for measured in sorted(measurements, key=lambda m: m.arm != "real"):
        if measured.areas is not None and measured.real_areas is not None:
            pooled.setdefault(measured.cell, []).append(measured)
    if not pooled:
        return None

    def joined(folds: list[Measured], name: str) -> Any:
        return np.concatenate([getattr(measured, name) for measured in folds])

    panels = together(pooled, same_areas)
    # Against what each generator has seen, the real masks differ; the largest set holds the others.
    largest = max(panels, key=lambda panel: len(joined(panel[1][:1], "real_areas")))
    real = joined(largest[1], "real_areas")
    titles = [f"{listed(names)}, {len(joined(folds, 'areas'))} masks" for names, folds in panels]
    titles = [textwrap.fill(title, LONGEST_TITLE) for title in titles]
    height = 0.75 * (1 + len(panels)) + 0.45 + 0.13 * sum(title.count("\n") for title in titles)
    with canvas(height, nrows=1 + len(panels), sharex=True, sharey=True) as (figure, axes):
        shares, edges = area_shares(real)
        axes[0, 0].stairs(shares, edges, fill=True, color="#b0b0b0")
        axes[0, 0].stairs(shares, edges, color="black", linewidth=0.8)
        axes[0, 0].set_title(f"real, {len(real)} masks", loc="left")
        generators = [names for names, folds in panels if folds[0].arm != "real"]
        for axis, title, (names, folds) in zip(axes[1:, 0], titles, panels, strict=True):
            colour = COLOURS[generators.index(names) % len(COLOURS)] if names in generators else GREY
            axis.stairs(area_shares(joined(folds, "areas"))[0], edges, fill=True, color=colour, alpha=0.75)
            axis.stairs(area_shares(joined(folds, "real_areas"))[0], edges, color="black", linewidth=0.8)
            axis.set_title(title, loc="left")
        for axis in axes[:, 0]:
            axis.set_xlim(0, BIN * BINS)
            axis.set_xticks(range(0, BIN * BINS + 1, 20))
        figure.supylabel("Share of the masks (%)", fontsize=8)
        axes[-1, 0].set_xlabel("Share of the image that is polyp (%)")
    return figure


def with_diversity(results: StudyResults) -> list[tuple[str, Measured]]:
    """Return the first fold of each generator that made several masks from one, with what to call it.

    Generators of the same masks, such as one before and after refinement, are called by all of their names.
    """
    found: dict[str, Measured] = {}
    for measured in largest_fits(results):
        if measured.diversity is not None:
            found.setdefault(measured.cell, measured)
    return [(listed(names), measured) for names, measured in together(found, _same_diversity)]


def _same_diversity(first: Measured, second: Measured) -> bool:
    import numpy as np

    one, other = first.diversity, second.diversity
    assert one is not None
    assert other is not None
    same = (one.counts, one.ids) == (other.counts, other.ids)
    return same and np.array_equal(one.mean, other.mean) and np.array_equal(one.deviation, other.deviation)


def with_closest(results: StudyResults) -> list[Measured]:
    """Return for each generator the fold that tells most about copies: a flagged one, else the one lying closest."""
    found: dict[str, Measured] = {}

    def order(measured: Measured) -> tuple[bool, float]:
        return not measured.copies, float(measured.closest.distances[0]) if measured.closest else math.inf

    for measured in largest_fits(results):
        if measured.closest is not None:
            found[measured.cell] = min(found.get(measured.cell, measured), measured, key=order)
    return list(found.values())


def mask_diversity_figure(measured: Measured) -> Figure | None:
    """Draw how the masks made from one real mask differ (paper B, Figure 5), a row a real mask.

    Bright is high in both: the colour bars say so, which the paper's text and its figure disagree on.

    Returns:
        The figure; None when no several masks were made from one.
    """
    diversity = measured.diversity
    if diversity is None or not len(diversity.masks):
        return None
    count = min(MASKS, len(diversity.masks))
    ratios = {"height_ratios": [1.0] * count + [0.06]}
    with canvas(0.92 * count + 0.45, nrows=count + 1, ncols=3, gridspec_kw=ratios) as (figure, axes):
        for row in range(count):
            axes[row, 0].imshow(diversity.masks[row], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            mean = axes[row, 1].imshow(diversity.mean[row], cmap="cividis", vmin=0, vmax=1, interpolation="nearest")
            spread = axes[row, 2].imshow(
                diversity.deviation[row], cmap="cividis", vmin=0, vmax=0.5, interpolation="nearest"
            )
            axes[row, 0].set_ylabel(f"{diversity.counts[row]} masks", rotation=0, ha="right", va="center", fontsize=6.5)
        for axis in (*axes[:-1].flat, axes[-1, 0]):
            _bare(axis)
        for axis, title in zip(axes[0], ("real mask", "mean", "standard deviation"), strict=True):
            axis.set_title(title, fontsize=7)
        for column, image, ticks in ((1, mean, (0, 0.5, 1)), (2, spread, (0, 0.25, 0.5))):
            bar = figure.colorbar(image, cax=axes[-1, column], orientation="horizontal", ticks=ticks)
            bar.ax.tick_params(labelsize=6.5)
            bar.outline.set_linewidth(0.4)
    return figure


def _bare(axis: Any) -> None:
    """Take ticks and frame from a picture."""
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_visible(False)


def closest_figure(measured: Measured) -> Figure | None:
    """Draw the images that lie closest to training images above those, with the distance in grey levels.

    Returns:
        The figure; None when memorisation was not measured.
    """
    from harness.report.figures.image_grids import tiles, wrapped

    closest = measured.closest
    if closest is None or not len(closest.distances):
        return None
    count = min(PAIRS, len(closest.distances))
    rows = [[pictures[i] for i in range(count)] for pictures in (closest.synthetic, closest.real)]
    with canvas(1.5, nrows=2, ncols=max(count, 3)) as (figure, axes):
        tiles(figure, axes, rows, [wrapped(measured.cell), "nearest\ntraining\nimage"])
        for axis, distance in zip(axes[0], closest.distances[:count], strict=False):
            axis.set_title(number(float(distance), 1), fontsize=6.5)
        flag = ", flagged as copies" if measured.copies else ""
        figure.suptitle(
            f"{measured.cell}{flag}: distance in grey levels", fontsize=8, color=COLOURS[1] if flag else "black"
        )
    return figure


def _mask_diversity(findings: Findings) -> Iterator[Panel]:
    for position, (name, measured) in enumerate(with_diversity(findings.results)):
        yield Panel(mask_diversity_figure(measured), position, f"Masks of {name} made from one real mask")


def _closest(findings: Findings) -> Iterator[Panel]:
    for position, measured in enumerate(with_closest(findings.results)):
        yield Panel(closest_figure(measured), position, f"Closest training images of {measured.cell}")


SELECTION = FigureSpec(
    "selection",
    "Checkpoint selection",
    "What each checkpoint scored on the images it was selected by. Large: the chosen one; cross: cannot be chosen "
    "(on the axis: it has no value).",
    lambda findings: [Panel(selection_figure(findings.results))],
    place=70,
)

MASK_AREAS = FigureSpec(
    "mask-areas",
    "How much of an image is polyp",
    "Share of masks in each 5 % of polyp area; the black line is that of the real masks.",
    lambda findings: [Panel(mask_areas_figure(largest_fits(findings.results)))],
    place=130,
)

MASK_DIVERSITY = FigureSpec(
    "mask-diversity",
    "Masks of a generator made from one real mask",
    "A real mask, the pixel-wise mean of the synthetic masks made from it, and their standard deviation. "
    "Bright is high in both.",
    _mask_diversity,
    place=150,
)

CLOSEST = FigureSpec(
    "closest",
    "Closest training images of a generator",
    "The images that lie closest to a training image, above that image, with the distance in grey levels.",
    _closest,
    place=160,
)

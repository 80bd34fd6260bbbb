"""Figures of scores: against the number of synthetic images, and differences from the baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from harness.report.figures.style import COLOURS, GREY, MARKERS, canvas, mark_cut, whiskers
from harness.report.format import metric_name, metric_with_reduction
from harness.report.wording import Recipe, recipes
from harness.results.catalogue import FigureSpec, Panel

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from harness.results.schema import StudyResults
    from harness.stats import Effect, Score
    from harness.stats.study import Sweep
    from harness.stats.sweep import Curve


def shown_scores(results: StudyResults, listed: list[Score]) -> list[tuple[Score, Recipe]]:
    """Return the complete scores of the first evaluated role, each with its recipe."""
    known = recipes(results)
    place = listed[0].key[:2] if listed else ()
    return [(s, known[s.key.recipe]) for s in listed if s.complete and s.key[:2] == place and s.key.recipe in known]


def ratio_figure(results: StudyResults, listed: list[Score], sweeps: Sequence[Sweep] = ()) -> Figure | None:
    """Draw the primary metric against the number of synthetic images, a panel a segmenter, a line a generator.

    Whiskers are 95 % intervals; the band is the baseline (real images only); control arms have hollow markers and no
    line (paper B, Figure 9, is drawn so). A sweep has its curve in place of a line, with its 95 % band.

    Returns:
        The figure; None when no arm has synthetic images, or when their number varies with that of the real
        ones only: that is :func:`harness.report.figures.learning_curves.score_by_real_figure`'s.
    """
    known = {recipe.label: recipe for _, recipe in shown_scores(results, listed)}
    shown = [score for score, _ in shown_scores(results, listed)]
    if not any(recipe.synthetic for recipe in known.values()) or _varies_with_real_only(list(known.values())):
        return None
    segmenters = [name for name in results.segmenters if any(s.key.segmenter == name for s in shown)]
    looks = _looks(results, [known[s.key.recipe] for s in shown])
    height = 1.75 * len(segmenters) + 0.3 + 0.16 * -(-len(looks) // 2)
    with canvas(height, nrows=len(segmenters), sharex=True) as (figure, axes):
        handles: dict[str, Any] = {}
        for axis, segmenter in zip(axes[:, 0], segmenters, strict=True):
            own = [s for s in shown if s.key.segmenter == segmenter]
            curves = {(sweep.base, sweep.generator): sweep.curve for sweep in sweeps if sweep.place == own[0].key[:3]}
            _ratio_panel(axis, own, known, looks, set(results.comparison.baselines.values()), handles, curves)
            axis.set_title(segmenter, loc="left")
            axis.set_ylabel(metric_name(results.comparison.metric))
            mark_cut(axis)
        axes[-1, 0].set_xlabel("Synthetic or control images in the training set")
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=2)
    return figure


def _varies_with_real_only(listed: list[Recipe]) -> bool:
    """Say whether no line would have two points, but a generator would have two lines."""
    lines = [_group(recipe) for recipe in listed if recipe.synthetic]
    return len(set(lines)) == len(lines) > len({(r.generator, r.arm) for r in listed if r.synthetic})


def _base(recipe: Recipe) -> tuple[int, int]:
    """Return the real images of a recipe and, where it has none, those that its generators were fitted on."""
    return recipe.real, 0 if recipe.real else recipe.n_fit


def _line_name(recipe: Recipe, bases: list[tuple[int, int]]) -> str:
    """Return the legend entry of an arm: its generator, with the real images when these vary."""
    real, seen = _base(recipe)
    base = ""
    if len(bases) > 1:
        several = sum(other == 0 for other, _ in bases) > 1
        base = f", fitted on {seen} real" if several and not real else f", {real} real"
    return f"{recipe.generator or 'real only'}{base}" + (" (control)" if recipe.arm == "control" else "")


def _looks(results: StudyResults, listed: list[Recipe]) -> dict[tuple[tuple[int, int], str, str], dict[str, Any]]:
    """Give every line (real images, generator, arm or control) a colour, a marker and a dash."""
    bases = sorted({_base(r) for r in listed if r.synthetic})
    order = list(dict.fromkeys([*results.generators, *(r.generator for r in listed if r.synthetic)]))
    dashes = ("-", "--", ":", "-.")
    looks: dict[tuple[tuple[int, int], str, str], dict[str, Any]] = {}
    for recipe in listed:
        if not recipe.synthetic:
            continue
        control = recipe.arm == "control"
        index = order.index(recipe.generator)
        looks[_group(recipe)] = {
            "label": _line_name(recipe, bases),
            "color": COLOURS[index % len(COLOURS)] if not control else GREY,
            "marker": MARKERS[index % len(MARKERS)],
            "linestyle": "none" if control else dashes[bases.index(_base(recipe)) % len(dashes)],
            "markerfacecolor": "white" if control else None,
        }
    return looks


def _ratio_panel(
    axis: Any,
    own: list[Score],
    known: dict[str, Recipe],
    looks: dict[tuple[tuple[int, int], str, str], dict[str, Any]],
    baselines: set[str],
    handles: dict[str, Any],
    curves: Mapping[tuple[int, str], Curve],
) -> None:
    """Draw one segmenter: bands for real-only arms, then lines, set apart so that whiskers do not hide each other."""
    widest = max(known[s.key.recipe].synthetic for s in own)
    bands = [s for s in own if not known[s.key.recipe].synthetic]
    bands = [s for s in bands if s.key.recipe in baselines] or bands
    for index, score in enumerate(bands):
        colour = ("#9a9a9a", "#c9b37e", "#8fb0c9")[index % 3]
        line = axis.axhline(score.mean, color=colour, linewidth=1.0, zorder=1)
        if score.low == score.low:
            axis.axhspan(score.low, score.high, color=colour, alpha=0.22, linewidth=0, zorder=0)
        handles.setdefault(f"{score.key.recipe} (real only)", line)
    for index, (group, look) in enumerate(looks.items()):
        points = sorted(
            (s for s in own if known[s.key.recipe].synthetic and _group(known[s.key.recipe]) == group),
            key=lambda s: known[s.key.recipe].synthetic,
        )
        if not points:
            continue
        shift = (index - (len(looks) - 1) / 2) * 0.012 * widest
        x = [known[s.key.recipe].synthetic + shift for s in points]
        style = {k: v for k, v in look.items() if k != "label" and v is not None}
        curve = curves.get((group[0][0], group[1])) if group[2] != "control" else None
        if curve is not None:
            axis.plot(curve.counts, curve.scores, color=look["color"], linestyle=look["linestyle"], zorder=2)
            axis.fill_between(curve.counts, curve.low, curve.high, color=look["color"], alpha=0.12, linewidth=0)
            style["linestyle"] = "none"
        handles.setdefault(look["label"], whiskers(axis, x, points, **style))
    axis.set_xlim(-0.04 * widest, 1.06 * widest)
    axis.grid(axis="y", color="#e6e6e6", linewidth=0.5)
    axis.set_axisbelow(True)


def _group(recipe: Recipe) -> tuple[tuple[int, int], str, str]:
    """Return which line an arm belongs to."""
    return _base(recipe), recipe.generator, "control" if recipe.arm == "control" else ""


def comparison_figure(results: StudyResults, effects: list[Effect]) -> Figure | None:
    """Draw every difference from the baseline with its simultaneous 95 % interval, one line a comparison.

    Filled: a verdict; hollow: no evidence either way; cross: not comparable; band: the margin, where one is declared.
    """
    shown = [e for e in effects if e.difference == e.difference]
    if not shown:
        return None
    segmenters = list(dict.fromkeys(e.key.segmenter for e in shown))
    counts = [sum(e.key.segmenter == name for e in shown) for name in segmenters]
    height = 0.17 * sum(counts) + 0.32 * len(segmenters) + 0.75
    several = len({e.key[:2] for e in shown}) > 1
    with canvas(height, nrows=len(segmenters), sharex=True, gridspec_kw={"height_ratios": counts}) as (figure, axes):
        for axis, segmenter in zip(axes[:, 0], segmenters, strict=True):
            own = [e for e in shown if e.key.segmenter == segmenter]
            for row, effect in enumerate(own):
                _difference(axis, row, effect)
            axis.axvline(0, color="#444444", linewidth=0.7, zorder=0)
            if results.comparison.margin == results.comparison.margin:
                axis.axvspan(-results.comparison.margin, results.comparison.margin, color="#dfe8df", zorder=-1)
            axis.set_yticks(range(len(own)), [e.key.recipe + (f" · {e.key.dataset}" if several else "") for e in own])
            axis.set_ylim(len(own) - 0.4, -0.6)
            axis.tick_params(axis="y", length=0)
            axis.set_title(segmenter, loc="left")
            axis.grid(axis="x", color="#e6e6e6", linewidth=0.5)
            axis.set_axisbelow(True)
        name = metric_with_reduction(results.comparison.metric, results.comparison.reduction)
        axes[-1, 0].set_xlabel(f"Difference from the baseline\n{name}")
    return figure


def _difference(axis: Any, row: int, effect: Effect) -> None:
    """Draw one comparison."""
    colour = {"helps": COLOURS[0], "hurts": COLOURS[1]}.get(effect.verdict, GREY)
    marker = "x" if effect.verdict == "not comparable" else "o"
    face = {"no evidence either way": "white"}.get(effect.verdict, colour)
    if effect.low == effect.low:
        axis.plot([effect.low, effect.high], [row, row], color=colour, linewidth=1.1, solid_capstyle="butt")
    axis.plot(
        [effect.difference], [row], marker=marker, markersize=4, color=colour, markerfacecolor=face, linestyle="none"
    )


RATIO = FigureSpec(
    "ratio",
    "Score against the number of synthetic images",
    "Whiskers: 95 % intervals over images and training runs; band: real images only; hollow: control arms. An axis "
    "with two strokes at its foot does not begin at 0. Where a generator has three or more numbers, counting none, a "
    "curve towards a level runs through them, with its 95 % band.",
    lambda findings: [Panel(ratio_figure(findings.results, findings.primary, findings.sweeps))],
    place=10,
)

COMPARISON = FigureSpec(
    "comparison",
    "Difference from the baseline",
    "Lines: simultaneous 95 % intervals. Coloured: helps or hurts; filled grey: no relevant difference; hollow: no "
    "evidence either way; cross: not comparable; band: the margin below which a difference does not matter, if any.",
    lambda findings: [Panel(comparison_figure(findings.results, findings.effects))],
    place=30,
)

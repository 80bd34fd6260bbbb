"""The style of the house: width, colours and marks of every figure, and how one is written.

Vector PDF and PNG at the width of one column (3.5 inches), in the Okabe-Ito palette that colour-blind readers can tell
apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from harness.stats import Score

WIDTH = 3.5
#: Okabe and Ito (2008), black last.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "#6b6b6b"
#: Most characters of a legend entry of which two stand beside each other.
LONGEST_IN_TWO = 27

_STYLE: Any = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "legend.frameon": False,
    "pdf.fonttype": 42,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.hashsalt": "harness",
}


@contextmanager
def house_style() -> Iterator[None]:
    """Draw in the style of the house until left; matplotlib's global settings are as before afterwards."""
    import matplotlib

    with matplotlib.rc_context(_STYLE):
        yield


@contextmanager
def canvas(height: float, width: float = WIDTH, **arguments: Any) -> Iterator[tuple[Any, Any]]:
    """Give a figure and its axes, a 2D array, in the style of the house.

    Args:
        height: of the figure, inches.
        width: inches.
        arguments: of matplotlib's ``Figure.subplots``.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with house_style():
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure, figure.subplots(squeeze=False, **arguments)


def save(figure: Figure | None, stem: Path) -> bool:
    """Write ``stem.pdf`` and ``stem.png`` without dates or versions, so that equal figures are equal files.

    Returns:
        False when there is no figure: nothing is written.
    """
    if figure is None:
        return False
    plain = {"Creator": None, "Producer": None, "CreationDate": None}
    with house_style():
        figure.savefig(stem.with_suffix(".pdf"), metadata=plain)
        figure.savefig(stem.with_suffix(".png"), dpi=220, metadata={"Software": None})
    return True


def mark_cut(axis: Any) -> None:
    """Put two strokes across the foot of a vertical axis that does not begin at 0, so that nobody reads it as if it
    did."""
    if axis.get_ylim()[0] > 0:
        strokes: Any = {"marker": [(-1, -0.5), (1, 0.5)], "markersize": 6, "linestyle": "none", "color": "black"}
        axis.plot([0, 0], [0.05, 0.1], transform=axis.transAxes, clip_on=False, markeredgewidth=0.6, **strokes)


def whiskers(axis: Any, x: list[float], points: list[Score], **style: Any) -> Any:
    """Draw scores with their 95 % intervals; one without an interval has no whiskers."""
    below = [max(s.mean - s.low, 0.0) if s.low == s.low else 0.0 for s in points]
    above = [max(s.high - s.mean, 0.0) if s.high == s.high else 0.0 for s in points]
    means = [s.mean for s in points]
    return axis.errorbar(x, means, yerr=[below, above], markersize=3.6, elinewidth=0.8, capsize=1.5, **style)


def legend_rows(names: Sequence[str]) -> tuple[int, int]:
    """Return columns and rows of a legend below a figure: two columns when all names fit beside each other."""
    columns = 2 if max((len(name) for name in names), default=0) <= LONGEST_IN_TWO else 1
    return columns, -(-len(names) // columns)

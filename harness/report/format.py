"""How metrics and numbers look in print; imports nothing heavy."""

from __future__ import annotations

from collections.abc import Sequence

from harness.metrics.segmentation.scores import REDUCTIONS as REDUCTIONS
from harness.metrics.spec import quantity_called


def metric_name(metric: str) -> str:
    """Return the printed name of a metric, or of what belongs beside one."""
    return quantity_called(metric).label


def digits_of(metric: str) -> int:
    """Return how many decimals of a generator's measurement are printed."""
    return quantity_called(metric).digits


def metric_with_reduction(metric: str, reduction: str) -> str:
    """Return a metric's printed name with its reduction in brackets."""
    return f"{metric_name(metric)} ({reduction})" if reduction else metric_name(metric)


def listed(cells: Sequence[str]) -> str:
    """Return generators in one line; what all of them were fitted on (``on 12 real``) stands once, at the end."""
    names, fits = zip(*(cell.partition(" on ")[::2] for cell in cells), strict=True)
    return f"{', '.join(names)} on {fits[0]}" if len(set(fits)) == 1 and fits[0] else ", ".join(cells)


def number(value: float, digits: int = 3) -> str:
    """Print a number with a true minus sign, a dash for NaN, and never a negative zero."""
    if value != value:
        return "–"
    text = f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("-")
    return text.replace("-", "−")


def signed(value: float, digits: int = 3) -> str:
    """Print a difference with its sign."""
    text = number(value, digits)
    return text if text.startswith(("−", "–")) or not float(text) else f"+{text}"


def interval(low: float, high: float, digits: int = 3, *, sign: bool = False) -> str:
    """Print an interval in brackets, or nothing when there is none."""
    if low != low or high != high:
        return ""
    show = signed if sign else number
    return f"[{show(low, digits)}, {show(high, digits)}]"


def p_value(p: float) -> str:
    """Print a p value; the smallest ones as a bound."""
    if p != p:
        return "–"
    return "<0.001" if p < 0.001 else f"{p:.3f}"

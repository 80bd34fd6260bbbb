"""How long the rest of a plan should take, from how long such stages have taken before."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median

from harness.engine.graph import Stage
from harness.engine.stages import kinds
from harness.store.results import Store


def estimate_seconds(stages: Iterable[Stage], store: Store, jobs: int = 1) -> tuple[float, int]:
    """Return the seconds that stages should take, and for how many of them nothing is known.

    A stage takes in proportion to its amount of work, at the median rate of stages of the same work; failing those, of
    its kind, where that says something.

    Args:
        stages: those that are left.
        store: where past durations are noted.
        jobs: stages at once.
    """
    rates: dict[str, list[float]] = {}
    known_kinds = kinds()
    for row in store.durations():
        rate = row["seconds"] / max(row["amount"], 1e-9)
        rates.setdefault(row["work"], []).append(rate)
        # What a step of a generator takes, or a sample of it, differs a thousandfold.
        if row["kind"] in known_kinds and known_kinds[row["kind"]].thing.comparable:
            rates.setdefault(row["kind"], []).append(rate)
    total, unknown = 0.0, 0
    for stage in stages:
        known = rates.get(stage.work) or rates.get(stage.kind)
        if known:
            total += median(known) * stage.amount
        else:
            unknown += 1
    return total / jobs, unknown


def in_words(seconds: float) -> str:
    """Return a duration for people: ``40 s``, ``12 min``, ``3.5 h``, ``2.1 days``."""
    for limit, unit, name in ((90, 1, "s"), (90 * 60, 60, "min"), (36 * 3600, 3600, "h")):
        if seconds < limit:
            value = seconds / unit
            return f"{value:.1f} {name}" if name == "h" else f"{value:.0f} {name}"
    return f"{seconds / 86400:.1f} days"

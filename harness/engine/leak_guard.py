"""The leak guard: nothing is scored on an image that anything used to make it has seen.

What a segmenter has seen is its training pairs with their lineage (what their generators, refiners and checkpoint
selections have seen) and the pairs its own checkpoint was selected on. That is intersected with the images it is scored
on: by id, by group (patient, video, near-duplicate frame), and across datasets by comparing the frames themselves. An
imported image that a generator made stands for the real ones behind it, whether it was learned from or is scored.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Leak:
    """One scored image that was seen.

    Attributes:
        scored: id of the scored image.
        seen: id of the image that was seen: the same, or one of its group or a near-duplicate.
        how: by what, such as ``the segmenter was trained on it``.
        source: of the scored image, where that is one that a generator made: the one that was seen; else empty.
    """

    scored: str
    seen: str
    how: str
    source: str = ""

    def __str__(self) -> str:
        same = "" if self.seen == self.scored else f" (near-duplicate or group of {self.seen})"
        if self.source:
            same = f" (made from {self.source})"
        return f"{self.scored}{same}: {self.how}"


def find_leaks(
    seen: Mapping[str, str],
    scored: Iterable[str],
    groups: Mapping[str, str],
    same_frame: Mapping[str, Iterable[str]] | None = None,
    made_from: Mapping[str, Iterable[str]] | None = None,
) -> list[Leak]:
    """Return every scored image that was seen.

    Args:
        seen: how each real id was seen.
        scored: ids that are about to be scored on.
        groups: group of every id of the datasets involved; an id without one is a group of its own.
        same_frame: for ids of the scored dataset, ids of another that show the same frame.
        made_from: for ids of imported samples, the real ids that they were made from.

    Returns:
        One leak a scored id, in the order of ``scored``; empty when nothing leaks.
    """
    made_from = made_from or {}
    known = dict(seen)
    for name, how in seen.items():
        for source in sorted(made_from.get(name, ())):
            known.setdefault(source, f"{how.removesuffix(' it')} {name}, which was made from it")
    by_group: dict[str, str] = {}
    for name in known:
        by_group.setdefault(groups.get(name, name), name)
    # A group reaches across datasets: through a frame that is in both, what one of its frames has seen all have.
    for name, twins in (same_frame or {}).items():
        for twin in twins:
            witness = by_group.get(groups.get(twin, twin))
            if witness is not None:
                by_group.setdefault(groups.get(name, name), witness)
    leaks = []
    for name in scored:
        for candidate in (name, *sorted(made_from.get(name, ()))):
            witness = candidate if candidate in known else by_group.get(groups.get(candidate, candidate))
            if witness is not None:
                leaks.append(Leak(name, witness, known[witness], "" if candidate == name else candidate))
                break
    return leaks


def describe(leaks: list[Leak]) -> str:
    """Return one sentence that names how many images leak, the first of them, and what to do."""
    hows = ", ".join(sorted({leak.how for leak in leaks}))
    return (
        f"{len(leaks)} of the images it would be scored on were seen ({hows}), the first is {leaks[0]}. "
        "Change the split, or declare protocol: published to score it anyway with a leak mark."
    )

"""The leak guard: nothing is scored on an image that anything used to make it has seen.

What a segmenter has seen is its training pairs with their lineage (what their generators, refiners and checkpoint
selections have seen) and the pairs its own checkpoint was selected on. That is intersected with the images it is scored
on: by id, by group (patient, video, near-duplicate frame), and across datasets by comparing the frames themselves.
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
    """

    scored: str
    seen: str
    how: str

    def __str__(self) -> str:
        same = "" if self.seen == self.scored else f" (near-duplicate or group of {self.seen})"
        return f"{self.scored}{same}: {self.how}"


def find_leaks(
    seen: Mapping[str, str],
    scored: Iterable[str],
    groups: Mapping[str, str],
    same_frame: Mapping[str, Iterable[str]] | None = None,
) -> list[Leak]:
    """Return every scored image that was seen.

    Args:
        seen: how each real id was seen.
        scored: ids that are about to be scored on.
        groups: group of every id of the datasets involved; an id without one is a group of its own.
        same_frame: for ids of the scored dataset, ids of another that show the same frame.

    Returns:
        One leak a scored id, in the order of ``scored``; empty when nothing leaks.
    """
    by_group: dict[str, str] = {}
    for name in seen:
        by_group.setdefault(groups.get(name, name), name)
    # A group reaches across datasets: through a frame that is in both, what one of its frames has seen all have.
    for name, twins in (same_frame or {}).items():
        for twin in twins:
            witness = by_group.get(groups.get(twin, twin))
            if witness is not None:
                by_group.setdefault(groups.get(name, name), witness)
    leaks = []
    for name in scored:
        witness = name if name in seen else by_group.get(groups.get(name, name))
        if witness is not None:
            leaks.append(Leak(name, witness, seen[witness]))
    return leaks


def describe(leaks: list[Leak]) -> str:
    """Return one sentence that names how many images leak, the first of them, and what to do."""
    hows = ", ".join(sorted({leak.how for leak in leaks}))
    return (
        f"{len(leaks)} of the images it would be scored on were seen ({hows}), the first is {leaks[0]}. "
        "Change the split, or declare protocol: published to score it anyway with a leak mark."
    )

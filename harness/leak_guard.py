"""The leak guard: nothing is scored on an image that anything used to make it has seen.

What a segmenter has seen is its training pairs with their lineage (what their generators, refiners and checkpoint selections have seen) and
the pairs its own checkpoint was selected on. That is intersected with the images it is scored on, by id, by group
(patient, video, near-duplicate frame), and across datasets by perceptual hash.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

#: Most bits in which the 64-bit perceptual hashes of two frames of different datasets may differ and count as the same frame.
SAME_FRAME_BITS = 4


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
    fingerprints: Mapping[str, tuple[str, str]],
) -> list[Leak]:
    """Return every scored image that was seen.

    Args:
        seen: how each real id was seen.
        scored: ids that are about to be scored on.
        fingerprints: group and 64-bit perceptual hash (hexadecimal) of every id of the datasets involved.

    Returns:
        One leak a scored id, in the order of ``scored``; empty when nothing leaks.
    """
    by_group: dict[str, str] = {}
    for name in seen:
        by_group.setdefault(fingerprints.get(name, (name, ""))[0], name)
    leaks = []
    for name in scored:
        group = fingerprints.get(name, (name, ""))[0]
        witness = name if name in seen else by_group.get(group) or _same_frame(name, seen, fingerprints)
        if witness is not None:
            leaks.append(Leak(name, witness, seen[witness]))
    return leaks


def _same_frame(name: str, seen: Mapping[str, str], fingerprints: Mapping[str, tuple[str, str]]) -> str | None:
    """Return an id of another dataset that was seen and shows the same frame, or None."""
    own = fingerprints.get(name, ("", ""))[1]
    dataset = name.partition("/")[0]
    if not own:
        return None
    value = int(own, 16)
    for other in seen:
        hashed = fingerprints.get(other, ("", ""))[1]
        if hashed and other.partition("/")[0] != dataset and (int(hashed, 16) ^ value).bit_count() <= SAME_FRAME_BITS:
            return other
    return None


def describe(leaks: list[Leak], label: str) -> str:
    """Return one sentence that names how many images leak, the first of them, and what to do."""
    hows = ", ".join(sorted({leak.how for leak in leaks}))
    return (
        f"{label}: {len(leaks)} of the images it would be scored on were seen ({hows}), the first is {leaks[0]}. "
        "Change the split, or declare protocol: published to score it anyway with a leak mark."
    )

"""Pairs of an image and its mask, with their lineage: the one type that every stage takes and gives."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.data.lineage import interned

_FILES = ("images.npy", "masks.npy", "pairs.json")


@dataclass(frozen=True)
class Pair:
    """One image with its mask.

    Attributes:
        image: RGB, uint8, (H, W, 3).
        mask: binary, uint8 in {0, 1}, (H, W); 1 is polyp.
        id: ``dataset/name`` for a real pair, ``generator/number`` for a synthetic one.
        group: pairs of one patient, video or near-duplicate frame share it; the pair's own id when nothing is known.
        lineage: the ids of the real pairs that anything used to make this pair has seen (a real pair: its own id).
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    id: str
    group: str
    lineage: frozenset[str]


@dataclass(frozen=True)
class PairSet:
    """Pairs of one size, as arrays: what stages hand to each other.

    The arrays may be memory-mapped and must be treated as read-only.

    Attributes:
        images: uint8 (N, H, W, 3), RGB. For a generator that makes masks only, the mask as a grey picture (0 or 255).
        masks: uint8 (N, H, W) in {0, 1}.
        ids: N names; unique in a set that is saved, but a set may hold a pair twice (the sources of a refinement).
        groups: N group names.
        lineage: N sets of real ids; many pairs usually share one set object.
    """

    images: NDArray[np.uint8]
    masks: NDArray[np.uint8]
    ids: tuple[str, ...]
    groups: tuple[str, ...]
    lineage: tuple[frozenset[str], ...]

    def __post_init__(self) -> None:
        n = len(self.ids)
        if self.images.ndim != 4 or self.images.shape[3] != 3 or self.images.dtype != np.uint8:
            raise ValueError(f"images must be uint8 (N, H, W, 3), got {self.images.dtype} {self.images.shape}")
        if self.masks.shape != self.images.shape[:3] or self.masks.dtype != np.uint8:
            raise ValueError(f"masks must be uint8 {self.images.shape[:3]}, got {self.masks.dtype} {self.masks.shape}")
        if not (len(self.images) == n == len(self.groups) == len(self.lineage)):
            raise ValueError(
                f"{len(self.images)} images, {n} ids, {len(self.groups)} groups and {len(self.lineage)} lineages "
                "must be equally many"
            )

    @classmethod
    def real(
        cls,
        images: NDArray[np.uint8],
        masks: NDArray[np.uint8],
        ids: Sequence[str],
        groups: Sequence[str] | None = None,
    ) -> PairSet:
        """Build a set of real pairs: each one's lineage is its own id."""
        return cls(images, masks, tuple(ids), tuple(groups or ids), tuple(frozenset({name}) for name in ids))

    @classmethod
    def without_pictures(cls, ids: Sequence[str], size: tuple[int, int]) -> PairSet:
        """Build a set of real pairs that are black, of one height and width, and take no memory."""
        black = np.broadcast_to(np.uint8(0), (len(ids), *size, 3))
        return cls.real(black, black[..., 0], ids)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Pair:
        return Pair(self.images[index], self.masks[index], self.ids[index], self.groups[index], self.lineage[index])

    def __iter__(self) -> Iterator[Pair]:
        return (self[i] for i in range(len(self)))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return int(self.images.shape[1]), int(self.images.shape[2])

    def seen(self) -> frozenset[str]:
        """Return every real id in the lineage of any pair."""
        return frozenset().union(*set(self.lineage))

    def take(self, indices: Sequence[int] | NDArray[np.intp]) -> PairSet:
        """Return the pairs at ``indices``, in that order; an unbroken range stays memory-mapped."""
        order = np.asarray(indices, dtype=np.intp)
        unbroken = len(order) > 0 and bool(np.all(np.diff(order) == 1))
        where = slice(int(order[0]), int(order[-1]) + 1) if unbroken else order
        return PairSet(
            self.images[where],
            self.masks[where],
            tuple(self.ids[i] for i in order),
            tuple(self.groups[i] for i in order),
            tuple(self.lineage[i] for i in order),
        )

    def first(self, count: int) -> PairSet:
        """Return the first ``count`` pairs (synthetic pools nest this way)."""
        if count > len(self):
            raise ValueError(f"asked for the first {count} pairs of a set of {len(self)}")
        return self.take(range(count))

    def select(self, ids: Iterable[str]) -> PairSet:
        """Return the pairs named ``ids``, in that order.

        Raises:
            KeyError: an id is not in the set.
        """
        position = {name: i for i, name in enumerate(self.ids)}
        return self.take([position[name] for name in ids])

    @staticmethod
    def concatenate(sets: Sequence[PairSet]) -> PairSet:
        """Join sets of one image size, in order."""
        return PairSet(
            np.concatenate([s.images for s in sets]),
            np.concatenate([s.masks for s in sets]),
            tuple(name for s in sets for name in s.ids),
            tuple(group for s in sets for group in s.groups),
            tuple(lineage for s in sets for lineage in s.lineage),
        )

    @staticmethod
    def files(folder: Path) -> tuple[Path, ...]:
        """Return the files that :meth:`save` writes into a folder."""
        return tuple(folder / name for name in _FILES)

    def save(self, folder: Path) -> None:
        """Write ``images.npy``, ``masks.npy`` and ``pairs.json`` (ids, groups and interned lineages) into ``folder``.

        Raises:
            ValueError: an id stands twice.
        """
        if len(set(self.ids)) != len(self.ids):
            raise ValueError("ids must be unique within a set that is saved")
        folder.mkdir(parents=True, exist_ok=True)
        images, masks, description = self.files(folder)
        np.save(images, self.images)
        np.save(masks, self.masks)
        distinct, positions = interned(self.lineage)
        document = {"ids": self.ids, "groups": self.groups, "lineages": distinct, "lineage": positions}
        description.write_text(json.dumps(document))

    @classmethod
    def load(cls, folder: Path) -> PairSet:
        """Open what :meth:`save` wrote; the arrays are memory-mapped read-only."""
        images, masks, description = cls.files(folder)
        document = json.loads(description.read_text())
        distinct = [frozenset(lineage) for lineage in document["lineages"]]
        return cls(
            np.load(images, mmap_mode="r"),
            np.load(masks, mmap_mode="r"),
            tuple(document["ids"]),
            tuple(document["groups"]),
            tuple(distinct[i] for i in document["lineage"]),
        )

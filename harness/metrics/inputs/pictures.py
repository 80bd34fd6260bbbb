"""Pictures that are measured: what a metric is given on each side, and which synthetic one was made from which real."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from harness.errors import HarnessError
from harness.metrics.inputs.image_files import PictureFiles


@dataclass(frozen=True)
class Pictures:
    """Images or masks of a place, or both.

    Attributes:
        ids: of the pictures, in order: ``DATASET/ID`` for real ones of a dataset, else bare file names.
        images: N pictures uint8 (H, W, 3): an array, or files that are decoded when asked for; empty for masks alone.
        masks: uint8 (N, H, W) in {0, 1}; empty for images alone.
        lineage: for each picture the ids of the real ones it was made from (a real picture: its own); None for files
            that nothing is known of.
    """

    ids: tuple[str, ...]
    images: NDArray[np.uint8] | PictureFiles = field(default_factory=lambda: np.zeros((0, 0, 0, 3), np.uint8))
    masks: NDArray[np.uint8] = field(default_factory=lambda: np.zeros((0, 0, 0), np.uint8))
    lineage: tuple[frozenset[str], ...] | None = None

    def __len__(self) -> int:
        return len(self.ids)


def bare_name(name: str) -> str:
    """Return an id without its dataset or generator."""
    return name.rpartition("/")[2]


def matched(real: Pictures, synthetic: Pictures) -> list[tuple[int, int]]:
    """Match each synthetic picture with the real one it was made from, as (real, synthetic) positions.

    Lineage says which that is. Without it the name does, to which a synthetic picture may add ``_NUMBER``. A bare file
    name means an id of any dataset.

    Raises:
        HarnessError: two real pictures have one name, or a synthetic one was not made from exactly one real picture
            that is there.
    """
    position: dict[str, int] = {}
    for i, name in enumerate(real.ids):
        if name in position:
            raise HarnessError(f"Two real pictures are called {name!r}; give each a name of its own.")
        position[name] = i
    if synthetic.lineage is not None:
        return _matched_by_lineage(position, synthetic.ids, synthetic.lineage)
    bare = {bare_name(name): i for name, i in position.items()}
    pairs: list[tuple[int, int]] = []
    missing: list[str] = []
    for j, name in enumerate(synthetic.ids):
        stem = name.rstrip("0123456789").rstrip("_-")
        found = bare.get(name, bare.get(stem))
        if found is None:
            missing.append(name)
        else:
            pairs.append((found, j))
    if missing:
        raise HarnessError(
            f"{len(missing)} synthetic pictures have no real one of their name, such as {missing[0]!r}; name "
            "each after the real picture it was made from (NAME or NAME_NUMBER)."
        )
    return pairs


def with_sources(real: Pictures, synthetic: Pictures) -> Pictures:
    """Return the synthetic pictures with the real one that each was made from as its lineage (:func:`matched`)."""
    lineage = {j: frozenset({real.ids[i]}) for i, j in matched(real, synthetic)}
    return replace(synthetic, lineage=tuple(lineage[j] for j in range(len(synthetic))))


def _matched_by_lineage(
    position: dict[str, int], names: tuple[str, ...], lineage: tuple[frozenset[str], ...]
) -> list[tuple[int, int]]:
    other = [(name, len(seen)) for name, seen in zip(names, lineage, strict=True) if len(seen) != 1]
    if other:
        raise HarnessError(
            f"SIFID needs images made from one real image each, but {len(other)} of {len(names)} synthetic ones were "
            f"not, such as {other[0][0]!r}, made from {other[0][1]}; measure fid or kid instead."
        )
    sources = [next(iter(seen)) for seen in lineage]
    found = [position.get(source, position.get(bare_name(source))) for source in sources]
    pairs = [(i, j) for j, i in enumerate(found) if i is not None]
    if len(pairs) < len(names):
        absent = next(source for source, i in zip(sources, found, strict=True) if i is None)
        raise HarnessError(
            f"{len(names) - len(pairs)} of {len(names)} synthetic pictures were made from real ones that are not among "
            f"those given, such as {absent!r}; give the pictures that the generator was fitted on, such as DATASET:fit."
        )
    return pairs

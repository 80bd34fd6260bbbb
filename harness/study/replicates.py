"""What is drawn anew from one replicate of a study to the next, and what all replicates share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

Factor = Literal["training", "pool", "subset", "fit", "fold"]
FACTORS: tuple[Factor, ...] = get_args(Factor)

#: Between the seeds of draws, so that those of one declared seed and those of the next do not meet.
_STRIDE = 10_000


def redrawn(seed: int, draw: int) -> int:
    """Return the seed of a draw: the declared one for draw 0, so that a study without replicates keeps its results."""
    return seed + _STRIDE * draw


@dataclass(frozen=True)
class Draw:
    """One replicate of one fold: which draw of everything that may vary it has; 0 where it has what all have.

    Attributes:
        replicate: its number, from 0; with seeds of one's own, the seed.
        training: seed of the segmenter's training: its weights, augmentation and batches, alike for every arm.
        pool: draw of the synthetic images that are sampled from a generator.
        subset: draw of the real images that a number of them means.
        fit: draw of the generator's fit.
        fold: of the split.
    """

    replicate: int
    training: int
    pool: int = 0
    subset: int = 0
    fit: int = 0
    fold: int = 0


def draws(seeds: Sequence[int], of: Sequence[Factor], share: dict[Factor, int], folds: int) -> list[Draw]:
    """Return every replicate of every fold, replicate by replicate.

    Args:
        seeds: one a replicate.
        of: what each draws anew. With ``fold`` among it, replicate r is scored on fold ``r % folds``, else on all.
        share: how many replicates in turn share a draw of something; 1 when nothing is said.
        folds: of the split.
    """

    found = []
    for place, seed in enumerate(seeds):
        training = seed if "training" in of else seeds[0]
        numbers: dict[Factor, int] = {
            factor: place // share.get(factor, 1) if factor in of else 0 for factor in FACTORS
        }
        own = [place % folds] if "fold" in of else range(folds)
        found += [Draw(seed, training, numbers["pool"], numbers["subset"], numbers["fit"], fold) for fold in own]
    return found

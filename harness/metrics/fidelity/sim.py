"""SIM: how like the real masks the synthetic ones are (mask-conditioned diffusion for polyps, section 3.3 of that
paper).

``SIM = 1/|G| sum over g in G of max over r in R of (share of pixels in which g and r are equal)``. The printed
formula sums over R; this is the form that its text and its tool mean. It measures resemblance to the nearest real
mask and nothing else, and can be gamed: a black mask scores as high as a copy, so the two references belong beside
every value.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.errors import DataError
from harness.metrics.features.extract import content_key
from harness.metrics.spec import Arrays, FidelityMetric, Quantity, Sets, Values
from harness.store.cache import cached


@dataclass(frozen=True)
class Sim:
    """SIM and its two references, as shares of pixels (0 to 1; the paper prints percent). Higher is more alike.

    Attributes:
        value: mean over synthetic masks of the similarity to the most similar real mask.
        black: what a single all-black mask scores.
        leave_one_out: what the real masks score against each other, itself left out; NaN for one real mask.
    """

    value: float
    black: float
    leave_one_out: float


def _packed(masks: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return masks (N, H, W) as bits, uint64 (N, words), padded with zeros."""
    bits = np.packbits(np.asarray(masks, dtype=np.uint8).reshape(len(masks), -1), axis=1)
    return np.pad(bits, ((0, 0), (0, -bits.shape[1] % 8))).view(np.uint64)


def most_similar(
    synthetic: NDArray[np.uint8], real: NDArray[np.uint8], *, leave_one_out: bool = False
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Return for each synthetic mask the share of pixels equal to its most similar real mask (N,), and which that is
    (N,).

    Masks are compared as bits, 64 pixels at a time: unequal pixels are the bits of their exclusive or.

    Args:
        synthetic: uint8 (N, H, W) in {0, 1}.
        real: uint8 (M, H, W) in {0, 1}.
        leave_one_out: when both are one set, never match a mask with itself (by position).

    Raises:
        DataError: the masks are of two sizes, or there are none.
    """
    if len(synthetic) == 0 or len(real) == 0:
        raise DataError(f"SIM needs masks on both sides, got {len(real)} real and {len(synthetic)} synthetic.")
    if synthetic.shape[1:] != real.shape[1:]:
        raise DataError(
            f"SIM compares pixels, but the real masks are {real.shape[1:]} (height, width) and the "
            f"synthetic ones {synthetic.shape[1:]}; bring both to one size."
        )
    pixels = int(np.prod(real.shape[1:]))
    left, right = _packed(synthetic), _packed(real)
    fewest, which = np.empty(len(left), dtype=np.int64), np.empty(len(left), dtype=np.intp)
    for i, mask in enumerate(left):
        unequal = np.bitwise_count(right ^ mask).sum(axis=1, dtype=np.int64)
        if leave_one_out:
            unequal[i] = pixels + 1
        which[i] = unequal.argmin()
        fewest[i] = unequal[which[i]]
    return 1 - fewest / pixels, which


def similarity(real: NDArray[np.uint8], synthetic: NDArray[np.uint8], *, cache: bool = False) -> Sim:
    """Return SIM of synthetic masks (N, H, W) against real ones (M, H, W), both uint8 in {0, 1}, with its references.

    Args:
        real: the reference.
        synthetic: what to measure.
        cache: whether to read and write the store: what the real masks score among each other takes as long as the
            rest, and is the same for every set that is measured against them.

    Raises:
        DataError: the masks are of two sizes, or there are none.
    """
    value = _cached(synthetic, real, cache)
    black = 1.0 - float(real.reshape(len(real), -1).mean(axis=1, dtype=np.float64).min())
    among_real = _cached(real, real, cache, leave_one_out=True).mean() if len(real) > 1 else float("nan")
    return Sim(float(value.mean()), black, float(among_real))


def _cached(
    synthetic: NDArray[np.uint8], real: NDArray[np.uint8], cache: bool, *, leave_one_out: bool = False
) -> NDArray[np.float64]:
    """Return the similarity of each synthetic mask to its most similar real one, from the store if wanted."""

    def compute() -> NDArray[np.float64]:
        return most_similar(synthetic, real, leave_one_out=leave_one_out)[0]

    if not cache:
        return compute()
    against = "itself" if leave_one_out else content_key(real)
    return cached("sim", f"{content_key(synthetic)}-{against}", compute)


def _compute(sets: Sets) -> Values:
    sim = similarity(sets.real.masks, sets.synthetic.masks, cache=True)
    note = f"An all-black mask scores {sim.black:.4f}; real masks score {sim.leave_one_out:.4f} among each other."
    return {"sim": sim.value, "sim-black": sim.black, "sim-real": sim.leave_one_out, "notes": note}


def closest_masks(sets: Sets, count: int = 12) -> Arrays:
    """Return the first synthetic masks, each with its most similar real one by SIM (mask-conditioned diffusion for
    polyps, Figure 3).

    Args:
        sets: with masks of one size; the first synthetic ones are taken, not the most similar.
        count: how many at most.

    Returns:
        ``synthetic`` and ``real`` uint8 (K, H, W) in {0, 1}, ``similarity`` float64 (K,), shares of equal pixels,
        ``synthetic_ids`` and ``real_ids`` (K,).
    """
    few = np.asarray(sets.synthetic.masks[:count])
    similarity, which = most_similar(few, sets.real.masks)
    return {
        "synthetic": few,
        "real": sets.real.masks[which],
        "similarity": similarity,
        "synthetic_ids": np.array(sets.synthetic.ids[:count]),
        "real_ids": np.array([sets.real.ids[i] for i in which]),
    }


def _evidence(sets: Sets) -> dict[str, Arrays]:
    return {"closest-masks": closest_masks(sets)}


SIM = FidelityMetric(
    name="sim",
    label="SIM",
    on="masks",
    better="higher",
    marked=False,  # an empty mask has more of it than a real one
    lower=0.0,
    upper=1.0,
    table="fidelity-masks",
    order=60,
    definition="Mean share of pixels equal to the most similar real mask.",
    source="mask-conditioned diffusion for polyps, section 3.3",
    note="SIM: mean share of pixels equal to the most similar real mask; beside it what an all-black mask scores, and "
    "real masks among each other, above which more is no merit.",
    compute=_compute,
    fewest=1,
    evidence=_evidence,
    beside=(
        Quantity(
            name="sim-black",
            label="SIM of all-black",
            heading="SIM of\nall-black",
            lower=0.0,
            upper=1.0,
            table="fidelity-masks",
        ),
        Quantity(
            name="sim-real",
            label="SIM of real leave-one-out",
            heading="SIM of real\nleave-one-out",
            lower=0.0,
            upper=1.0,
            table="fidelity-masks",
        ),
    ),
)

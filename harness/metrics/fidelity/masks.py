"""Statistics of binary masks: areas and their distribution, components, mean and deviation masks; masks as pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.data.pairs import PairSet
from harness.metrics.segmentation.lesions import CONNECTED
from harness.metrics.spec import Arrays, FidelityMetric, Quantity, Sets, Values

if TYPE_CHECKING:
    from harness.metrics.inputs.pictures import Pictures


def areas(masks: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the share of each mask (N, H, W) that is polyp, (N,), 0 to 1."""
    return masks.reshape(len(masks), -1).mean(axis=1, dtype=np.float64)


def area_histogram(masks: NDArray[np.uint8], bins: int = 20) -> NDArray[np.intp]:
    """Count masks by the share of the image that is polyp, in equal bins from 0 to 1 (the papers' figures use 20 of 5
    %)."""
    return np.histogram(areas(masks), bins=bins, range=(0.0, 1.0))[0]


def area_distance(real: NDArray[np.uint8], synthetic: NDArray[np.uint8]) -> float:
    """Return the Wasserstein-1 distance between the areas of two sets of masks: a share of the image, 0 (equal) to
    1."""
    return wasserstein(areas(real), areas(synthetic))


def wasserstein(a: ArrayLike, b: ArrayLike) -> float:
    """Return the Wasserstein-1 distance between two samples of a number."""
    from scipy.stats import wasserstein_distance

    return float(wasserstein_distance(np.asarray(a), np.asarray(b)))


def components(masks: NDArray[np.uint8]) -> NDArray[np.intp]:
    """Count the connected parts of each mask (N, H, W), corners touching, (N,)."""
    from scipy.ndimage import label

    return np.array([label(mask, structure=CONNECTED)[1] for mask in masks], dtype=np.intp)


def mean_and_deviation(masks: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the pixel-wise mean and standard deviation of masks (N, H, W), each (H, W), 0 to 1."""
    return masks.mean(axis=0, dtype=np.float64), masks.std(axis=0, dtype=np.float64)


def positions_by_source(lineage: Sequence[frozenset[str]]) -> dict[str, list[int]]:
    """Return, for each real id, the positions of the synthetic masks that were made from it alone."""
    found: dict[str, list[int]] = {}
    for position, seen in enumerate(lineage):
        if len(seen) == 1:
            found.setdefault(next(iter(seen)), []).append(position)
    return found


def shows_masks(pairs: PairSet | Pictures) -> bool:
    """Say whether the images are the masks as grey pictures, which is what a generator of masks makes."""

    def alike(images: NDArray[np.uint8], masks: NDArray[np.uint8]) -> bool:
        return bool(np.array_equal(images, np.repeat(masks[..., None] * np.uint8(255), 3, axis=-1)))

    # The first image tells nearly always; comparing all of a large pool takes a copy of it.
    if not isinstance(pairs, PairSet) or not len(pairs):
        return False
    return alike(pairs.images[:1], pairs.masks[:1]) and alike(pairs.images, pairs.masks)


def of_masks(pairs: PairSet) -> PairSet:
    """Return the pairs with their masks as grey pictures (0 and 255) for images."""
    pictures = np.repeat(pairs.masks[..., None] * np.uint8(255), 3, axis=-1)
    return PairSet(pictures, pairs.masks, pairs.ids, pairs.groups, pairs.lineage)


def diversity(
    real: Mapping[str, NDArray[np.uint8]],
    synthetic: NDArray[np.uint8],
    lineage: Sequence[frozenset[str]],
    count: int = 4,
) -> Arrays | None:
    """Return how the synthetic masks differ that were made from one real mask each.

    Args:
        real: real masks (H, W) by id.
        synthetic: masks (N, H, W).
        lineage: for each the real ids it was made from.
        count: at most so many real masks, those with the most synthetic ones.

    Returns:
        ``real`` (K, H, W), pixel-wise ``mean`` and ``deviation`` (K, H, W), ``ids`` and ``count`` (K,); None when no
        real mask has several synthetic ones.
    """
    made = positions_by_source(lineage)
    several = [name for name, found in made.items() if len(found) > 1 and name in real]
    shown = sorted(several, key=lambda name: (-len(made[name]), name))[:count]
    if not shown:
        return None
    statistics = [mean_and_deviation(synthetic[made[name]]) for name in shown]
    return {
        "real": np.stack([real[name] for name in shown]),
        "mean": np.stack([mean for mean, _ in statistics]),
        "deviation": np.stack([deviation for _, deviation in statistics]),
        "ids": np.array(shown),
        "count": np.array([len(made[name]) for name in shown]),
    }


def _evidence(sets: Sets) -> dict[str, Arrays]:
    """Return what figures of masks are drawn from.

    Returns:
        ``areas``: the share of each mask that is polyp, ``real`` and ``synthetic`` float64 (N,); and ``diversity``
        (:func:`diversity`) where several masks were made from one real one.
    """
    real, synthetic = sets.real, sets.synthetic
    found: dict[str, Arrays] = {"areas": {"real": areas(real.masks), "synthetic": areas(synthetic.masks)}}
    by_id = dict(zip(real.ids, real.masks, strict=True))
    several = diversity(by_id, synthetic.masks, synthetic.lineage or ())
    return found if several is None else found | {"diversity": several}


def _compute(sets: Sets) -> Values:
    real, synthetic = sets.real.masks, sets.synthetic.masks
    return {
        "mask-area": area_distance(real, synthetic),
        "mean-area-real": float(areas(real).mean()),
        "mean-area-synthetic": float(areas(synthetic).mean()),
        "mean-components-real": float(components(real).mean()),
        "mean-components-synthetic": float(components(synthetic).mean()),
        "empty-masks": int((areas(synthetic) == 0).sum()),
    }


MASK_AREA = FidelityMetric(
    name="mask-area",
    label="Mask area distance",
    heading="Area\ndistance",
    on="masks",
    better="lower",
    lower=0.0,
    upper=1.0,
    table="fidelity-masks",
    order=70,
    definition="Wasserstein distance between polyp areas.",
    note="Area: share of the image that is polyp; its distance is Wasserstein's. Mean area and components (connected "
    "parts a mask): real / synthetic.",
    compute=_compute,
    fewest=1,
    evidence=_evidence,
    beside=(
        Quantity(name="mean-area", label="Mean area", lower=0.0, upper=1.0, table="fidelity-masks", two_sided=True),
        Quantity(
            name="mean-components", label="Components", lower=0.0, digits=2, table="fidelity-masks", two_sided=True
        ),
        Quantity(
            name="empty-masks",
            label="Empty masks",
            heading="Empty\nmasks",
            lower=0,
            digits=0,
            table="fidelity-masks",
            varies=False,
        ),
    ),
)

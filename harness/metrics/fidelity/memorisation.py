"""Does a generator copy its training images? Nearest-neighbour distances against those of held-out real images.

The test is the one of Meehan, Chaudhuri and Dasgupta (2020, arXiv 2004.05675): if synthetic images are new draws of
the same distribution, they lie as far from the training images as other real images do. They lie closer when the
generator copies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.errors import DataError
from harness.metrics.features.extract import Images, content_key
from harness.metrics.fidelity.thumbnails import thumbnails
from harness.metrics.spec import Arrays, FidelityMetric, Quantity, Sets, Values
from harness.store.cache import cached

if TYPE_CHECKING:
    from harness.data.pairs import PairSet
    from harness.metrics.inputs.pictures import Pictures

DESCRIPTION = "pixels-32"
_SIDE = 32
_CLOSEST = 0.01  # share of the reference images that may lie closer to the training images than the threshold does
_FALSE_ALARMS = 0.01  # how often a generator that does not copy may be flagged


@dataclass(frozen=True)
class Memorisation:
    """How close synthetic images lie to training images, against how close other real images do.

    Attributes:
        closer: probability that a synthetic image lies closer to its nearest training image than a reference image to
            its own: 0.5 when they are alike, 1 when every synthetic image is a copy (the Mann-Whitney statistic over
            its largest value).
        copied: share of synthetic images closer than all but 1 % of the reference images.
        exact: synthetic images that are equal to a training image (distance 0).
        p_value: how likely at least so many would be if synthetic and reference images were draws of one distribution.
        copies: the flag: an exact copy, or a ``p_value`` below 0.01.
        reference: ``held-out``, or ``leave-one-out`` of the training images when none were held out.
    """

    closer: float
    copied: float
    exact: int
    p_value: float
    copies: bool
    reference: str


def describe(images: Images, *, cache: bool = False) -> NDArray[np.float64]:
    """Return images as vectors (N, 3072), scaled so that a Euclidean distance is the root mean square difference in
    grey levels.

    Args:
        images: N pictures of any sizes.
        cache: whether to read and write the store.
    """

    def compute() -> NDArray[np.float32]:
        return thumbnails(images, _SIDE).reshape(len(images), -1)

    small = cached(DESCRIPTION, content_key(images), compute) if cache else compute()
    return small.astype(np.float64) / np.sqrt(small.shape[1])


def squared_distances(a: ArrayLike, b: ArrayLike) -> NDArray[np.float64]:
    """Return squared Euclidean distances (N, M) between rows of (N, D) and (M, D), in float64 and never below 0.

    The vectors are centred on the mean of ``b`` first: the expansion ``|x|^2 + |y|^2 - 2 x.y`` loses digits far from
    the origin.
    """
    y = np.asarray(b, dtype=np.float64)
    centre = y.mean(axis=0)
    y = y - centre
    x = np.asarray(a, dtype=np.float64) - centre
    squares = np.einsum("ij,ij->i", x, x)[:, None] + np.einsum("ij,ij->i", y, y)[None, :]
    return np.maximum(squares - 2 * (x @ y.T), 0.0)


def nearest_neighbours(
    queries: ArrayLike, training: ArrayLike, *, leave_one_out: bool = False
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Return the distance of each query (N, D) to its nearest training vector (M, D), and which that is."""
    squares = squared_distances(queries, training)
    if leave_one_out:
        np.fill_diagonal(squares, np.inf)
    which = squares.argmin(axis=1)
    distances = np.sqrt(squares[np.arange(len(squares)), which])
    # The expansion of the square loses what is below its rounding: copies have distance 0, not 1e-6.
    same = (np.asarray(queries) == np.asarray(training)[which]).all(axis=1)
    return np.where(same, 0.0, distances), which


def _chance(count: int, synthetic: int, closer_than: int, reference: int) -> float:
    """Return the probability that at least ``count`` synthetic distances lie below the given order statistic of the
    reference.

    If all are draws of one distribution, every order of them is equally likely; the event is that, of the first
    ``count + closer_than - 1`` in order, at least ``count`` are synthetic (hypergeometric). Exact for any sample
    size, unlike a fixed share: the quantile of a small reference set is itself uncertain.
    """
    from scipy.stats import hypergeom

    if count == 0:
        return 1.0
    return float(hypergeom.sf(count - 1, synthetic + reference, synthetic, count + closer_than - 1))


def memorisation(training: ArrayLike, synthetic: ArrayLike, held_out: ArrayLike | None = None) -> Memorisation:
    """Compare nearest-neighbour distances of synthetic and of unseen real vectors to the training vectors.

    Args:
        training: (N, D), what the generator saw, from :func:`describe` or any feature network.
        synthetic: (M, D).
        held_out: (K, D) real vectors the generator did not see; without them each training vector is compared with
            the others.

    Raises:
        DataError: there are too few images for a comparison.
    """
    train, made = np.asarray(training, dtype=np.float64), np.asarray(synthetic, dtype=np.float64)
    others = None if held_out is None else np.asarray(held_out, dtype=np.float64)
    if len(train) < 2 or len(made) < 1 or (others is not None and len(others) < 1):
        held = "" if others is None else f" and {len(others)} held-out"
        raise DataError(
            f"Memorisation needs at least two training images and one of the others, got {len(train)} training, "
            f"{len(made)} synthetic{held}."
        )
    distances, _ = nearest_neighbours(made, train)
    if others is None:
        reference, _ = nearest_neighbours(train, train, leave_one_out=True)
    else:
        reference, _ = nearest_neighbours(others, train)
    below = (distances[:, None] < reference[None, :]).mean()
    equal = (distances[:, None] == reference[None, :]).mean()
    closer_than = max(1, round(_CLOSEST * len(reference)))  # the threshold is this one of the reference distances
    count = int((distances < np.sort(reference)[closer_than - 1]).sum())
    p_value = _chance(count, len(distances), closer_than, len(reference))
    exact = int((distances == 0).sum())
    return Memorisation(
        closer=float(below + equal / 2),
        copied=count / len(distances),
        exact=exact,
        p_value=p_value,
        copies=exact > 0 or p_value < _FALSE_ALARMS,
        reference="leave-one-out" if others is None else "held-out",
    )


def closest(sets: Sets, count: int = 12) -> Arrays:
    """Return the synthetic images that lie closest to training images, each with its nearest one, closest first.

    Returns:
        ``synthetic`` and ``real`` uint8 (K, H, W, 3), ``distance`` (K,), ``synthetic_ids`` and ``real_ids`` (K,);
        images of several sizes are shown at 128 x 128 pixels.
    """
    training = _training(sets)
    distances, nearest = nearest_neighbours(
        describe(sets.synthetic.images, cache=True), describe(training.images, cache=True)
    )
    first = np.argsort(distances, kind="stable")[:count]
    which = nearest[first]
    return {
        "synthetic": _shown(sets.synthetic.images, first),
        "real": _shown(training.images, which),
        "distance": distances[first],
        "synthetic_ids": np.array([sets.synthetic.ids[i] for i in first]),
        "real_ids": np.array([training.ids[i] for i in which]),
    }


def _shown(images: Images, positions: NDArray[np.intp]) -> NDArray[np.uint8]:
    if isinstance(images, np.ndarray):
        return np.asarray(images[positions])
    return thumbnails([images[int(i)] for i in positions], 128).astype(np.uint8)


def _training(sets: Sets) -> PairSet | Pictures:
    return sets.real if sets.fitted is None else sets.fitted


def _compute(sets: Sets) -> Values:
    training = _training(sets)
    if len(training) < 2:
        seen = "no real image" if len(training) == 0 else "one real image only"
        note = f"It has seen {seen}, so there is no telling copies from likeness."
        return {"memorisation": float("nan"), "network": DESCRIPTION, "notes": note}
    held_out = None if sets.held_out is None else describe(sets.held_out.images, cache=True)
    found = memorisation(describe(training.images, cache=True), describe(sets.synthetic.images, cache=True), held_out)
    note = (
        f"Copies: {found.copied:.0%} of the images lie closer to a training image than 99 % of unseen real ones do "
        f"(p = {found.p_value:.2g}), and {found.exact} are exact copies."
    )
    return {
        "memorisation": found.closer,
        "copied": found.copied,
        "copied-p-value": found.p_value,
        "exact-copies": found.exact,
        "copies": found.copies,
        "reference": found.reference,
        "network": DESCRIPTION,
        "notes": note if found.copies else "",
    }


def _evidence(sets: Sets) -> dict[str, Arrays]:
    return {"closest": closest(sets)} if len(_training(sets)) > 1 else {}


MEMORISATION = FidelityMetric(
    name="memorisation",
    label="Memorisation",
    heading="Closer",
    on="images",
    better="lower",
    lower=0.0,
    upper=1.0,
    table="memorisation",
    order=80,
    definition="Probability that a synthetic image lies closer to a training image than an unseen real one does.",
    source="Meehan, Chaudhuri and Dasgupta 2020, arXiv 2004.05675",
    note="Closer: probability that a synthetic image lies closer to its nearest training image than a real image that "
    "was not seen does; 0.5 when they are alike, 1 when every image is a copy. Copied: share closer than 99 % of the "
    "real ones, with the p value of so many by chance. Verdict copies: p below 0.01, or an exact copy.",
    compute=_compute,
    against_fitted=True,
    fewest=1,
    of_all_sets=True,
    evidence=_evidence,
    beside=(
        Quantity(name="copied", label="Copied", lower=0.0, upper=1.0, table="memorisation"),
        Quantity(
            name="copied-p-value",
            label="p of copied",
            heading="p",
            lower=0.0,
            upper=1.0,
            digits=3,
            table="memorisation",
            varies=False,
        ),
        Quantity(
            name="exact-copies",
            label="Exact copies",
            heading="Exact\ncopies",
            lower=0,
            digits=0,
            table="memorisation",
            varies=False,
        ),
    ),
)

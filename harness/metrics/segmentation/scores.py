"""From masks to scores: what each image adds above and below the fraction line, and how images become one number.

A score is a fraction (:class:`harness.metrics.spec.SegmentationMetric`). Its *reductions* are

* ``micro``: the sum of the numerators over the sum of the denominators;
* ``micro-imagewise``: the mean of the images' own scores, every image weighing the same;
* ``micro-imagewise-small``, ``-medium``, ``-large``: the same over images whose polyp is in that third of the polyp
  areas of the fit role (:func:`size_limits`); images without polyp are in none.

The names of the first two are those of ``segmentation_models_pytorch.metrics`` (0.6.0).

**Division by zero.** What stands where a denominator is 0, of an image and in ``micro`` alike, is what the metric says
of ``zero_division`` (1, 0 or nan). Of IoU, F1 and surface Dice that is so when neither mask has a polyp pixel, of
precision when the prediction has none, of recall when the truth has none. A score that is better when lower, such as
Dice loss, becomes 1 - ``zero_division``. With nan, a mean is over the images that have a score, and nan when none has.
(segmentation_models_pytorch itself returns nan for such a ``micro`` score, whatever its ``zero_division``.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from harness.metrics.segmentation.boundary import in_pixels
from harness.metrics.segmentation.confusion import quotient
from harness.metrics.segmentation.mask_batch import MaskBatch
from harness.metrics.spec import Fraction, SegmentationMetric

#: Thirds of polyp areas, smallest first.
SIZES = ("small", "medium", "large")

#: What each reduction does, for captions.
REDUCTIONS: dict[str, str] = {
    "micro": "pixel counts summed over all images",
    "micro-imagewise": "computed per image, then averaged",
    **{f"micro-imagewise-{size}": f"computed per image, then averaged over {size} polyps" for size in SIZES},
}


def size_of(reduction: str) -> str:
    """Return the size of polyps that a reduction is over; empty for all images."""
    last = reduction.rpartition("-")[2]
    return last if last in SIZES else ""


def reductions_of(metric: SegmentationMetric) -> list[str]:
    """Return the reductions that mean something for a metric."""
    return [name for name in REDUCTIONS if metric.micro or name != "micro"]


def size_limits(areas: NDArray[np.float64]) -> tuple[float, float]:
    """Return the areas that part polyps into thirds, by the polyps of the fit role.

    Args:
        areas: share of each mask that is polyp; empty masks do not count. Without any polyp, every one is small.
    """
    with_polyp = areas[areas > 0]
    if not len(with_polyp):
        return 1.0, 1.0
    low, high = np.quantile(with_polyp, [1 / 3, 2 / 3])
    return float(low), float(high)


def sizes(areas: NDArray[np.float64], limits: tuple[float, float]) -> list[str]:
    """Return the size of each polyp by its area: :data:`SIZES`, or empty where there is none.

    Args:
        areas: share of each mask that is polyp, (N,).
        limits: from :func:`size_limits`; an area that equals one is of the smaller size.
    """
    places = np.searchsorted(limits, areas, side="left")
    return [SIZES[place] if area > 0 else "" for place, area in zip(places, areas, strict=True)]


def fractions(masks: MaskBatch, metrics: Sequence[SegmentationMetric]) -> dict[str, Fraction]:
    """Return what each image adds above and below the fraction line of each metric, by name.

    Raises:
        ValueError: a metric returns something else than N numbers twice.
    """
    found = {}
    for metric in metrics:
        parts = Fraction(*(np.asarray(part, dtype=np.float64) for part in metric.fraction(masks)))
        if any(part.shape != (len(masks),) for part in parts):
            raise ValueError(
                f"{metric.name} must return a numerator and a denominator for each of {len(masks)} images, got "
                f"{parts.numerators.shape} and {parts.denominators.shape}"
            )
        found[metric.name] = parts
    return found


def fractions_of_any_size(
    predicted: Sequence[NDArray[np.uint8]],
    truth: Sequence[NDArray[np.uint8]],
    metrics: Sequence[SegmentationMetric],
    tolerance: float,
) -> dict[str, Fraction]:
    """Return the same of masks uint8 (H, W) of several sizes; images of one size stand together.

    Args:
        predicted: N masks.
        truth: each of the size of its prediction.
        metrics: which.
        tolerance: as declared (:func:`~harness.metrics.segmentation.boundary.in_pixels`).
    """
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for i, mask in enumerate(truth):
        by_shape.setdefault(mask.shape, []).append(i)
    parts = []
    for shape, own in by_shape.items():
        one, other = (np.stack([side[i] for i in own]) for side in (predicted, truth))
        parts.append(fractions(MaskBatch(one, other, in_pixels(tolerance, shape)), metrics))
    return {
        m.name: Fraction(*map(np.concatenate, zip(*(part[m.name] for part in parts), strict=True))) for m in metrics
    }


def image_scores(metric: SegmentationMetric, fraction: Fraction, zero_division: float = 1.0) -> NDArray[np.float64]:
    """Return the score of each image, float64 (N,); NaN of those that are left out.

    Raises:
        ValueError: ``zero_division`` is not 1, 0 or nan.
    """
    if not (zero_division in (0.0, 1.0) or np.isnan(zero_division)):
        raise ValueError(f"zero_division must be 1, 0 or nan, got {zero_division}")
    return quotient(*fraction, metric.empty(zero_division))


def reduce(
    metric: SegmentationMetric,
    fraction: Fraction,
    zero_division: float = 1.0,
    polyp_sizes: Sequence[str] | None = None,
) -> dict[str, float]:
    """Return one number for each reduction of a metric.

    Args:
        metric: which.
        fraction: what each image adds, N at least 1.
        zero_division: 1, 0 or nan (see the module).
        polyp_sizes: of each image (:func:`sizes`); without them there are no reductions by size.

    Raises:
        ValueError: there is no image, or ``zero_division`` is something else.
    """
    if not len(fraction.numerators):
        raise ValueError("segmentation scores need at least one image, got none")
    scores = image_scores(metric, fraction, zero_division)
    found = {}
    for name in reductions_of(metric):
        size = size_of(name)
        if name == "micro":
            above, below = (part.sum(keepdims=True) for part in fraction)
            found[name] = float(quotient(above, below, metric.empty(zero_division))[0])
        elif not size:
            found[name] = _mean(scores)
        elif polyp_sizes is not None:
            found[name] = _mean(scores[np.array(polyp_sizes) == size])
    return found


def reduce_all(
    metrics: Sequence[SegmentationMetric],
    found: Mapping[str, Fraction],
    zero_division: float = 1.0,
    polyp_sizes: Sequence[str] | None = None,
) -> dict[str, dict[str, float]]:
    """Return every reduction of several metrics: ``{"iou": {"micro": x, "micro-imagewise": y}, ...}``."""
    return {one.name: reduce(one, found[one.name], zero_division, polyp_sizes) for one in metrics}


def _mean(scores: NDArray[np.float64]) -> float:
    """Return the mean of the scores that are numbers; nan when none is."""
    scored = scores[~np.isnan(scores)]
    return float(scored.mean()) if len(scored) else float("nan")

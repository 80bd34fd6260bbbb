"""Measuring synthetic pairs against real ones by any fidelity metric, and what results and figures take from it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from harness.data.pairs import PairSet
from harness.metrics.fidelity.masks import of_masks, shows_masks
from harness.metrics.fidelity.sample_sets import quantity_of
from harness.metrics.spec import Arrays, FidelityMetric, Sets, Values, fidelity_metrics

if TYPE_CHECKING:
    from harness.metrics.inputs.pictures import Pictures

__all__ = ["Sets", "Values", "constant_picture", "evidence", "measure", "measured_quantities", "of_masks"]

P = TypeVar("P", "PairSet | Pictures", "PairSet | Pictures | None")


def constant_picture(pairs: PairSet | Pictures) -> str:
    """Say how the images of a set are worthless whatever a metric says, or nothing.

    Returns:
        ``are the same picture`` when all are equal, ``are of one colour each`` when none shows anything, or ``""``.
    """
    images = pairs.images
    if len(images) > 1 and all(np.array_equal(images[i], images[0]) for i in range(1, len(images))):
        return "are the same picture"
    if len(images) and all((images[i] == images[i][0, 0]).all() for i in range(len(images))):
        return "are of one colour each"
    return ""


def _prepared(sets: Sets) -> Sets:
    """Return the sets with real masks as grey pictures where the synthetic images are their masks as such."""
    if not shows_masks(sets.synthetic) or shows_masks(sets.real):
        return sets

    def grey(side: P) -> P:
        return of_masks(side) if isinstance(side, PairSet) else side

    return replace(sets, real=grey(sets.real), fitted=grey(sets.fitted), held_out=grey(sets.held_out))


def _too_few(metric: FidelityMetric, real: int, synthetic: int) -> str:
    """Say that there are too few pairs for a metric; nothing where there are enough."""
    if synthetic >= metric.fewest and (metric.against_fitted or real >= metric.fewest):
        return ""
    pairs = "one pair" if metric.fewest == 1 else f"{metric.fewest} pairs"
    return f"It needs at least {pairs} a side, and there are {real} real and {synthetic} synthetic."


def measure(metrics: Sequence[FidelityMetric], sets: Sets) -> dict[str, Values]:
    """Measure synthetic pairs against real ones.

    Synthetic images that are their masks as grey pictures (a generator of masks makes those) are compared with the
    real masks as grey pictures. When every synthetic image is the same picture, or where a metric has too few pairs,
    its value is NaN and a note says why: a selection must not choose it. Features are kept in the store, so that a set
    is never measured twice.

    Args:
        metrics: each has its own network where it has one, ``sets.network`` where not.
        sets: what to compare.

    Returns:
        For each metric by name, the value under that name and beside it ``n_real``, ``n_synthetic``, ``network``
        (empty when the metric uses none), ``mode``, ``notes``, and what else it tells.

    Raises:
        DeclarationError: a network or a segmenter that a metric asks is missing.
        DataError: the images or masks cannot be compared.
        WeightsError: a metric's network weights are not on this machine.
    """
    prepared = _prepared(sets)
    common = [] if prepared is sets else ["Measured on masks as grey pictures."]
    synthetic = prepared.synthetic
    constant = constant_picture(synthetic)
    if constant:
        common.append(f"All {len(synthetic)} synthetic images {constant}, so there is no value.")
    measured: dict[str, Values] = {}
    for metric in metrics:
        fitted = prepared.fitted if metric.against_fitted else None
        real = prepared.real if fitted is None else fitted
        lacking = _too_few(metric, len(real), len(synthetic))
        if lacking or constant:
            values: Values = {metric.name: math.nan, "notes": lacking}
        else:
            values = metric.compute(replace(prepared, network=metric.network or prepared.network))
        notes = " ".join([*common, str(values.pop("notes", ""))]).strip()
        counts: Values = {"n_real": len(real), "n_synthetic": len(synthetic)}
        words: Values = {"network": values.get("network", ""), "mode": values.get("mode", ""), "notes": notes}
        measured[metric.name] = {**values, **counts, **words}
    return measured


def evidence(metrics: Sequence[FidelityMetric], sets: Sets) -> dict[str, Arrays]:
    """Return what figures of a measurement are drawn from, by file name; nothing where a side has no pairs."""
    prepared = _prepared(sets)
    found: dict[str, Arrays] = {}
    for metric in metrics:
        if metric.evidence is not None and not _too_few(metric, len(prepared.real), len(prepared.synthetic)):
            found |= metric.evidence(prepared)
    return found


def measured_quantities(measured: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str, float, int]]:
    """Yield everything that was measured, each number once, in the order of the metrics.

    A metric may bring another along (FID its KID): when both were measured, the other one's own numbers stand.

    Args:
        measured: what :func:`measure` or :func:`~harness.metrics.fidelity.sample_sets.over_sets` returned, by metric;
            as JSON gives it back, null for NaN.

    Yields:
        Name in results, network, value, and the number of synthetic images.
    """
    known = fidelity_metrics()
    seen: set[tuple[str, str]] = set()
    for metric, values in measured.items():
        others = [known[name] for name in measured if name != metric and name in known]
        network, images = str(values.get("network") or ""), int(values.get("n_synthetic", 0))
        for name in dict.fromkeys([metric, *values]):
            value = values.get(name)
            if name == "n_synthetic" or isinstance(value, bool | str) or (name, network) in seen:
                continue
            if any(other.quantity(quantity_of(name)) for other in others):
                continue
            seen.add((name, network))
            yield name, network, math.nan if value is None else float(value), images

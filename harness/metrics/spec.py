"""What a metric is, once: its name, how it is printed, which way is better, what it needs, and how it is computed.

A metric is one object in one file: a :class:`FidelityMetric` in ``harness/metrics/fidelity``, a
:class:`SegmentationMetric` in ``harness/metrics/segmentation``, or either in an extension
(:mod:`harness.plugins.discovery`). Studies, commands, results, tables and MLflow know it from there alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from harness.errors import DeclarationError, PluginError, nearest
from harness.plugins.discovery import Found, discover
from harness.plugins.fingerprint import code_of_imported

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from harness.data.pairs import PairSet
    from harness.metrics.features.feature_network import Mode
    from harness.metrics.inputs.pictures import Pictures
    from harness.metrics.segmentation.mask_batch import MaskBatch

Values = dict[str, float | str | int | bool]
"""What a fidelity metric tells: its number under its name, quantities beside it, and words (``network``, ``notes``)."""

Arrays = dict[str, "NDArray[Any]"]


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """A number that results have under a name, and how it is printed.

    Attributes:
        name: in studies and results, such as ``fid-corrected``.
        label: in sentences and on axes.
        heading: above a column where that is not the label; a line break makes two lines in LaTeX.
        better: which way, or None where neither is; a deviation between sample sets is told of what has a direction.
        marked: whether tables mark the best of a column.
        lower: least possible value.
        upper: greatest possible value.
        digits: decimals in tables.
        table: that it has a column in; empty for none.
        two_sided: whether results have it of real and of synthetic pairs (``NAME-real``, ``NAME-synthetic``).
        deviation: quantity that is printed behind it with ±, where there is one set.
        varies: whether its deviation between sample sets means something.
        note: what stands under a table with its column. In braces, of fidelity: ``{networks}`` of the column, or the
            value of a quantity beside; of scores: a fact of the study, such as ``{tolerance}``.
    """

    name: str
    label: str
    heading: str = ""
    better: Literal["lower", "higher"] | None = None
    marked: bool = True
    lower: float = float("-inf")
    upper: float = float("inf")
    digits: int = 4
    table: str = ""
    two_sided: bool = False
    deviation: str = ""
    varies: bool = True
    note: str = ""

    @property
    def column(self) -> str:
        """What stands above its column."""
        return self.heading or self.label

    @property
    def span(self) -> float:
        """The largest difference that two values can have."""
        return self.upper - self.lower


@dataclass(frozen=True, kw_only=True)
class MetricSpec(Quantity):
    """What all metrics say of themselves.

    Attributes:
        definition: one sentence.
        source: the paper that it is from.
        order: of listings and columns, ascending; equal ones by name.
    """

    definition: str
    source: str = ""
    order: int = 1000


class Judge(Protocol):
    """A segmenter that was trained on real pairs: ``label`` as in tables, and what it predicts."""

    @property
    def label(self) -> str:
        """As in tables, such as ``unet``."""

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Predict masks uint8 (N, H, W) in {0, 1} of images uint8 (N, H, W, 3), each from its image alone."""


@dataclass(frozen=True)
class Sets:
    """What a fidelity metric compares, and with what.

    Attributes:
        real: what stands for the truth.
        synthetic: what is measured.
        device: where to compute.
        fitted: real pairs that the generator was fitted on; ``real`` where that is not said.
        held_out: real pairs that the generator has not seen, or None.
        seed: of random subsets.
        network: of the features, where the metric has none of its own (``network_named`` knows which there are).
        mode: how images are resized for it.
        segmenter: that was trained on real pairs; None where there is none.
        progress: told how many images of a side have gone through a network, and of how many.
    """

    real: PairSet | Pictures
    synthetic: PairSet | Pictures
    device: torch.device
    fitted: PairSet | Pictures | None = None
    held_out: PairSet | Pictures | None = None
    seed: int = 0
    network: str = ""
    mode: Mode = "clean"
    segmenter: Judge | None = None
    progress: Callable[[int, int], None] | None = field(default=None, compare=False)


@dataclass(frozen=True, kw_only=True)
class FidelityMetric(MetricSpec):
    """A metric of how close synthetic pairs are to real ones.

    Attributes:
        on: what it looks at: ``images``, ``masks``, or ``pairs`` of both.
        compute: returns :data:`Values`, ``nan`` with ``notes`` where there is no number. What it can be told beside
            the sets are keyword arguments with a default, which are options of ``harness metrics``.
        beside: further quantities that it brings.
        shown_as: which of them stands for it in tables; empty for its own number.
        network: whose features it looks at, where that is always the same.
        needs_network: whether a study must name one.
        needs_weights: names in the weights catalogue that it cannot do without.
        needs_segmenter: whether it asks a segmenter that was trained on real pairs, which a selection does not have.
        needs_lineage: whether each synthetic image must be made from one real image that is there.
        against_fitted: whether it compares with what the generator was fitted on (``Sets.fitted``), and with what it
            has not seen.
        draws: whether it draws random subsets, by the seed.
        fewest: pairs a side without which it has no number.
        biased_below: images a side below which tables say that it is biased; 0 for never.
        of_all_sets: whether what it says of several sample sets at once stands beside their means.
        evidence: returns what figures of it are drawn from, by file name.
        other_network: metric that it becomes with the features of another network.
        published: computes the number by the program of its authors, and returns it under that program's name.
    """

    table: str = "fidelity"
    on: Literal["images", "masks", "pairs"]
    compute: Callable[..., Values]
    beside: tuple[Quantity, ...] = ()
    shown_as: str = ""
    network: str = ""
    needs_network: bool = False
    needs_weights: tuple[str, ...] = ()
    needs_segmenter: bool = False
    needs_lineage: bool = False
    against_fitted: bool = False
    draws: bool = False
    fewest: int = 2
    biased_below: int = 0
    of_all_sets: bool = False
    evidence: Callable[[Sets], Mapping[str, Arrays]] | None = None
    other_network: str = ""
    published: Callable[[Sets], Values] | None = None

    @property
    def quantities(self) -> tuple[Quantity, ...]:
        """Its own number, and what it brings beside it."""
        return (self, *self.beside)

    def quantity(self, name: str) -> Quantity | None:
        """Return one of its quantities, by the name that results have, sides included."""
        for one in self.quantities:
            if name == one.name or (one.two_sided and name in sides_of(one)):
                return one
        return None


def sides_of(quantity: Quantity) -> tuple[str, str]:
    """Return the names in results of a quantity that is measured on both sides: of real and of synthetic pairs."""
    return f"{quantity.name}-real", f"{quantity.name}-synthetic"


class Fraction(NamedTuple):
    """What each of N images adds above and below the fraction line of a score, float64 (N,) each."""

    numerators: NDArray[np.float64]
    denominators: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class SegmentationMetric(MetricSpec):
    """A score of predicted masks, as a fraction.

    The score of an image is its numerator over its denominator. ``micro`` is the quotient of their sums over all
    images, ``micro-imagewise`` the mean of the images' scores (:mod:`harness.metrics.segmentation.scores`).

    Attributes:
        fraction: returns the numerator and the denominator of each image.
        undefined: what stands where a denominator is 0: the study's ``zero_division``, 1 - ``zero_division`` (of
            scores that are better when lower), or nothing: the image is left out.
        aliases: other names that studies and commands may use for it.
        micro: whether the quotient of sums means something.
        reduction: the one that stands where a table has room for one.
        by_size: whether it has a column in the table by polyp size.
    """

    digits: int = 3
    table: str = "scores"
    fraction: Callable[[MaskBatch], Fraction]
    undefined: Literal["zero-division", "one-minus-zero-division", "left-out"] = "zero-division"
    aliases: tuple[str, ...] = ()
    micro: bool = True
    reduction: Literal["micro", "micro-imagewise"] = "micro-imagewise"
    by_size: bool = False

    def empty(self, zero_division: float) -> float:
        """Return what stands where a denominator is 0; NaN leaves the image out."""
        match self.undefined:
            case "zero-division":
                return zero_division
            case "one-minus-zero-division":
                return 1.0 - zero_division
        return float("nan")


def _found(of: type[MetricSpec], package: str) -> dict[str, Found[Any]]:
    """Return the metrics of a kind, in their order."""
    known = discover(of, [package])
    return dict(sorted(known.items(), key=lambda item: (item[1].thing.order, item[0])))


def found_fidelity() -> dict[str, Found[FidelityMetric]]:
    """Return every fidelity metric with where it comes from, by name, in the order of tables.

    Raises:
        PluginError: two have one name, or an extension cannot be imported.
    """
    return _found(FidelityMetric, "harness.metrics.fidelity")


def found_segmentation() -> dict[str, Found[SegmentationMetric]]:
    """Return every score of segmenters with where it comes from, by name, in the order of tables.

    Raises:
        PluginError: two have one name, or an extension cannot be imported.
    """
    return _found(SegmentationMetric, "harness.metrics.segmentation")


def fidelity_metrics() -> dict[str, FidelityMetric]:
    """Return every fidelity metric by name, in the order of tables."""
    return {name: found.thing for name, found in found_fidelity().items()}


def segmentation_metrics() -> dict[str, SegmentationMetric]:
    """Return every score of segmenters by name, in the order of tables."""
    return {name: found.thing for name, found in found_segmentation().items()}


def fidelity_metric(name: str) -> FidelityMetric:
    """Return a fidelity metric by its name.

    Raises:
        DeclarationError: there is none; names the nearest.
    """
    known = fidelity_metrics()
    if name not in known:
        raise DeclarationError(
            f"There is no fidelity metric {name!r}{nearest(name, list(known))}; there are: {', '.join(known)}."
        )
    return known[name]


def segmentation_names() -> dict[str, str]:
    """Return every name that a score may be called by (``dice``), with its own (``f1``).

    Raises:
        PluginError: one name means two scores, or a score and a fidelity metric.
    """
    names: dict[str, str] = {}
    fidelity = fidelity_metrics()
    for one in segmentation_metrics().values():
        for called in (one.name, *one.aliases):
            if names.setdefault(called, one.name) != one.name:
                raise PluginError(f"{called!r} means two scores, {names[called]} and {one.name}; rename one.")
            if called in fidelity:
                raise PluginError(f"{called!r} is both a fidelity and a segmentation metric; rename one.")
    return names


def segmentation_metric(name: str) -> SegmentationMetric:
    """Return a score of segmenters by its name, or by another name of it.

    Raises:
        DeclarationError: there is none; names the nearest.
    """
    names = segmentation_names()
    if name not in names:
        raise DeclarationError(
            f"There is no segmentation metric {name!r}{nearest(name, list(names))}; there are: {', '.join(names)}."
        )
    return segmentation_metrics()[names[name]]


def scored_metrics(names: Sequence[str] | None) -> list[SegmentationMetric]:
    """Return the scores that a study computes: the named ones, or all built-in ones where it names none."""
    if names is not None:
        return [segmentation_metric(name) for name in names]
    return [found.thing for found in found_segmentation().values() if found.origin == "built-in"]


def code_of_extensions(names: Sequence[str]) -> dict[str, str]:
    """Return the fingerprint of the code of those metrics that are not built in, for the key of what they compute.

    Args:
        names: of fidelity metrics or scores.
    """
    found: dict[str, Found[Any]] = {**found_fidelity(), **found_segmentation()}
    own = [found[name] for name in names if name in found and found[name].origin != "built-in"]
    return {f"{m.name}: {file}": code for m in own for file, code in code_of_imported(m.module).items()}


def owner_of(quantity: str) -> FidelityMetric | None:
    """Return the fidelity metric that a quantity of the results belongs to."""
    return next((one for one in fidelity_metrics().values() if one.quantity(quantity)), None)


def quantity_called(name: str) -> Quantity:
    """Return what results call so: a quantity of a fidelity metric, a score of segmenters, or, where neither knows it,
    one that is called by its name alone."""
    owner = owner_of(name)
    found = owner.quantity(name) if owner else segmentation_metrics().get(name)
    return found or Quantity(name=name, label=name)

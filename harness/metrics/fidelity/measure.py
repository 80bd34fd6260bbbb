"""The fidelity metrics that studies name: what each measures, which way is better, what it needs, and how to compute
it.

Importing this module imports nothing heavy: declarations are checked against :data:`FIDELITY` before anything runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from harness.errors import DataError, DeclarationError, nearest

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from harness.data.pairs import PairSet
    from harness.metrics.fidelity.agreement import TrainedSegmenter

Values = dict[str, float | str | int | bool]
_SMALL = 2048  # images, the number of features: below it a covariance has not full rank and the FID is biased


@dataclass(frozen=True)
class Sets:
    """What a metric compares.

    Attributes:
        real: pairs that stand for the truth; for memorisation, those that the generator was fitted on.
        synthetic: pairs to measure.
        held_out: real pairs that the generator has not seen, or None.
        device: where to compute.
        seed: of random subsets.
        network: of the Fréchet distance that is not a FID.
        segmenter: that was trained on real pairs, for agreement; None where there is none.
    """

    real: PairSet
    synthetic: PairSet
    held_out: PairSet | None
    device: torch.device
    seed: int
    network: str = ""
    segmenter: TrainedSegmenter | None = None


@dataclass(frozen=True)
class FidelityMetric:
    """What studies, tables and plots must know about a metric.

    Attributes:
        name: in studies and results.
        label: in headings.
        on: what it looks at: ``images``, ``masks`` or ``pairs`` of both.
        lower_is_better: direction.
        needs_weights: names in the weights catalogue it cannot do without.
        definition: one sentence.
        compute: returns the value under the metric's name, and what belongs beside it.
        needs_segmenter: whether it asks a segmenter that was trained on real pairs, which a selection does not have.
        fewest: pairs a side without which it has no value.
    """

    name: str
    label: str
    on: Literal["images", "masks", "pairs"]
    lower_is_better: bool
    needs_weights: tuple[str, ...]
    definition: str
    compute: Callable[[Sets], Values]
    needs_segmenter: bool = False
    fewest: int = 2


def _inception_features(sets: Sets) -> tuple[NDArray[np.float32], NDArray[np.float32], Values]:
    return _features(sets, "fid-inception", {"mode": "clean"})


def _features(sets: Sets, name: str, facts: Values) -> tuple[NDArray[np.float32], NDArray[np.float32], Values]:
    """Return the features of both sides by a network, and what belongs beside every number made from them."""
    from harness.metrics.features.extract import features
    from harness.metrics.features.networks import network_named

    network = network_named(name)
    real = features(sets.real.images, network, device=sets.device)
    synthetic = features(sets.synthetic.images, network, device=sets.device)
    return real, synthetic, {"network": network.name, **facts}


def beside_fid(real: NDArray[np.float32], synthetic: NDArray[np.float32], seed: int = 0) -> Values:
    """Return what must stand beside a FID of few images: KID, a corrected FID and a sentence; nothing for many.

    Args:
        real: (N, D) features.
        synthetic: (M, D) features.
        seed: of the subsets that both draw.
    """
    from harness.metrics.fidelity.frechet import corrected_frechet_distance
    from harness.metrics.fidelity.kid import kernel_distance

    smallest = min(len(real), len(synthetic))
    if smallest >= _SMALL:
        return {}
    kid = kernel_distance(real, synthetic, seed=seed)
    note = (
        f"FID of {smallest} images is biased upwards (fewer than {_SMALL}): compare it only at equal numbers of "
        "images. KID has no such bias, and fid-corrected extrapolates to infinitely many images."
    )
    return {
        "fid-corrected": corrected_frechet_distance(real, synthetic, seed=seed),
        "kid": kid.value,
        "kid-deviation": kid.deviation,
        "notes": note,
    }


def _fid(sets: Sets) -> Values:
    from harness.metrics.fidelity.frechet import frechet_distance

    real, synthetic, facts = _inception_features(sets)
    return {"fid": frechet_distance(real, synthetic), **facts, **beside_fid(real, synthetic, sets.seed)}


def _frechet_distance(sets: Sets) -> Values:
    from harness.metrics.fidelity.frechet import frechet_distance

    real, synthetic, facts = _features(sets, sets.network, {})
    return {"frechet-distance": frechet_distance(real, synthetic), **facts}


def _kid(sets: Sets) -> Values:
    from harness.metrics.fidelity.kid import kernel_distance

    real, synthetic, facts = _inception_features(sets)
    kid = kernel_distance(real, synthetic, seed=sets.seed)
    return {"kid": kid.value, "kid-deviation": kid.deviation, "subset-size": kid.subset_size, **facts}


def _prdc(sets: Sets) -> Values:
    from harness.metrics.fidelity.prdc import prdc

    real, synthetic, facts = _inception_features(sets)
    found = prdc(real, synthetic)
    four = {name: getattr(found, name) for name in ("precision", "recall", "density", "coverage")}
    return {"prdc": found.coverage, **four, "neighbours": found.neighbours, **facts, "notes": "prdc is the coverage."}


def _sifid(sets: Sets) -> Values:
    from harness.metrics.fidelity.sifid import NETWORK, single_image_distances

    position = {name: i for i, name in enumerate(sets.real.ids)}
    pairs: list[tuple[int, int]] = []
    for j, seen in enumerate(sets.synthetic.lineage):
        source = next(iter(seen)) if len(seen) == 1 else ""
        if source not in position:
            none = "SIFID compares an image with the one real image it was made from; "
            none += "some here come from several." if len(seen) > 1 else "some here come from none of these."
            return {"sifid": float("nan"), "network": NETWORK, "notes": none}
        pairs.append((position[source], j))
    distances = single_image_distances(
        sets.real.images, sets.synthetic.images, device=sets.device, pairs=pairs, cache=True
    )
    return {"sifid": float(distances.mean()), "sifid-deviation": float(distances.std()), "network": NETWORK}


def _sim(sets: Sets) -> Values:
    from harness.metrics.fidelity.sim import similarity

    sim = similarity(sets.real.masks, sets.synthetic.masks, cache=True)
    note = f"An all-black mask scores {sim.black:.4f}; real masks score {sim.leave_one_out:.4f} among each other."
    return {"sim": sim.value, "sim-black": sim.black, "sim-real": sim.leave_one_out, "notes": note}


def _mask_area(sets: Sets) -> Values:
    from harness.metrics.fidelity import masks

    real, synthetic = sets.real.masks, sets.synthetic.masks
    return {
        "mask-area": masks.area_distance(real, synthetic),
        "mean-area-real": float(masks.areas(real).mean()),
        "mean-area-synthetic": float(masks.areas(synthetic).mean()),
        "mean-components-real": float(masks.components(real).mean()),
        "mean-components-synthetic": float(masks.components(synthetic).mean()),
        "empty-masks": int((masks.areas(synthetic) == 0).sum()),
    }


def _memorisation(sets: Sets) -> Values:
    from harness.metrics.fidelity.memorisation import DESCRIPTION, describe, memorisation

    if len(sets.real) < 2:
        seen = "no real image" if len(sets.real) == 0 else "one real image only"
        note = f"It has seen {seen}, so there is no telling copies from likeness."
        return {"memorisation": float("nan"), "network": DESCRIPTION, "notes": note}
    held_out = None if sets.held_out is None else describe(sets.held_out.images, cache=True)
    found = memorisation(describe(sets.real.images, cache=True), describe(sets.synthetic.images, cache=True), held_out)
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


def _thumbnail_distance(sets: Sets) -> Values:
    import numpy as np

    from harness.metrics.fidelity.frechet import frechet_distance
    from harness.metrics.fidelity.thumbnails import thumbnails

    def describe(pairs: PairSet) -> NDArray[np.float32]:
        masks = thumbnails(np.asarray(pairs.masks)[..., None] * np.uint8(255), 8)
        both = np.concatenate([thumbnails(pairs.images, 8), masks], axis=-1)
        return (both.reshape(len(pairs), -1) / 255).astype(np.float32)

    value = frechet_distance(describe(sets.real), describe(sets.synthetic))
    return {"thumbnail-distance": value, "network": "pixels-8"}


def _agreement(sets: Sets) -> Values:
    from harness.metrics.fidelity.agreement import agreement

    if sets.segmenter is None:
        raise DeclarationError("agreement asks a segmenter that was trained on real pairs, and none was given.")
    pairs, label = sets.synthetic, sets.segmenter.label
    if shows_masks(pairs):
        note = "The images are the masks as grey pictures, so that there is no telling whether they belong together."
        return {"agreement": float("nan"), "network": label, "notes": note}
    found = agreement(sets.segmenter.predict(pairs.images), pairs.masks)
    note = f"With the masks of other images the same predictions agree {found.chance:.4f} (chance)."
    if found.pairs < len(pairs):
        note += f" Pairs left out, since mask and prediction are empty: {len(pairs) - found.pairs}."
    if not found.pairs:
        note = "Every mask and every prediction is empty, so there is no value."
    beside: Values = {"agreement-chance": found.chance, "agreement-pairs": found.pairs}
    return {"agreement": found.value, **beside, "network": label, "notes": note}


_INCEPTION = ("fid-inception",)
_METRICS = (
    FidelityMetric(
        "fid", "FID", "images", True, _INCEPTION, "Fréchet Inception Distance, clean-fid's procedure.", _fid
    ),
    FidelityMetric("kid", "KID", "images", True, _INCEPTION, "Kernel Inception Distance, unbiased.", _kid),
    FidelityMetric(
        "prdc",
        "Coverage",
        "images",
        False,
        _INCEPTION,
        "Precision, recall, density, coverage of 5 neighbours.",
        _prdc,
        fewest=6,
    ),
    FidelityMetric(
        "frechet-distance",
        "Fréchet distance",
        "images",
        True,
        (),
        "Fréchet distance of the features of another network, which is named beside it; no FID.",
        _frechet_distance,
    ),
    FidelityMetric(
        "sifid",
        "SIFID",
        "images",
        True,
        _INCEPTION,
        "Fréchet distance between an image and the one it came from.",
        _sifid,
    ),
    FidelityMetric("sim", "SIM", "masks", False, (), "Mean share of pixels equal to the most similar real mask.", _sim),
    FidelityMetric(
        "mask-area", "Mask area distance", "masks", True, (), "Wasserstein distance between polyp areas.", _mask_area
    ),
    FidelityMetric(
        "memorisation",
        "Memorisation",
        "images",
        True,
        (),
        "Probability that a synthetic image lies closer to a training image than an unseen real one does.",
        _memorisation,
    ),
    FidelityMetric(
        "thumbnail-distance",
        "Thumbnail distance",
        "pairs",
        True,
        (),
        "Fréchet distance between image and mask averaged to 8x8 pixels; needs no weights and is no FID.",
        _thumbnail_distance,
    ),
    FidelityMetric(
        "agreement",
        "Agreement",
        "pairs",
        False,
        (),
        "Mean IoU of the synthetic masks with what a segmenter trained on real pairs predicts on their images.",
        _agreement,
        needs_segmenter=True,
    ),
)
FIDELITY: dict[str, FidelityMetric] = {metric.name: metric for metric in _METRICS}


def shows_masks(pairs: PairSet) -> bool:
    """Say whether the images are the masks as grey pictures, which is what a generator of masks makes."""
    import numpy as np

    def alike(images: NDArray[np.uint8], masks: NDArray[np.uint8]) -> bool:
        return bool(np.array_equal(images, np.repeat(masks[..., None] * np.uint8(255), 3, axis=-1)))

    # The first image tells nearly always; comparing all of a large pool takes a copy of it.
    return alike(pairs.images[:1], pairs.masks[:1]) and alike(pairs.images, pairs.masks)


def of_masks(pairs: PairSet) -> PairSet:
    """Return the pairs with their masks as grey pictures (0 and 255) for images."""
    import numpy as np

    from harness.data.pairs import PairSet as Pairs

    pictures = np.repeat(pairs.masks[..., None] * np.uint8(255), 3, axis=-1)
    return Pairs(pictures, pairs.masks, pairs.ids, pairs.groups, pairs.lineage)


def too_few(name: str, real: PairSet, synthetic: PairSet) -> Values | None:
    """Return a metric without a value, and a note why, where there are too few pairs for it; None where there are not.

    Args:
        name: of a metric in :data:`FIDELITY`.
        real: the reference.
        synthetic: what is to be measured.
    """
    fewest = FIDELITY[name].fewest
    if min(len(real), len(synthetic)) >= fewest:
        return None
    note = f"It needs at least {fewest} pairs a side, and there are {len(real)} real and {len(synthetic)} synthetic."
    counts: Values = {"n_real": len(real), "n_synthetic": len(synthetic)}
    return {name: float("nan"), **counts, "network": "", "mode": "", "notes": note}


def constant_picture(pairs: PairSet) -> str:
    """Say how the images of a set are worthless whatever a metric says, or nothing.

    Returns:
        ``are the same picture`` when all are equal, ``are of one colour each`` when none shows anything, or ``""``.
    """
    images = pairs.images
    if len(images) > 1 and all((image == images[0]).all() for image in images[1:]):
        return "are the same picture"
    if all((image == image[0, 0]).all() for image in images):
        return "are of one colour each"
    return ""


def measure(
    names: Sequence[str],
    real: PairSet,
    synthetic: PairSet,
    *,
    held_out: PairSet | None = None,
    device: torch.device,
    seed: int = 0,
    network: str = "",
    segmenter: TrainedSegmenter | None = None,
) -> dict[str, Values]:
    """Measure synthetic pairs against real ones.

    Synthetic images that are their masks as grey pictures (a generator of masks makes those) are compared with the
    real masks as grey pictures. When every synthetic image is the same picture, every value is NaN and a note says
    why: a selection must not choose it. Features are kept in the store, so that a set is never measured twice.

    Args:
        names: of metrics in :data:`FIDELITY`.
        real: the reference; for memorisation, what the generator was fitted on.
        synthetic: what to measure.
        held_out: real pairs unseen by the generator, for memorisation; without them it compares within ``real``.
        device: where to compute.
        seed: of random subsets.
        network: for ``frechet-distance``, see ``harness.metrics.features.networks.network_named``.
        segmenter: for ``agreement``.

    Returns:
        For each name, the value under that name and beside it ``n_real``, ``n_synthetic``, ``network`` (empty when the
        metric uses none), ``mode``, ``notes``, and what else the metric tells.

    Raises:
        DeclarationError: there is no metric of a name, or no segmenter for one that asks it.
        DataError: there are too few images.
        WeightsError: a metric's network weights are not on this machine.
    """
    for name in names:
        if name not in FIDELITY:
            raise DeclarationError(
                f"There is no fidelity metric {name!r}{nearest(name, list(FIDELITY))}; there are: "
                f"{', '.join(FIDELITY)}."
            )
    if len(synthetic) < 2 or (len(real) < 2 and list(names) != ["memorisation"]):
        raise DataError(
            f"Fidelity needs at least two pairs a side, got {len(real)} real and {len(synthetic)} synthetic; "
            "sample more."
        )
    common: list[str] = []
    if shows_masks(synthetic) and not shows_masks(real):
        real, held_out = of_masks(real), None if held_out is None else of_masks(held_out)
        common.append("Measured on masks as grey pictures.")
    constant = constant_picture(synthetic)
    if constant:
        common.append(f"All {len(synthetic)} synthetic images {constant}, so there is no value.")
    sets = Sets(real, synthetic, held_out, device, seed, network, segmenter)
    measured: dict[str, Values] = {}
    for name in names:
        values: Values = {name: float("nan")} if constant else FIDELITY[name].compute(sets)
        notes = " ".join([*common, str(values.pop("notes", ""))]).strip()
        counts: Values = {"n_real": len(real), "n_synthetic": len(synthetic)}
        measured[name] = {**values, **counts, "network": values.get("network", ""), "mode": values.get("mode", "")}
        measured[name]["notes"] = notes
    return measured

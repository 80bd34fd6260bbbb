"""The results of a study as tables: what every report, comparison and aggregate is made from.

``StudyResults`` is built from a plan and the store, or by hand in tests. Its columns are the reference for
``results.csv``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from harness.data.pairs import PairSet

#: Columns of ``results.csv``: one row a measured number, or one row with an empty value for a cell that has none.
COLUMNS: dict[str, str] = {
    "kind": "segmentation, training (whether a segmenter learned), trivial (predictions that look at no image), "
    "fidelity or selection; or the kind of a stage that the study asks for itself",
    "study": "name of the study",
    "profile": "profile, or empty for the study as declared",
    "protocol": "clean or published",
    "cell": "readable label: segmenter * recipe (segmentation, training), all polyp, none or mean mask (trivial), "
    "generator (fidelity), generator and part (selection)",
    "segmenter": "segmenter label; empty for trivial, fidelity and selection",
    "recipe": "training-set label such as real=100,dcgan=300; empty for trivial, fidelity and selection",
    "arm": "real, synthetic, mixed or control; real for fidelity rows of real images",
    "real": "number of distinct real training pairs, a generator's own included; of real (ROLE), its images",
    "n_fit": "number of real pairs that the generators of its synthetic pairs were fitted on, the most of them when "
    "they differ; empty without synthetic pairs",
    "synthetic": "number of synthetic (or control) training pairs, or pairs in the generator's pool",
    "generator": "generator or control that made them, several joined by +; empty for real only; real (report) for "
    "real images of the report role, measured as synthetic ones are",
    "seed": "number of the replicate, or the seed that stands for it; empty for fidelity and selection",
    "training": "seed of the training",
    "pool": "key of the stages that its synthetic pairs come from, their first 12 digits; empty without any",
    "fit": "of the generators' fits behind them; empty where nothing was learned",
    "subset": "which draw of its real pairs, of which fold, such as 0.1; empty where they are none or all",
    "fold": "fold number from 0; 0 when there are no folds",
    "dataset": "dataset that was scored on",
    "role": "role that was scored on or compared with: report, select or fit; seen where each generator is compared "
    "with what it was fitted on",
    "step": "checkpoint step (selection rows); empty otherwise",
    "metric": "iou, f1, ... (harness metrics list); last-rise (how far the last selection score lies above the best "
    "before it) and constant (1: one mask for every image) of training; fid, kid, ... and what belongs beside them "
    "(kid-deviation, coverage, n_real: how many real images a network compared with, ...); of several sample sets "
    "their mean, with fid-between-sets, the standard deviation between them, and fid-set-1, fid-set-2, ... of each",
    "reduction": "micro, micro-imagewise, or micro-imagewise-small, -medium and -large over polyps of a size "
    "(segmentation); the network (fidelity); selected, or why the checkpoint cannot be (selection); may be empty",
    "value": "the number; empty when the stage has no result or is from before it was kept, or has no value there",
    "images": "how many images the number stands on; of several sample sets, how many each has",
    "status": "done, failed, out-of-memory, refused (leak guard), skipped (an input failed) or left (not run yet)",
    "leak": "empty, or what was seen (published protocol, or scores of the fit and select roles)",
    "stage": "store key of the stage that measured it",
}

#: Columns of the per-image table: one row an image, seed, fold and cell; those of scores follow (``score_columns``).
IMAGE_COLUMNS: dict[str, str] = {
    "segmenter": "as in COLUMNS",
    "recipe": "as in COLUMNS",
    "seed": "number of the replicate, or the seed that stands for it",
    "training": "as in COLUMNS",
    "pool": "as in COLUMNS",
    "fit": "as in COLUMNS",
    "subset": "as in COLUMNS",
    "fold": "fold number",
    "dataset": "dataset that was scored on",
    "role": "role that was scored on",
    "image": "id of the image",
    "group": "its group (patient, video or near-duplicates): the unit that statistics resample",
    "size": "of its polyp, by thirds of the fit role: small, medium, large; empty without polyp",
}


def score_columns(metric: str) -> tuple[str, str]:
    """Return the columns of the per-image table that have a score's numerators and denominators."""
    return f"{metric}-numerator", f"{metric}-denominator"


#: Error rate of a family of comparisons: false verdicts in at most so many of studies in which nothing is true.
LEVEL = 0.05


@dataclass(frozen=True)
class Comparison:
    """What a study compares.

    Attributes:
        baselines: for each recipe label, the label of the one it is compared with; recipes without one are
            absent.
        metric: such as ``iou``.
        reduction: ``micro`` or ``micro-imagewise``.
        name: of the family of comparisons, which are corrected together.
        margin: difference below which nothing matters; NaN for none.
        level: error rate of the family; where a study looks several times, what this look may spend of it.
    """

    baselines: dict[str, str]
    metric: str = "iou"
    reduction: str = "micro-imagewise"
    name: str = "from the baseline"
    margin: float = math.nan
    level: float = LEVEL


@dataclass(frozen=True)
class PredictionGrid:
    """Pictures of what a segmenter predicts on a few report images.

    Attributes:
        segmenter: its label.
        images: uint8 (N, H, W, 3).
        truth: uint8 (N, H, W) in {0, 1}.
        predictions: for each recipe label, uint8 (N, H, W) in {0, 1}.
        ids: N image ids.
    """

    segmenter: str
    images: NDArray[np.uint8]
    truth: NDArray[np.uint8]
    predictions: dict[str, NDArray[np.uint8]]
    ids: tuple[str, ...]


@dataclass(frozen=True)
class ClosestPairs:
    """The synthetic images that lie closest to training images, closest first.

    Attributes:
        synthetic: uint8 (K, H, W, 3).
        real: uint8 (K, H, W, 3), the nearest training image of each.
        distances: float64 (K,), root mean square difference in grey levels.
        synthetic_ids: K ids.
        real_ids: K ids.
    """

    synthetic: NDArray[np.uint8]
    real: NDArray[np.uint8]
    distances: NDArray[np.float64]
    synthetic_ids: tuple[str, ...]
    real_ids: tuple[str, ...]

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[Any]]) -> ClosestPairs | None:
        """Return the pairs that ``harness.metrics.fidelity.memorisation.closest`` found, None when there are none."""
        if not arrays or not len(arrays["distance"]):
            return None
        ids = [tuple(str(name) for name in arrays[key]) for key in ("synthetic_ids", "real_ids")]
        return cls(arrays["synthetic"], arrays["real"], arrays["distance"], ids[0], ids[1])


@dataclass(frozen=True)
class ClosestMasks:
    """Synthetic masks, each with the real mask that is most similar by SIM.

    Attributes:
        synthetic: uint8 (K, H, W) in {0, 1}, the first of the pool.
        real: uint8 (K, H, W) in {0, 1}, the most similar real mask of each.
        similarity: float64 (K,), shares of equal pixels.
    """

    synthetic: NDArray[np.uint8]
    real: NDArray[np.uint8]
    similarity: NDArray[np.float64]

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[Any]]) -> ClosestMasks | None:
        """Return what ``harness.metrics.fidelity.sim.closest_masks`` found, None when there is nothing."""
        return cls(arrays["synthetic"], arrays["real"], arrays["similarity"]) if arrays else None


@dataclass(frozen=True)
class MaskDiversity:
    """How the synthetic masks made from one real pair differ, for a few real pairs.

    Attributes:
        masks: uint8 (K, H, W) in {0, 1}, the real masks.
        mean: float (K, H, W) in [0, 1], pixel-wise mean of the synthetic masks made from each.
        deviation: float (K, H, W) in [0, 0.5], their pixel-wise standard deviation.
        counts: K numbers of synthetic masks.
        ids: K ids of the real pairs.
    """

    masks: NDArray[np.uint8]
    mean: NDArray[np.floating]
    deviation: NDArray[np.floating]
    counts: tuple[int, ...]
    ids: tuple[str, ...]

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[Any]] | None) -> MaskDiversity | None:
        """Return what ``harness.metrics.fidelity.masks.diversity`` found, None when there is nothing."""
        if not arrays or not len(arrays["count"]):
            return None
        counts, ids = tuple(int(n) for n in arrays["count"]), tuple(str(name) for name in arrays["ids"])
        return cls(arrays["real"], arrays["mean"], arrays["deviation"], counts, ids)


@dataclass(frozen=True)
class Measured:
    """What a fidelity stage tells of a generator's pairs beside the numbers in ``rows``, for tables and figures.

    Attributes:
        cell: as in ``COLUMNS``, and with ``fold`` what its rows are found by.
        fold: fold number.
        arm: ``synthetic``, or ``real`` for real images measured as synthetic ones are.
        reference: what memorisation compared with, ``held-out`` or ``leave-one-out``; empty when it was not measured.
        copies: whether the images were flagged as copies of training images; None when it was not measured.
        real_areas: float64 (M,), shares of each real image that are polyp; None when they were not measured.
        areas: float64 (N,), the same of the measured images.
        closest: the pairs that lie closest; None when memorisation was not measured.
        diversity: None unless several masks were made from one real pair.
        closest_masks: None when SIM was not measured.
    """

    cell: str
    fold: int
    arm: str = "synthetic"
    reference: str = ""
    copies: bool | None = None
    real_areas: NDArray[np.float64] | None = None
    areas: NDArray[np.float64] | None = None
    closest: ClosestPairs | None = None
    diversity: MaskDiversity | None = None
    closest_masks: ClosestMasks | None = None


@dataclass(frozen=True)
class Plugged:
    """A plugin with all of its parameters, defaults included."""

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Pipeline:
    """How a generator makes pairs, whatever a study calls it.

    Attributes:
        makers: the plugin that makes pairs, or the one that makes masks and the one that makes images for them.
        refiners: in the order in which they work.
        makes: ``pairs``, or ``masks`` alone, whose images are the masks as grey pictures.
    """

    makers: tuple[Plugged, ...]
    refiners: tuple[Plugged, ...] = ()
    makes: Literal["pairs", "masks"] = "pairs"


@dataclass(frozen=True)
class MadeFrom:
    """Some pairs of a generator that were made from one real pair, for figures.

    Attributes:
        cell: as in ``COLUMNS``.
        source: that real pair; None when they were made from many.
        made: the pairs.
        before: the same pairs before the first refinement; None when nothing refines them.
    """

    cell: str
    source: PairSet | None
    made: PairSet
    before: PairSet | None = None


@dataclass(frozen=True)
class Variations:
    """Images that a generator made for a few masks by several seeds each.

    Attributes:
        cell: as in ``COLUMNS``.
        masks: uint8 (K, H, W) in {0, 1}, the first of the generator's masks.
        images: uint8 (K, V, H, W, 3), ``V`` images for each mask, before any refinement.
        agreement: (K,), of each mask the mean IoU with what a segmenter finds in its images, where that was measured.
    """

    cell: str
    masks: NDArray[np.uint8]
    images: NDArray[np.uint8]
    agreement: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class CheckpointSamples:
    """What the checkpoints of a selected part of a generator made of equal seeds (and masks).

    Attributes:
        cell: generator and part, as in the selection rows.
        part: ``pairs``, ``masks`` or ``images``.
        steps: of the checkpoints, in order.
        chosen: step of the chosen one.
        images: uint8 (len(steps), K, H, W, 3); of masks, the masks as grey pictures.
        masks: uint8 (len(steps), K, H, W) in {0, 1}; of images, the masks that they were made for, alike for all steps.
    """

    cell: str
    part: str
    steps: tuple[int, ...]
    chosen: int
    images: NDArray[np.uint8]
    masks: NDArray[np.uint8]


@dataclass(frozen=True)
class Failure:
    """A stage without a result, and why, in one line."""

    stage: str
    label: str
    status: str
    reason: str


@dataclass(frozen=True)
class StudyResults:
    """Everything that a report is made from.

    Attributes:
        name: the study's name; also the report folder's, with ``-profile`` appended when there is one.
        title: the study's title.
        profile: profile name or an empty string.
        rows: one row a number, columns ``COLUMNS``.
        images: one row an image and cell, columns ``IMAGE_COLUMNS`` and ``score_columns`` of each score.
        comparison: baselines and primary metric: the primary family.
        secondary: further families: controls against the baseline, generators against a control or each other.
        recipes: recipe labels in declared order (controls after the recipes they control).
        segmenters: segmenter labels in declared order.
        generators: generator names in declared order.
        done: evaluated cells (segmenter, recipe, seed, fold) with a result.
        total: evaluated cells planned.
        failures: stages without a result.
        notes: sentences that must be shown (random weights, dropped duplicates, fallbacks, a generator that saw more
            real pairs than an arm).
        facts: for the methods paragraph and the page: dataset, title, split, split_digest, roles (dict role ->
            images), folds, seeds (list), budget
            (sentence), selection (sentence), protocol, size (pixels), zero_division, parameters (dict segmenter ->
            trainable parameters), sample_sets (how many of each generator are measured, when several), versions
            (dict), commit, device, command.
        published: names of CSV files in ``studies/published`` to set beside ours.
        tables: declared table names; empty for all that apply.
        figures: declared figure names; empty for all that apply.
        real: some real pairs of the fit role, for the sample grid.
        synthetic: for each generator some of its pairs.
        predictions: what segmenters predict on a few report images.
        measured: one for each fold of each generator and each reference whose fidelity has a result.
        made: for each generator some of its pairs beside the real pair that they were made from.
        pipelines: for each generator how it makes pairs.
        masks: for each generator whose masks a plugin of its own makes, the first of these, uint8 (N, H, W) in {0, 1}.
        variations: for each generator that makes images for masks, several of them for a few masks.
        checkpoints: for each selected part of a generator what its checkpoints made, in its first fold.
        selection_networks: for each ``cell`` of the selection rows, the network that its checkpoints were scored with.
    """

    name: str
    title: str
    profile: str
    rows: pd.DataFrame
    images: pd.DataFrame
    comparison: Comparison
    recipes: list[str]
    segmenters: list[str]
    generators: list[str]
    done: int
    total: int
    secondary: list[Comparison] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    published: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    figures: list[str] = field(default_factory=list)
    real: PairSet | None = None
    synthetic: dict[str, PairSet] = field(default_factory=dict)
    predictions: list[PredictionGrid] = field(default_factory=list)
    measured: list[Measured] = field(default_factory=list)
    selection_networks: dict[str, str] = field(default_factory=dict)
    made: list[MadeFrom] = field(default_factory=list)
    pipelines: dict[str, Pipeline] = field(default_factory=dict)
    masks: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    variations: list[Variations] = field(default_factory=list)
    checkpoints: list[CheckpointSamples] = field(default_factory=list)

    def csv(self) -> str:
        """Return ``results.csv``, the same on every run: ``rows`` in their order, columns ``COLUMNS``, 10 significant
        digits, an empty field for nothing."""
        rows = self.rows.reindex(columns=list(COLUMNS))
        return str(rows.to_csv(index=False, float_format="%.10g", lineterminator="\n"))

"""Which of our rows measure what a printed number measures.

Generators are matched by the plugins and refiners that they are made of, whatever a study calls them; training sets by
their numbers of real and synthetic images, and by how many real ones the generators have seen.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from harness.results.schema import StudyResults

METRICS = {
    "iou": "iou", "f1": "f1", "f-score": "f1", "acc": "accuracy", "accuracy": "accuracy", "prec": "precision",
    "precision": "precision", "recall": "recall", "dice loss": "dice-loss", "fid": "fid", "sim_percent": "sim",
}  # fmt: skip

#: How far a number of images may lie from the printed one: folds of 1000 images have 666 or 667.
TOLERANCE = 0.02

#: Optimiser steps of an epoch of paper A's generator of images: 900 images in batches of 8. Its epochs count from 0,
#: and a checkpoint has its epoch behind it.
STEPS_AN_EPOCH = 113

#: Plugins of the generators that the papers print numbers of.
MAKERS = {
    "DCGAN": ("dcgan",),
    "ProGAN": ("progan",),
    "FastGAN": ("fastgan",),
    "SinGAN-Seg": ("singan-seg",),
    "diffusion": ("mask-ddpm", "mask-ldm"),
}

Pick = Callable[["pd.DataFrame"], "pd.DataFrame"]


@dataclass(frozen=True)
class Ratio:
    """Weights of content and style of the style transfer that refines a generator's images."""

    content: float
    style: float


#: Ratio of content to style in paper B; None without style transfer.
STYLES = {"none": None, "1:1": Ratio(1, 1), "1:1000": Ratio(1, 1000)}


@cache
def simplified(name: str) -> str:
    """Return a name without what spelling varies: case, dashes, ``+`` for ``plus``."""
    return re.sub(r"[^a-z0-9]", "", name.lower().replace("+", "plus"))


@dataclass(frozen=True)
class StudyFacts:
    """What of a study decides which of its rows match.

    Attributes:
        makers: for each generator the plugins that make its pairs.
        styles: for each generator the style transfer that refines them, None without any refiner; a generator that
            anything else refines is absent.
        fit_images: size of the fit role.
        sets: sample sets of a generator that are measured.
        widest: the most real images that generators of any training set were fitted on; ``fit_images`` without any.
    """

    makers: Mapping[str, tuple[str, ...]]
    styles: Mapping[str, Ratio | None]
    fit_images: int
    sets: int
    widest: int

    @classmethod
    def of(cls, results: StudyResults) -> StudyFacts:
        """Read a study's results."""
        styles: dict[str, Ratio | None] = {}
        for name, pipeline in results.pipelines.items():
            refiners = [(refiner.name, refiner.parameters) for refiner in pipeline.refiners]
            match refiners:
                case []:
                    styles[name] = None
                case [("style-transfer", {"content": content, "style": style})]:
                    styles[name] = Ratio(float(content), float(style))
        fit_images = int((results.facts.get("roles") or {}).get("fit", 0))
        n_fit = results.rows.loc[results.rows["kind"] == "segmentation", "n_fit"]
        known = [float(number) for number in n_fit if _is_number(number)]
        return cls(
            {name: tuple(maker.name for maker in pipeline.makers) for name, pipeline in results.pipelines.items()},
            styles,
            fit_images,
            int(results.facts.get("sample_sets") or 1),
            round(max(known, default=fit_images)),
        )

    def is_made_by(self, generators: pd.Series, name: str, style: Ratio | None = None) -> pd.Series:
        """Return which generators are the paper's ``name`` with the given style transfer (None: without any)."""
        wanted = {
            own
            for own, makers in self.makers.items()
            if makers == MAKERS.get(name) and own in self.styles and self.styles[own] == style
        }
        return generators.isin(sorted(wanted))


def matching(record: Mapping[str, str], ours: StudyFacts, every_real: int) -> tuple[str, Pick]:
    """Return our name of the metric that a line of a published CSV holds, and the rule that finds our rows.

    Args:
        record: the line, by column.
        ours: what we have.
        every_real: the most real images of any line of the CSV.
    """
    metric = METRICS.get(record.get("metric", "").lower(), "")
    if "n_syn" in record:
        return metric, _ratio(record, ours, every_real)
    if "train_data" in record:
        return metric, _real_or_fake(record, ours)
    if "n_real_base" in record:
        return metric, _small_data(record, ours)
    if "iteration" in record:
        # What the paper calls iteration 0 was saved after the first update.
        return metric, _step(ours, "masks", max(1, int(record["iteration"])), metric)
    if "epoch" in record:
        return metric, _step(ours, "images", (int(record["epoch"]) + 1) * STEPS_AN_EPOCH, metric)
    if "gan" in record:
        name = record["gan"].removesuffix("-ST")
        style = STYLES["1:1000"] if name != record["gan"] else None
        return "fid", _fidelity(ours, name, style, "fid", int(record["n_synthetic"]))
    name = record["dataset"].removesuffix("-ST")
    weights = (record.get("content_weight") or 0, record.get("style_weight") or 0)
    style = Ratio(float(weights[0]), float(weights[1])) if name != record["dataset"] else None
    return "sifid", _fidelity(ours, name, style, "sifid", None)


def _segmentation(rows: pd.DataFrame, reduction: str) -> pd.DataFrame:
    """Return our segmentation rows of one reduction, or of none for want of a result, that are not control arms."""
    same = rows["reduction"].fillna("").isin([reduction, ""])
    return rows[(rows["kind"] == "segmentation") & same & (rows["arm"] != "control")]


def _same(column: pd.Series, name: str) -> pd.Series:
    """Return which names start with ``name``, spelling aside (``UNet++`` and ``unetplusplus-resnet34``)."""
    return column.fillna("").map(lambda own: simplified(str(own)).startswith(simplified(name))).astype(bool)


def _near(column: pd.Series, wanted: float) -> pd.Series:
    """Return which numbers are the wanted one, as nearly as folds allow; nothing is near where there is none."""
    margin = TOLERANCE * max(wanted, 1)
    return column.map(lambda number: _is_number(number) and abs(float(number) - wanted) <= margin).astype(bool)


def _is_number(value: Any) -> bool:
    """Say whether a field of the results holds a number; some hold an empty text where there is none."""
    return value is not None and value != "" and float(value) == float(value)


def _ratio(record: Mapping[str, str], ours: StudyFacts, every_real: int) -> Pick:
    """Match paper A's Tables 3 and 4 by counts, segmenter and reduction; its 700 are all its real images."""
    real, synthetic = int(record["n_real"]), int(record["n_syn"])

    def pick(rows: pd.DataFrame) -> pd.DataFrame:
        own = _segmentation(rows, record["reduction"])
        theirs = ours.is_made_by(own["generator"], "diffusion")
        own = own[theirs | (own["synthetic"].fillna(0) == 0)]
        counted = own["real"] == real
        if real == every_real:
            counted = counted | own["recipe"].fillna("").str.startswith("real=all")
        return own[counted & (own["synthetic"].fillna(0) == synthetic) & _same(own["segmenter"], record["model"])]

    return pick


def _real_or_fake(record: Mapping[str, str], ours: StudyFacts) -> Pick:
    """Match paper B's Table 2: REAL, or synthetic only with so many images for each real one.

    Real images are those that the generators were fitted on: all of two folds in the paper, fewer in a study that gives
    them fewer.
    """
    many = int(record["n_fake_per_real"])
    style = STYLES.get(record["style_transfer_cw_sw"])

    def pick(rows: pd.DataFrame) -> pd.DataFrame:
        own = _segmentation(rows, "micro-imagewise")
        if not many:
            own = own[own["arm"] == "real"]
            every = (own["recipe"] == "real=all") & (ours.widest >= (1 - TOLERANCE) * ours.fit_images)
            return own[every | _near(own["real"], ours.widest)]
        own = own[(own["arm"] == "synthetic") & ours.is_made_by(own["generator"], "SinGAN-Seg", style)]
        return own[_near(own["n_fit"], ours.widest) & _near(own["synthetic"], many * ours.widest)]

    return pick


def _small_data(record: Mapping[str, str], ours: StudyFacts) -> Pick:
    """Match paper B's Table 3: n real images, or synthetic ones only, made from n real ones in style 1:1000."""
    base, amount = int(record["n_real_base"]), int(record["n_images"])

    def pick(rows: pd.DataFrame) -> pd.DataFrame:
        own = _segmentation(rows, "micro-imagewise")
        if record["data"].lower() == "real":
            return own[(own["arm"] == "real") & (own["real"] == amount)]
        own = own[(own["arm"] == "synthetic") & ours.is_made_by(own["generator"], "SinGAN-Seg", STYLES["1:1000"])]
        return own[(own["n_fit"] == base) & (own["synthetic"] == amount)]

    return pick


def _fidelity(ours: StudyFacts, name: str, style: Ratio | None, metric: str, amount: int | None) -> Pick:
    """Match a generator's fidelity.

    Args:
        ours: what we have.
        name: of the paper's generator.
        style: of its style transfer.
        metric: our name.
        amount: images in a set, as many as real ones that the generator was fitted on (or all of the fit role, when it
            has fewer); None for any.
    """

    def pick(rows: pd.DataFrame) -> pd.DataFrame:
        own = rows[(rows["kind"] == "fidelity") & (rows["metric"] == metric)]
        own = own[ours.is_made_by(own["generator"], name, style)]
        if amount is None:
            return own
        own = own[_near(own["real"], min(amount, ours.fit_images))]
        measured = own["images"].astype(float).fillna(0)
        # Without a result, a set will have what the pool is shared out to or, of few images, what was fitted on.
        size = measured.where(measured > 0, own["synthetic"].astype(float) / ours.sets)
        fitted = (measured == 0) & (own["real"].astype(float) == amount)
        return own[(size == amount) | fitted]

    return pick


def _step(ours: StudyFacts, part: str, step: int, metric: str) -> Pick:
    """Match a checkpoint of paper A's generator of masks (Table 1) or of images for masks (Table 2) by optimiser steps.

    Of several fits of one generator, the one on the most real images stands.

    Args:
        ours: what we have.
        part: ``masks`` or ``images``; whatever the other part is made by.
        step: optimiser steps that the printed checkpoint has behind it.
        metric: our name.
    """
    position = {"masks": 0, "images": -1}[part]
    plugin = MAKERS["diffusion"][position]
    wanted = sorted(own for own, makers in ours.makers.items() if makers[position] == plugin)

    def pick(rows: pd.DataFrame) -> pd.DataFrame:
        own = rows[(rows["kind"] == "selection") & (rows["metric"] == metric) & rows["generator"].isin(wanted)]
        own = own[own["cell"].map(lambda cell: str(cell).endswith(f" {part}")).astype(bool)]
        if own.empty:
            return own
        real = own["real"].map(lambda count: float(count) if _is_number(count) else 0.0)
        return own[(own["step"].astype(float) == step) & (real == real.max())]

    return pick

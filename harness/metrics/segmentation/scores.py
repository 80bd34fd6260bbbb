"""Scores of binary segmentation masks, from the pixels that agree: IoU, F1, accuracy, precision, recall, Dice loss.

Everything is computed from one table, the ``counts``: int64 (N, 4), one row an image, columns true positives, false
positives, false negatives, true negatives (:data:`COLUMNS`). Three reductions of it are in use:

* per image: one score an image;
* ``micro-imagewise``: the mean of those, every image weighing the same;
* ``micro``: the score of the summed counts, every pixel weighing the same.

The formulas and the names of the reductions are those of ``segmentation_models_pytorch.metrics`` (0.6.0).

**Division by zero.** A score whose denominator is zero is ``zero_division`` (1, 0 or nan), per image and in
``micro`` alike. That is the case for IoU, F1 and Dice loss when neither the truth nor the prediction has a polyp
pixel, for precision when the prediction has none, for recall when the truth has none. Dice loss is 1 - F1
throughout, so there it becomes 1 - ``zero_division``. With nan, ``micro-imagewise`` is the mean over the images that
have a score, and nan when none has. (segmentation_models_pytorch itself returns nan for such a ``micro`` score,
whatever its ``zero_division``.)
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from harness.errors import DataError, nearest

if TYPE_CHECKING:
    from PIL.Image import Image

Reduction = Literal["micro", "micro-imagewise"]
REDUCTIONS: tuple[Reduction, ...] = ("micro", "micro-imagewise")

#: Columns of a counts table.
COLUMNS = ("tp", "fp", "fn", "tn")

#: Formats that a mask may have.
MASK_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif", ".webp")

#: The most that one file of a zip may unpack to, in bytes: more is no mask but a decompression bomb.
_LARGEST_FILE = 2**28


@dataclass(frozen=True)
class Metric:
    """What a table or a plot must know about a metric.

    Attributes:
        name: as in results, such as ``iou``.
        label: as in headings, such as ``IoU``.
        higher_is_better: direction.
        lower: least possible value.
        upper: greatest possible value.
        unit: empty for a fraction.
        number_format: a format specification, such as ``.4f``.
        definition: the formula in counts.
    """

    name: str
    label: str
    higher_is_better: bool
    lower: float
    upper: float
    unit: str
    number_format: str
    definition: str


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("iou", "IoU", True, 0.0, 1.0, "", ".4f", "tp / (tp + fp + fn)"),
        Metric("f1", "F1", True, 0.0, 1.0, "", ".4f", "2 tp / (2 tp + fp + fn)"),
        Metric("accuracy", "Accuracy", True, 0.0, 1.0, "", ".4f", "(tp + tn) / (tp + fp + fn + tn)"),
        Metric("precision", "Precision", True, 0.0, 1.0, "", ".4f", "tp / (tp + fp)"),
        Metric("recall", "Recall", True, 0.0, 1.0, "", ".4f", "tp / (tp + fn)"),
        Metric("dice-loss", "Dice loss", False, 0.0, 1.0, "", ".4f", "1 - 2 tp / (2 tp + fp + fn)"),
    )
}


def confusion(predicted: NDArray[Any], true: NDArray[Any]) -> NDArray[np.int64]:
    """Count the pixels of each kind in each image.

    Args:
        predicted: bool or uint8 (N, H, W) in {0, 1}.
        true: the same for the truth.

    Returns:
        Counts, int64 (N, 4): true positives, false positives, false negatives, true negatives.

    Raises:
        ValueError: the shapes differ, are not (N, H, W), or a value is neither 0 nor 1.
    """
    if predicted.shape != true.shape or predicted.ndim != 3:
        raise ValueError(f"predicted and true must both be (N, H, W), got {predicted.shape} and {true.shape}")
    for name, masks in (("predicted", predicted), ("true", true)):
        if masks.dtype != np.bool_ and masks.size and not ((masks == 0) | (masks == 1)).all():
            raise ValueError(f"{name} must hold 0 and 1 only, got values from {masks.min()} to {masks.max()}")
    p, t = predicted.astype(bool, copy=False), true.astype(bool, copy=False)
    pixels = (1, 2)
    both = (p & t).sum(axis=pixels, dtype=np.int64)
    predicted_area, true_area = p.sum(axis=pixels, dtype=np.int64), t.sum(axis=pixels, dtype=np.int64)
    neither = np.int64(p.shape[1] * p.shape[2]) - (predicted_area + true_area - both)
    return np.stack([both, predicted_area - both, true_area - both, neither], axis=1)


def _divide(numerator: NDArray[np.int64], denominator: NDArray[np.int64], otherwise: float) -> NDArray[np.float64]:
    quotient = np.full(numerator.shape, otherwise, np.float64)
    return np.divide(numerator, denominator, out=quotient, where=denominator != 0)


def per_image_scores(counts: NDArray[np.int64], zero_division: float = 1.0) -> dict[str, NDArray[np.float64]]:
    """Score each row of counts.

    Args:
        counts: int64 (N, 4) from :func:`confusion`.
        zero_division: 1, 0 or nan: the score where the denominator is zero (see the module).

    Returns:
        For each metric of :data:`METRICS`, float64 (N,).

    Raises:
        ValueError: ``zero_division`` is something else, or the counts are not (N, 4).
    """
    if not (zero_division in (0.0, 1.0) or np.isnan(zero_division)):
        raise ValueError(f"zero_division must be 1, 0 or nan, got {zero_division}")
    if counts.ndim != 2 or counts.shape[1] != len(COLUMNS):
        raise ValueError(f"counts must be (N, 4), got {counts.shape}")
    tp, fp, fn, tn = counts.T
    f1 = _divide(2 * tp, 2 * tp + fp + fn, zero_division)
    return {
        "iou": _divide(tp, tp + fp + fn, zero_division),
        "f1": f1,
        "accuracy": _divide(tp + tn, tp + fp + fn + tn, zero_division),
        "precision": _divide(tp, tp + fp, zero_division),
        "recall": _divide(tp, tp + fn, zero_division),
        "dice-loss": 1.0 - f1,
    }


def segmentation_scores(counts: NDArray[np.int64], zero_division: float = 1.0) -> dict[str, dict[str, float]]:
    """Reduce counts to one number a metric and reduction.

    Args:
        counts: int64 (N, 4) from :func:`confusion`, N at least 1.
        zero_division: 1, 0 or nan (see the module).

    Returns:
        ``{"iou": {"micro": x, "micro-imagewise": y}, "f1": ..., ...}`` with the keys of :data:`METRICS`, in that order.

    Raises:
        ValueError: there is no image, or an argument is wrong (:func:`per_image_scores`).
    """
    if len(counts) == 0:
        raise ValueError("segmentation scores need at least one image, got none")
    imagewise = per_image_scores(counts, zero_division)
    pooled = per_image_scores(counts.sum(axis=0, keepdims=True), zero_division)
    return {name: {"micro": float(pooled[name][0]), "micro-imagewise": _mean(imagewise[name])} for name in METRICS}


def _mean(scores: NDArray[np.float64]) -> float:
    """Return the mean of the scores that are numbers; nan when none is."""
    scored = scores[~np.isnan(scores)]
    return float(scored.mean()) if len(scored) else float("nan")


def describe_zero_division(zero_division: float = 1.0) -> str:
    """Return the sentence that stands under tables with these scores."""
    if np.isnan(zero_division):
        return (
            "Images on which a score is undefined (nothing predicted, nothing there, or both) are left out of its mean."
        )
    return (
        "A score that is undefined on an image (nothing predicted, nothing there, or both) "
        f"counts as {zero_division:g} (zero_division; Dice loss: {1 - zero_division:g})."
    )


def compare_folders(predicted: Path, true: Path, zero_division: float = 1.0) -> dict[str, dict[str, float]]:
    """Score the masks of one folder or zip against those of another, matched by file name without its extension.

    A mask is an image of two values, the larger of which is polyp (a mask of one value is all background when that
    is 0, else all polyp); the greys that JPEG adds between 0 and 255 are parted at 127.5. Folders are read with all
    they hold below them.

    Args:
        predicted: folder or zip of predicted masks.
        true: folder or zip of true masks.
        zero_division: see the module.

    Returns:
        As :func:`segmentation_scores`.

    Raises:
        DataError: a place or a mask is missing, two files have one name, sizes differ, or an image is not a mask;
            all such problems at once.
    """
    predictions, truths = _mask_sources(predicted), _mask_sources(true)
    problems = _unmatched(set(predictions), set(truths), predicted, true)
    counts = []
    for name in sorted(set(predictions) & set(truths)):
        try:
            p, t = predictions[name].read(), truths[name].read()
        except DataError as error:
            problems += error.problems
            continue
        if p.shape != t.shape:
            problems.append(
                f"{name}: the predicted mask is {p.shape[1]}x{p.shape[0]} pixels "
                f"and the true one {t.shape[1]}x{t.shape[0]}; resize the predictions to the size of the truth."
            )
            continue
        counts.append(confusion(p[None], t[None]))
    if problems:
        raise DataError(problems)
    return segmentation_scores(np.concatenate(counts), zero_division)


def _unmatched(predictions: set[str], truths: set[str], predicted: Path, true: Path) -> list[str]:
    missing, surplus = sorted(truths - predictions), sorted(predictions - truths)
    return [
        *(f"{name}: {predicted} has no prediction of that name{nearest(name, surplus)}." for name in missing),
        *(f"{name}: {true} has no true mask of that name{nearest(name, missing)}." for name in surplus),
    ]


@dataclass(frozen=True)
class _MaskFile:
    """One mask in a folder, or a member of a zip."""

    place: Path
    member: str = ""

    @property
    def shown(self) -> str:
        return f"{self.place}/{self.member}" if self.member else str(self.place)

    def read(self) -> NDArray[np.bool_]:
        """Decode to bool (H, W).

        Raises:
            DataError: it does not decode, or is not a mask.
        """
        from PIL import Image, UnidentifiedImageError

        try:
            if not self.member:
                with Image.open(self.place) as picture:
                    return _binarise(picture, self.shown)
            with zipfile.ZipFile(self.place) as archive:
                if archive.getinfo(self.member).file_size > _LARGEST_FILE:
                    raise DataError(
                        f"{self.shown} would unpack to more than {_LARGEST_FILE >> 20} MiB; no mask is that large."
                    )
                with archive.open(self.member) as stream, Image.open(stream) as picture:
                    return _binarise(picture, self.shown)
        except UnidentifiedImageError as error:
            raise DataError(f"{self.shown} is not an image that can be read; replace it or take it out.") from error
        except (OSError, ValueError, SyntaxError, zipfile.BadZipFile, Image.DecompressionBombError) as error:
            raise DataError(f"{self.shown} cannot be decoded ({error}); replace it or take it out.") from error


def _binarise(picture: Image, shown: str) -> NDArray[np.bool_]:
    if picture.mode not in ("1", "L", "I", "I;16", "F"):
        picture = picture.convert("RGB").convert("L")
    grey = np.asarray(picture)
    values = np.unique(grey)
    if len(values) == 1:
        return np.full(grey.shape, bool(values[0] != 0))
    if len(values) == 2:
        return grey == values[1]
    # JPEG blurs the border of a mask, but leaves nearly all of it close to black or white.
    between = float(((grey > 63) & (grey < 192)).mean())
    if grey.dtype != np.uint8 or between > 0.05:
        raise DataError(
            f"{shown} is not a mask: it has {len(values)} grey values; give an image of two values, such as 0 and 255."
        )
    return grey > 127


def _mask_sources(place: Path) -> dict[str, _MaskFile]:
    """Find the masks in a folder or zip, by stem."""
    found: dict[str, _MaskFile] = {}
    problems = []
    for name, file in _list_masks(place):
        if name in found:
            problems.append(f"{file.shown} and {found[name].shown} have the same name {name!r}; keep one of them.")
        found[name] = file
    if not found:
        problems.append(f"{place} holds no masks ({', '.join(MASK_SUFFIXES)}); give a folder or zip of mask images.")
    if problems:
        raise DataError(problems)
    return found


def _list_masks(place: Path) -> Iterator[tuple[str, _MaskFile]]:
    if place.is_dir():
        for path in sorted(place.rglob("*")):
            if path.suffix.lower() in MASK_SUFFIXES and path.is_file() and not path.name.startswith("."):
                yield path.stem, _MaskFile(path)
    elif zipfile.is_zipfile(place):
        with zipfile.ZipFile(place) as archive:
            members = sorted(m.filename for m in archive.infolist() if not m.is_dir())
        for member in members:
            path = Path(member)
            # macOS archives carry a shadow file "._name" for each file.
            if path.suffix.lower() in MASK_SUFFIXES and not path.name.startswith("."):
                yield path.stem, _MaskFile(place, member)
    else:
        what = "is neither a folder nor a zip" if place.exists() else "does not exist"
        raise DataError(f"{place} {what}; give a folder or zip of mask images.")

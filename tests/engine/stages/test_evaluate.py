"""The scores of a study, from imported images to ``results.csv``, against counting by hand.

The segmenter predicts the green channel, in which each image carries what is to be predicted for it.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from harness.engine.load import load_study
from harness.engine.plan import build_plan
from harness.engine.stages.evaluate import EvaluateResult, EvaluateStage
from harness.store.results import Store

SIDE = 32
TOLERANCE = 2.0
SEGMENTER = '''
"""A segmenter that reads its prediction off the image."""

from harness.learning import Segmenter


class Reader(Segmenter):
    """Predicts where green is bright."""

    name = "reader"
    label = "reader"
    batch_size = 4

    def module(self, steps):
        import torch
        from pytorch_lightning import LightningModule

        class Module(LightningModule):
            def __init__(self):
                super().__init__()
                self.unused = torch.nn.Parameter(torch.zeros(1))

            def forward(self, images):
                return 20 * (images[:, 1:2] - 0.5) + 0 * self.unused

            def training_step(self, batch, index):
                images, masks = batch
                return torch.nn.functional.binary_cross_entropy_with_logits(self(images), masks)

            def configure_optimizers(self):
                return torch.optim.SGD(self.parameters(), lr=0.1)

        return Module()
'''
STUDY = """
dataset: {{name: written, size: 32, split: {{holdout: {{report: 0.5, select: 0.1}}}}}}
segmenters: [{{plugin: "{plugins}:Reader"}}]
train: [{{real: all}}]
budget: {{steps: 2, validations: 1}}
controls: []
seeds: 1
evaluate: {{tolerance: 2}}
report: {{predictions: 0, figures: [variations]}}
"""
Mask = NDArray[np.bool_]


def disc(y: float, x: float, radius: float) -> Mask:
    rows, columns = np.mgrid[:SIDE, :SIDE]
    inside: Mask = (rows - y) ** 2 + (columns - x) ** 2 < radius**2
    return inside


def drawn(number: int) -> tuple[Mask, Mask]:
    """Return the polyps of an image and what is predicted: moved, one of two, beside them, or nothing."""
    draw = np.random.default_rng(number)
    radius = 2.5 + 0.25 * (number % 24)
    y, x = draw.uniform(9, 13, 2)
    polyp, second = disc(y, x, radius), disc(27, 27, 2.5)
    moved, speck = disc(y + 2, x - 1, radius), disc(3, 28, 2.0)
    speck[5, 30] = True  # a corner of it is the same piece
    match number % 6:
        case 0:
            return polyp, moved
        case 1:
            return polyp | second, moved
        case 2:
            return polyp, moved | speck
        case 3:
            return polyp, speck
        case 4:
            return polyp, np.zeros_like(polyp)
    return np.zeros_like(polyp), np.zeros_like(polyp) if number % 12 == 5 else speck


@pytest.fixture
def scored(harness_home: Path, tmp_path: Path, command: Any) -> tuple[EvaluateResult, list[dict[str, str]]]:
    """Import 48 images, run the study; return the result of its one evaluation, and its rows."""
    source = tmp_path / "written"
    for kind in ("images", "masks"):
        (source / kind).mkdir(parents=True)
    noise = np.random.default_rng(0)
    for number in range(48):
        mask, predicted = drawn(number)
        image = noise.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        image[..., 1] = np.where(predicted, 255, 0)
        Image.fromarray(image).save(source / "images" / f"{number:02d}.png")
        Image.fromarray(mask * np.uint8(255)).save(source / "masks" / f"{number:02d}.png")
    plugins = harness_home / "reader.py"
    plugins.write_text(SEGMENTER)
    (harness_home / "studies" / "read.yaml").write_text(STUDY.format(plugins=plugins))
    for words in (
        ("data", "import", "folder", "--from", str(source), "--name", "written"),
        ("study", "run", "read", "--executor", "in-process", "--no-track"),
    ):
        answer = command(*words)
        assert answer.code == 0, answer.err
    (cell,) = build_plan(load_study("read")).cells
    result = Store().find("evaluate", cell.evaluate)
    assert result is not None
    with (harness_home / "reports" / "read" / "results.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["kind"] == "segmentation"]
    return EvaluateStage.read(result), rows


def pieces(mask: Mask) -> Iterator[set[tuple[int, int]]]:
    """Yield the pixels of each connected piece, corners touching, by walking from pixel to pixel."""
    left = set(zip(*map(np.ndarray.tolist, np.nonzero(mask)), strict=True))
    while left:
        piece, edge = set(), [left.pop()]
        while edge:
            y, x = edge.pop()
            piece.add((y, x))
            near = {(y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
            left -= near
            edge += near
        yield piece


def outline(mask: Mask) -> NDArray[np.intp]:
    padded = np.pad(mask, 1)
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return np.argwhere(mask & ~inside)


def counted(true: Mask, predicted: Mask) -> dict[str, tuple[float, float]]:
    """Return the numerator and denominator of each score of one image; nan over 0 where it has none."""
    there, said = list(pieces(true)), list(pieces(predicted))
    found = 0
    for piece in there:
        touching = set().union(*(other for other in said if other & piece))
        found += 2 * len(piece & touching) >= len(piece | touching)
    false = sum(not any(other & piece for piece in there) for other in said)
    union = int((true | predicted).sum())
    below = bool(union) and int((true & predicted).sum()) / union < 0.5
    a, b = outline(predicted), outline(true)
    within, hausdorff = 0, math.nan
    if len(a) and len(b):
        apart = np.sqrt(((a[:, None] - b[None]) ** 2).sum(axis=2))
        sides = apart.min(axis=1), apart.min(axis=0)
        within = sum(int((side <= TOLERANCE).sum()) for side in sides)
        hausdorff = max(float(np.percentile(side, 95)) for side in sides)
    elif len(a) or len(b):
        hausdorff = SIDE * math.sqrt(2)
    return {
        "detection-rate": (found, len(there)),
        "false-positives": (false, 1),
        "iou-below-half": (below, 1),
        "hausdorff-95": (hausdorff, 0 if math.isnan(hausdorff) else 1),
        "surface-dice": (within, len(a) + len(b)),
    }


def quotient(name: str, above: float, below: float) -> float:
    """Surface Dice of nothing beside nothing is 1, the study's ``zero_division``; other scores have none there."""
    return above / below if below else (1.0 if name == "surface-dice" else math.nan)


def test_the_scores_of_a_study_are_those_that_are_counted_by_hand(scored: Any) -> None:
    result, rows = scored
    numbers = [int(name.partition("/")[2]) for name in result.per_image["ids"]]
    assert len(numbers) == result.images == 24
    masks = [drawn(number) for number in numbers]
    np.testing.assert_array_equal(result.predictions().astype(bool), [predicted for _, predicted in masks])
    by_image = [counted(*pair) for pair in masks]

    split = build_plan(load_study("read")).splits[0]
    areas = sorted(area for name in split.ids("fit") if (area := drawn(int(name))[0].mean()) > 0)
    limits = [float(np.quantile(areas, share)) for share in (1 / 3, 2 / 3)]
    assert result.size_limits == pytest.approx(limits, abs=1e-4)
    sizes = [
        "" if not true.any() else ("small", "medium", "large")[sum(true.mean() > limit for limit in limits)]
        for true, _ in masks
    ]
    assert result.per_image["sizes"] == sizes
    assert result.sizes == {size: sizes.count(size) for size in ("small", "medium", "large")}
    assert min(result.sizes.values()) > 0

    told = {(row["metric"], row["reduction"]): float(row["value"]) for row in rows}
    for name in by_image[0]:
        scores = [quotient(name, *one[name]) for one in by_image]
        expected = {"micro-imagewise": np.nanmean(scores)}
        for size in ("small", "medium", "large"):
            expected[f"micro-imagewise-{size}"] = np.nanmean(
                [score for score, own in zip(scores, sizes, strict=True) if own == size]
            )
        if name in ("detection-rate", "surface-dice"):
            expected["micro"] = quotient(name, *(sum(one[name][i] for one in by_image) for i in (0, 1)))
        assert result.scores[name] == pytest.approx(expected), name
        assert {reduction: told[name, reduction] for reduction in expected} == pytest.approx(expected), name
        assert 0 < expected["micro-imagewise"] < SIDE

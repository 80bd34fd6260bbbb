"""Which changed copies of a frame are found, and which frames of a dataset are said to be one?

    python -m benchmarks.duplicates [--dataset kvasir-seg] [--frames 120] [--sheet pairs.png] [--json]

For each change, the share of frames (spread evenly over the dataset) that are found in a stack of all of them changed,
the lowest correlation of those, and how many other frames are found there. Then all pairs of the whole dataset: how
many are found and how long that takes, those that lie in different groups today, and the highest correlations below the
threshold. ``--sheet`` draws these side by side, for the eye to judge; what it shows are images of patients.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from harness.data import decoding, duplicates
from harness.data.datasets import Dataset, open_dataset

Change = Callable[[Image.Image], Image.Image]
_LISTED_FROM = 0.88
_SHOWN = 160


def cut(left: float, top: float, right: float, bottom: float) -> Change:
    """Return what cuts shares of a frame's width and height off its sides."""

    def change(frame: Image.Image) -> Image.Image:
        width, height = frame.size
        return frame.crop(
            (round(left * width), round(top * height), round((1 - right) * width), round((1 - bottom) * height))
        )

    return change


def moved(across: float, down: float) -> Change:
    """Return what moves a frame by shares of its width and height, leaving black behind."""

    def change(frame: Image.Image) -> Image.Image:
        canvas = Image.new("RGB", frame.size)
        canvas.paste(frame, (round(across * frame.width), round(down * frame.height)))
        return canvas

    return change


def compressed(frame: Image.Image) -> Image.Image:
    """Return a frame as a JPEG file of quality 20 has it."""
    buffer = io.BytesIO()
    frame.save(buffer, "JPEG", quality=20)
    return Image.open(buffer).convert("RGB")


def gamma(exponent: float) -> Change:
    """Return what takes grey levels (0 to 1) to a power."""
    return lambda frame: frame.point([round(255 * (level / 255) ** exponent) for level in range(256)] * 3)


CHANGES: dict[str, Change] = {
    "flip left-right": lambda frame: frame.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "flip top-bottom": lambda frame: frame.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
    "quarter turn": lambda frame: frame.transpose(Image.Transpose.ROTATE_90),
    "half turn": lambda frame: frame.transpose(Image.Transpose.ROTATE_180),
    "three quarter turn": lambda frame: frame.transpose(Image.Transpose.ROTATE_270),
    "flip over the diagonal": lambda frame: frame.transpose(Image.Transpose.TRANSPOSE),
    "centre crop 5 %": cut(0.025, 0.025, 0.025, 0.025),
    "centre crop 10 %": cut(0.05, 0.05, 0.05, 0.05),
    "centre crop 20 %": cut(0.1, 0.1, 0.1, 0.1),
    "crop 10 % at a corner": cut(0.1, 0.1, 0, 0),
    "crop 10 % at one side": cut(0, 0, 0.1, 0),
    "shift 5 %": moved(0.05, 0.05),
    "shift 5 % across": moved(-0.05, 0),
    "flip, then centre crop 10 %": lambda frame: cut(0.05, 0.05, 0.05, 0.05)(
        frame.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    ),
    "rotation 5 degrees": lambda frame: frame.rotate(5, Image.Resampling.BILINEAR),
    "rotation 10 degrees": lambda frame: frame.rotate(10, Image.Resampling.BILINEAR),
    "JPEG quality 20": compressed,
    "half size": lambda frame: frame.resize((frame.width // 2, frame.height // 2)),
    "gamma 1.5": gamma(1.5),
    "gamma 0.7": gamma(0.7),
}


def frame_of(dataset: Dataset, index: int) -> Image.Image:
    """Return an image of a dataset as RGB."""
    with decoding.open_picture(io.BytesIO(dataset.native_files(dataset.entries[index])[0])) as picture:
        return decoding.to_rgb(picture).copy()


def found_after(originals: NDArray[np.uint8], frames: list[Image.Image], change: Change) -> dict[str, Any]:
    """Return the share of frames that are found among changed ones, their lowest correlation, and false alarms."""
    changed = np.stack([duplicates.thumbnail(change(frame)) for frame in frames])
    pairs = duplicates.pairs_between(originals, changed)
    own = [score for i, j, score in pairs if i == j]
    return {"found": len(own) / len(frames), "lowest": min(own, default=float("nan")), "others": len(pairs) - len(own)}


def whole(dataset: Dataset) -> dict[str, Any]:
    """Return the pairs of a dataset that are found, or nearly, with whether they share a group now."""
    stack = dataset.thumbnails()
    began = time.process_time()
    pairs = duplicates.pairs_within(stack, _LISTED_FROM)
    seconds = time.process_time() - began
    rows = [
        {
            "first": dataset.ids[i],
            "second": dataset.ids[j],
            "correlation": round(score, 3),
            "found": score >= duplicates.THRESHOLD,
            "one group": dataset.entries[i].group == dataset.entries[j].group,
        }
        for i, j, score in sorted(pairs, key=lambda pair: -pair[2])
    ]
    return {"frames": len(dataset), "cpu seconds": round(seconds, 1), "pairs": rows}


def draw_sheet(dataset: Dataset, rows: list[dict[str, Any]], path: str) -> None:
    """Draw pairs side by side, four to a row, in the order of ``rows``."""
    side, per_row = _SHOWN, 4
    sheet = Image.new("RGB", (per_row * (2 * side + 12), -(-len(rows) // per_row) * (side + 8)), "white")
    for place, row in enumerate(rows):
        for half, name in enumerate((row["first"], row["second"])):
            corner = (place % per_row * (2 * side + 12) + half * side, place // per_row * (side + 8))
            sheet.paste(frame_of(dataset, dataset.ids.index(name)).resize((side, side)), corner)
    sheet.save(path)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="kvasir-seg")
    parser.add_argument("--frames", type=int, default=120)
    parser.add_argument("--sheet", help="Draw the pairs to this file.")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    dataset = open_dataset(asked.dataset)
    spread = range(0, len(dataset), max(1, len(dataset) // asked.frames))[: asked.frames]
    frames = [frame_of(dataset, index) for index in spread]
    originals = np.stack([duplicates.thumbnail(frame) for frame in frames])
    changes = {name: found_after(originals, frames, change) for name, change in CHANGES.items()}
    pairs = whole(dataset)
    if asked.json:
        print(json.dumps({"changes": changes, "whole": pairs}, indent=1))
    else:
        print(f"| change, of {len(frames)} frames | found | lowest correlation | other frames |\n|---|--:|--:|--:|")
        for name, row in changes.items():
            print(f"| {name} | {row['found']:.2f} | {row['lowest']:.3f} | {row['others']} |")
        print(f"\nAll pairs of {pairs['frames']} frames, {pairs['cpu seconds']} s of one core:")
        for row in pairs["pairs"]:
            said = ("one frame" if row["found"] else "apart") + (", in one group now" if row["one group"] else "")
            print(f"{row['correlation']:.3f}  {row['first']}  {row['second']}  {said}")
    if asked.sheet:
        draw_sheet(dataset, pairs["pairs"], asked.sheet)


if __name__ == "__main__":
    main()

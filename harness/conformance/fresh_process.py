"""Sampling in a new Python process, which knows nothing but a checkpoint's folder and the plugin's parameters."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from harness.conformance.checks import Broken
from harness.data.pairs import PairSet
from harness.plugins.contract import Checkpoint, Sample, SampleContext
from harness.plugins.registry import load_plugin


def in_fresh_process(request: dict[str, Any], folder: Path) -> Sample:
    """Run :func:`_answer` in a new Python process and return the sample it made."""
    import torch

    path = folder / "request.json"
    path.write_text(json.dumps({**request, "folder": str(folder), "threads": torch.get_num_threads()}))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, "-m", "harness.conformance.fresh_process", str(path)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    if result.returncode != 0:
        last = (result.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise Broken(f"A fresh process could not load and run it: {last}")
    with np.load(folder / "answer.npz") as answer:
        return Sample(answer["masks"], answer["images"] if "images" in answer.files else None)


def _answer(path: Path) -> None:
    """Sample or refine as a request file says, and write ``answer.npz`` beside it."""
    import torch

    request = json.loads(path.read_text())
    folder = Path(request["folder"])
    torch.set_num_threads(request["threads"])
    plugin = load_plugin(request["kind"], request["target"]).create(**request["parameters"])
    pairs = PairSet.load(folder / "pairs")
    context = SampleContext(torch.device("cpu"), pairs, batch_size=4)
    seeds = np.array(request["seeds"], np.int64)
    if request["kind"] == "generators":
        masks = pairs.masks[: len(seeds)] if request["masks"] else None
        sample = plugin.sample(Checkpoint(request["step"], Path(request["checkpoint"])), seeds, context, masks)
    else:
        sample = plugin.refine(PairSet.load(folder / "synthetic"), pairs.first(len(seeds)), seeds, context)
    arrays = {"masks": sample.masks}
    if sample.images is not None:
        arrays["images"] = sample.images
    np.savez(folder / "answer.npz", **arrays)


if __name__ == "__main__":
    _answer(Path(sys.argv[1]))

"""Sampling in a new Python process, which knows nothing but a checkpoint's folder and the plugin's parameters."""

from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path
from typing import Any

import numpy as np

from harness.conformance.checks import Broken
from harness.data.pairs import PairSet
from harness.plugins.contract import Checkpoint, Sample, SampleContext
from harness.plugins.registry import load_plugin

_LIMIT_S = 600


def in_fresh_process(request: dict[str, Any], folder: Path) -> Sample:
    """Run :func:`_answer` in a new Python process and return the sample it made.

    It is forked from a server that has torch loaded, and nothing of the plugin.
    """
    import torch

    path = folder / "request.json"
    path.write_text(json.dumps({**request, "folder": str(folder), "threads": torch.get_num_threads()}))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch"])
    process = context.Process(target=_tell, args=(path,))
    process.start()
    process.join(_LIMIT_S)
    if process.exitcode is None:
        process.kill()
        raise Broken(f"A fresh process could not load and run it within {_LIMIT_S} seconds.")
    said = folder / "said.txt"
    if process.exitcode != 0:
        last = ((said.read_text().strip() if said.exists() else "").splitlines() or ["it said nothing"])[-1]
        raise Broken(f"A fresh process could not load and run it: {last}")
    with np.load(folder / "answer.npz") as answer:
        return Sample(answer["masks"], answer["images"] if "images" in answer.files else None)


def _tell(path: Path) -> None:
    """Be the process: what it says goes into ``said.txt`` beside the request."""
    output = os.open(path.with_name("said.txt"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    _answer(path)


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

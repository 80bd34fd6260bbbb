"""Finding a fitted generator by what a user calls it, and writing samples of it to a folder."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harness.data.lineage import MANIFEST
from harness.engine.fitted_generator import FittedGenerator
from harness.engine.stages.fit import FitStage
from harness.engine.stages.sample import SampleStage
from harness.engine.stages.select import SelectStage
from harness.errors import DeclarationError, HarnessError, nearest
from harness.store.results import Result, Store, write_json

if TYPE_CHECKING:
    import torch

#: Items made between two writes.
_CHUNK = 64
#: Kinds of stages that stand for a fitted generator.
SAMPLED_FROM = (FitStage.name, SelectStage.name, SampleStage.name)


def find_fitted(name: str, step: int | None = None, store: Store | None = None) -> FittedGenerator:
    """Return the generator that a name means.

    Args:
        name: the start (at least 4 digits) of the store key of a ``fit``, ``select`` or ``sample`` stage, or the label
            of one.
        step: of the checkpoint; by default the selected one when a selection is named, else the last.
        store: by default the one below ``HARNESS_HOME``.

    Raises:
        DeclarationError: nothing, or more than one thing, is called so.
        HarnessError: it is there but cannot be sampled from.
    """
    store = store or Store()
    found = fits_called(name, store)
    if len(found) > 1:
        shown = "; ".join(f"{r.key[:12]} ({r.record['label']}, {_when(r)})" for r in found[:8])
        raise DeclarationError(f"{len(found)} results are called {name!r}: {shown}. Name one by its key.")
    if found:
        return _from_result(store, found[0], step)
    labels = sorted({result.record["label"] for result in _sampled_from(store)})
    raise DeclarationError(
        f"No fitted generator is called {name!r}{nearest(name, labels)}; there are: {', '.join(labels[:12]) or 'none'}."
        " `harness generator fit` makes one."
    )


def fits_called(name: str, store: Store) -> list[Result]:
    """Return the results that stand for a fitted generator and that a name means, as :func:`find_fitted` takes it."""
    results = list(_sampled_from(store))
    if re.fullmatch(r"[0-9a-f]{4,64}", name):
        by_key = [result for result in results if result.key.startswith(name)]
        if by_key:
            return by_key
    return [result for result in results if result.record["label"] == name]


def _sampled_from(store: Store) -> Iterator[Result]:
    return (result for result in store.results() if result.record["kind"] in SAMPLED_FROM)


def _when(result: Result) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(result.record.get("finished", 0)))


def _from_result(store: Store, found: Result, step: int | None) -> FittedGenerator:
    """Open a fit, or the fit and the selection behind a ``select`` or ``sample`` result."""
    fit, selection, first = found, None, None
    if found.record["kind"] != FitStage.name:
        inputs = found.record["inputs"]
        first = found.record["parts"]["parameters"].get(SampleStage.real_pairs)
        fit = _needed(store, *inputs["fit"][0])
        if found.record["kind"] == SelectStage.name:
            selection = found
        elif inputs.get("select"):
            selection = _needed(store, *inputs["select"][0])
    return FittedGenerator.from_store(store, fit, selection, step, runtime=found.record["runtime"], first=first)


def _needed(store: Store, kind: str, key: str) -> Result:
    result = store.find(kind, key)
    if result is None:
        raise HarnessError(f"The {kind} result {key[:12]} is no longer in the store; run its study again.")
    return result


def write_samples(
    fitted: FittedGenerator,
    count: int,
    seed: int,
    folder: Path,
    device: torch.device,
    masks: NDArray[np.uint8] | None = None,
    behind_masks: Sequence[frozenset[str]] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Write samples as ``images/NUMBER.png`` and ``masks/NUMBER.png`` (0 and 255), with their manifest.

    Args:
        fitted: to sample from.
        count: how many.
        seed: of the pool; its items are those of a study's pool with this seed.
        folder: new or empty.
        device: where to compute.
        masks: uint8 (M, H, W) in {0, 1} for a generator of images; used in turn when there are fewer than ``count``.
        behind_masks: for each mask the real ids that it was made from; None when that is not known.
        progress: receives done and total.

    Returns:
        The manifest: generator, checkpoint, seed, lineages, and for each item its id, seed and lineage (position in
        ``lineages``).
    """
    seeds = fitted.pool_seeds(seed, count)
    rows: list[dict[str, Any]] = []
    lineages: dict[frozenset[str], int] = {}
    for start in range(0, count, _CHUNK):
        chunk = np.arange(start, min(count, start + _CHUNK))
        made = fitted.sample(seeds[chunk], device, None if masks is None else masks[chunk % len(masks)])
        for i, own in zip(chunk, fitted.lineage(made), strict=True):
            lineage = own if masks is None or behind_masks is None else own | behind_masks[int(i) % len(masks)]
            name = f"{i:06d}"
            if made.images is not None:
                _write_picture(folder / "images" / f"{name}.png", made.images[i - start])
            _write_picture(folder / "masks" / f"{name}.png", made.masks[i - start] * np.uint8(255))
            position = lineages.setdefault(lineage, len(lineages))
            rows.append({"id": f"{fitted.generator.name}/{name}", "seed": int(seeds[i]), "lineage": position})
        if progress is not None:
            progress(int(chunk[-1]) + 1, count)
    manifest = {
        "generator": fitted.generator.name,
        "version": fitted.generator.version,
        "parameters": fitted.generator.parameters.model_dump(mode="json"),
        "fit": fitted.key,
        "label": fitted.label,
        "checkpoint": fitted.checkpoint.step,
        "seed": seed,
        "lineages": [sorted(lineage) for lineage in lineages],
        "pairs": rows,
    }
    write_json(folder / MANIFEST, json.loads(json.dumps(manifest)))
    return manifest


def _write_picture(path: Path, pixels: NDArray[np.uint8]) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)

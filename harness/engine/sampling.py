"""Finding a fitted generator by what a user calls it, and writing samples of it to a folder."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harness.engine.fitted_generator import FittedGenerator
from harness.errors import DeclarationError, HarnessError, nearest
from harness.store.results import Result, Store, write_json

if TYPE_CHECKING:
    import torch

#: Items made between two writes.
_CHUNK = 64
_SAMPLED_FROM = ("fit", "select", "sample")


def find_fitted(name: str, step: int | None = None, store: Store | None = None) -> FittedGenerator:
    """Return the generator that a name means.

    Args:
        name: the start (at least 4 digits) of the store key of a ``fit``, ``select`` or ``sample`` stage; the label of
            one; the id of an MLflow run of one; or the address of a model (``models:/...``, ``runs:/...``).
        step: of the checkpoint; by default the selected one when a selection is named, else the last.
        store: by default the one below ``HARNESS_HOME``.

    Raises:
        DeclarationError: nothing, or more than one thing, is called so.
        HarnessError: it is there but cannot be sampled from.
    """
    store = store or Store()
    if re.match(r"[a-z][a-z0-9+.-]*:/", name):
        return _from_model(name, step)
    results = [result for result in store.results() if result.record["kind"] in _SAMPLED_FROM]
    found = _matching(name, results)
    if len(found) > 1:
        shown = "; ".join(f"{r.key[:12]} ({r.record['label']}, {_when(r)})" for r in found[:8])
        raise DeclarationError(f"{len(found)} results are called {name!r}: {shown}. Name one by its key.")
    if found:
        return _from_result(store, found[0], step)
    if re.fullmatch(r"[0-9a-f]{32}", name):
        return _from_run(store, name, step)
    labels = sorted({result.record["label"] for result in results})
    raise DeclarationError(
        f"No fitted generator is called {name!r}{nearest(name, labels)}; there are: {', '.join(labels[:12]) or 'none'}."
        " `harness generator fit` makes one."
    )


def _matching(name: str, results: list[Result]) -> list[Result]:
    if re.fullmatch(r"[0-9a-f]{4,64}", name):
        by_key = [result for result in results if result.key.startswith(name)]
        if by_key:
            return by_key
    return [result for result in results if result.record["label"] == name]


def _when(result: Result) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(result.record.get("finished", 0)))


def _from_result(store: Store, found: Result, step: int | None) -> FittedGenerator:
    """Open a fit, or the fit and the selection behind a ``select`` or ``sample`` result."""
    fit, selection, first = found, None, None
    if found.record["kind"] != "fit":
        inputs = found.record["inputs"]
        first = found.record["parts"]["parameters"].get("real")
        fit = _needed(store, *inputs["fit"][0])
        if found.record["kind"] == "select":
            selection = found
        elif inputs.get("select"):
            selection = _needed(store, *inputs["select"][0])
    return FittedGenerator.from_store(store, fit, selection, step, first=first)


def _needed(store: Store, kind: str, key: str) -> Result:
    result = store.find(kind, key)
    if result is None:
        raise HarnessError(f"The {kind} result {key[:12]} is no longer in the store; run its study again.")
    return result


def _from_run(store: Store, run: str, step: int | None) -> FittedGenerator:
    """Open what an MLflow run mirrors: from the store when it is there, else from the model that the run made."""
    from harness.tracking.models import stage_of_run

    kind, key, models = stage_of_run(run)
    if kind not in _SAMPLED_FROM:
        raise HarnessError(f"The MLflow run {run} mirrors a {kind} stage; take the run of a fit.")
    found = store.find(kind, key)
    if found is not None:
        return _from_result(store, found, step)
    if not models:
        raise HarnessError(f"The {kind} result {key[:12]} is not in the store, and its MLflow run {run} has no model.")
    return _from_model(models[0], step)


def _from_model(address: str, step: int | None) -> FittedGenerator:
    from harness.tracking.models import open_model

    fitted = open_model(address)
    if step is not None and step != fitted.checkpoint.step:
        raise DeclarationError(
            f"--checkpoint {step}: the model {address} holds only step {fitted.checkpoint.step}; name the fit's key."
        )
    return fitted


def read_masks(folder: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Read the PNG masks of a folder, sorted by name.

    Args:
        folder: of masks of two values, 0 and any other.
        size: height and width that they must have, pixels.

    Returns:
        uint8 (N, H, W) in {0, 1}.

    Raises:
        HarnessError: there are none, or one has another size.
    """
    from PIL import Image

    files = sorted(folder.glob("*.png"))
    if not files:
        raise HarnessError(f"There are no PNG masks in {folder}.")
    masks = []
    for file in files:
        with Image.open(file) as picture:
            mask = np.asarray(picture.convert("L"))
        if mask.shape != size:
            raise HarnessError(
                f"The mask {file} has {mask.shape[1]} x {mask.shape[0]} pixels; it must have {size[1]} x {size[0]}."
            )
        masks.append((mask > mask.max() / 2).astype(np.uint8))
    return np.stack(masks)


def write_samples(
    fitted: FittedGenerator,
    count: int,
    seed: int,
    folder: Path,
    device: torch.device,
    masks: NDArray[np.uint8] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Write samples as ``images/NUMBER.png`` and ``masks/NUMBER.png`` (0 and 255), with ``manifest.json``.

    Args:
        fitted: to sample from.
        count: how many.
        seed: of the pool; its items are those of a study's pool with this seed.
        folder: new or empty.
        device: where to compute.
        masks: uint8 (M, H, W) in {0, 1} for a generator of images; used in turn when there are fewer than ``count``.
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
        for i, lineage in zip(chunk, fitted.lineage(made), strict=True):
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
    write_json(folder / "manifest.json", json.loads(json.dumps(manifest)))
    return manifest


def _write_picture(path: Path, pixels: NDArray[np.uint8]) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)

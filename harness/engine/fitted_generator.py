"""A generator at one checkpoint, taken out of the store or out of a model in MLflow, ready to be sampled from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harness.data.pairs import PairSet
from harness.errors import HarnessError
from harness.learning.work_folder import recorded_checkpoints
from harness.plugins.contract import Checkpoint, Generator, Sample, SampleContext
from harness.plugins.registry import load_plugin
from harness.store.results import Result, Store

if TYPE_CHECKING:
    import torch

_DESCRIPTION = "generator.json"
_CHECKPOINT = "checkpoint"


@dataclass(frozen=True)
class FittedGenerator:
    """A generator with the checkpoint to sample from.

    Attributes:
        generator: the plugin, with its parameters.
        target: how the plugin is loaded: a registered name, ``module:Class`` or ``path/to/file.py:Class``.
        checkpoint: the state to sample from.
        real: the real pairs of the fit, or those of them that are sampled from. A generator that learns needs none of
            their pixels to sample: out of a model it gets the ids with black pictures of the right size.
        selected: real ids that the choice of the checkpoint has seen.
        key: store key of the fit.
        label: of the fit.
    """

    generator: Generator
    target: str
    checkpoint: Checkpoint
    real: PairSet
    selected: frozenset[str]
    key: str
    label: str

    def sample(self, seeds: NDArray[np.int64], device: torch.device, masks: NDArray[np.uint8] | None = None) -> Sample:
        """Make one item a seed.

        Args:
            seeds: int64 (N,).
            device: where to compute.
            masks: uint8 (N, H, W) in {0, 1}, for a generator that makes images for given masks.

        Returns:
            masks uint8 (N, H, W); images uint8 (N, H, W, 3), or None from a generator that makes masks.

        Raises:
            HarnessError: masks are missing, or are given to a generator that makes its own.
            PluginError: the generator broke its contract.
        """
        from harness.engine.stages.pool import check_sample, check_turn

        name, conditional = self.generator.name, self.generator.card.makes == "images"
        if conditional and masks is None:
            raise HarnessError(f"{name} makes an image for a given mask; give it masks of {self.real.size} pixels.")
        if not conditional and masks is not None:
            raise HarnessError(f"{name} makes its own masks; leave out the ones that were given.")
        if masks is not None and masks.shape != (len(seeds), *self.real.size):
            raise HarnessError(f"{name} needs masks of shape {(len(seeds), *self.real.size)}, got {masks.shape}.")
        made = self.generator.sample(self.checkpoint, seeds, SampleContext(device, self.real), masks)
        check_sample(name, made, len(seeds), self.real)
        check_turn(self.generator, made, seeds, self.real)
        return made if masks is None else Sample(masks, made.images, made.sources)

    def pool_seeds(self, seed: int, count: int) -> NDArray[np.int64]:
        """Return the seeds of the first ``count`` items of the pool that ``seed`` names, int64 (count,)."""
        from harness.engine.stages.pool import pool_seeds

        return pool_seeds(self.generator, self.checkpoint, self.real, seed, count)

    def lineage(self, sample: Sample) -> list[frozenset[str]]:
        """Return, for each item of a sample, the real ids that anything used to make it has seen."""
        whole = self.checkpoint.seen if self.checkpoint.seen is not None else self.real.seen()
        if sample.sources is None:
            return [whole | self.selected] * len(sample.masks)
        return [frozenset(names) | self.selected for names in sample.sources]

    def save(self, folder: Path) -> None:
        """Write everything that :meth:`load` needs into a new folder; no picture of a patient is among it."""
        folder.mkdir(parents=True)
        shutil.copytree(self.checkpoint.folder, folder / _CHECKPOINT)
        seen = self.checkpoint.seen
        document = {
            "target": self.target,
            "plugin": self.generator.name,
            "version": self.generator.version,
            "parameters": self.generator.parameters.model_dump(mode="json"),
            "step": self.checkpoint.step,
            "seen": None if seen is None else sorted(seen),
            "real": sorted(self.real.seen()),
            "ids": self.real.ids,
            "size": self.real.size,
            "selected": sorted(self.selected),
            "key": self.key,
            "label": self.label,
        }
        (folder / _DESCRIPTION).write_text(json.dumps(document, indent=1))

    @classmethod
    def load(cls, folder: Path) -> FittedGenerator:
        """Open what :meth:`save` wrote.

        Raises:
            PluginError: the plugin is not installed here.
            HarnessError: it is installed in another version.
        """
        document = json.loads((folder / _DESCRIPTION).read_text())
        generator = load_plugin("generators", document["target"]).create(**document["parameters"])
        if generator.version != document["version"]:
            raise HarnessError(
                f"The model was fitted by {generator.name} version {document['version']}, but version "
                f"{generator.version} is installed here; install the version it was fitted by."
            )
        seen = None if document["seen"] is None else frozenset(document["seen"])
        checkpoint = Checkpoint(document["step"], folder / _CHECKPOINT, seen)
        real = _without_pictures(tuple(document["ids"]), *document["size"])
        selected = frozenset(document["selected"])
        return cls(generator, document["target"], checkpoint, real, selected, document["key"], document["label"])

    @classmethod
    def from_store(
        cls,
        store: Store,
        fit: Result,
        selection: Result | None = None,
        step: int | None = None,
        *,
        runtime: Mapping[str, Any],
        first: int | None = None,
        pictures: bool = True,
    ) -> FittedGenerator:
        """Open a fit in the store.

        Args:
            store: where the results are.
            fit: result of a ``fit`` stage.
            selection: result of its ``select`` stage, to sample from the selected checkpoint.
            step: of the checkpoint; by default the selected one, or the last.
            runtime: of the stage that is sampled as: one fit serves generators that differ in how they sample.
            first: sample from the first so many real pairs of the fit only, as a smaller pool of one model a pair does.
            pictures: open the real pairs too, which a generator that does not learn needs.

        Raises:
            HarnessError: there is no checkpoint at ``step``, or the dataset of the fit is gone.
            PluginError: the plugin cannot be loaded.
        """
        from harness.engine.stages.pool import sampled_pairs

        target = runtime["target"]
        generator = load_plugin("generators", target).create(**runtime["plugin-parameters"])
        checkpoints = {checkpoint.step: checkpoint for checkpoint in recorded_checkpoints(fit.folder)}
        wanted = step if step is not None else (selection.values["step"] if selection else max(checkpoints))
        if wanted not in checkpoints:
            steps = ", ".join(map(str, checkpoints))
            raise HarnessError(f"The fit {fit.key[:12]} has no checkpoint at step {wanted}; it has {steps}.")
        chosen = selection is not None and wanted == selection.values["step"]
        selected = frozenset(selection.values["seen"]) if selection and chosen else frozenset[str]()
        given = _real_pairs(store, fit, first, pictures or not generator.card.learns)
        real = sampled_pairs(generator, checkpoints[wanted], given)
        return cls(generator, target, checkpoints[wanted], real, selected, fit.key, fit.record["label"])


def _real_pairs(store: Store, fit: Result, first: int | None, pictures: bool) -> PairSet:
    from harness.data.splits import subset_order
    from harness.engine.stages.dataset import RealPairs

    ((kind, key),) = fit.record["inputs"]["dataset"]
    result = store.find(kind, key)
    if result is None:
        raise HarnessError(
            f"The dataset that {fit.record['label']!r} was fitted on is no longer in the store; run the fit again."
        )
    dataset = RealPairs(result.folder)
    parameters = fit.record["parts"]["parameters"]
    count = parameters["real"] if first is None else first
    if pictures:
        return dataset.first(count, parameters["order-seed"])
    names = dataset.split.ids("fit")
    if count is not None:
        names = tuple(subset_order(names, parameters["order-seed"])[:count])
    size = int(dataset.source["size"])
    return _without_pictures(tuple(f"{dataset.name}/{name}" for name in names), size, size)


def _without_pictures(ids: tuple[str, ...], height: int, width: int) -> PairSet:
    """Return pairs that have ids and a size, and take no memory."""
    black = np.broadcast_to(np.uint8(0), (len(ids), height, width, 3))
    return PairSet.real(black, black[..., 0], ids)

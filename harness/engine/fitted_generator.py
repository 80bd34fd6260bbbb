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
from harness.engine.stages.dataset import DatasetStage
from harness.engine.stages.fit import FitStage
from harness.engine.stages.select import SelectStage
from harness.errors import HarnessError
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
        height, width = document["size"]
        real = PairSet.without_pictures(document["ids"], (height, width))
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
        fitted = FitStage.read(fit)
        choice = SelectStage.read(selection) if selection else None
        wanted = step if step is not None else (choice.step if choice else fitted.checkpoints[-1].step)
        checkpoint = fitted.at(wanted)
        selected = choice.seen if choice and choice.step == wanted else frozenset[str]()
        dataset = store.find(*fit.record["inputs"]["dataset"][0])
        if dataset is None:
            raise HarnessError(
                f"The dataset that {fitted.label!r} was fitted on is no longer in the store; run the fit again."
            )
        needed = pictures or not generator.card.learns
        given = fitted.pairs(DatasetStage.read(dataset), first, pictures=needed)
        real = sampled_pairs(generator, checkpoint, given)
        return cls(generator, target, checkpoint, real, selected, fitted.key, fitted.label)

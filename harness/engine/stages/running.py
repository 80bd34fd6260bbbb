"""What a stage sees while it runs: its specification, the results it reads, and the context it reports to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import HarnessError
from harness.learning.work_folder import WorkFolder
from harness.plugins.contract import Checkpoint, Generator, Kind, SampleContext
from harness.plugins.registry import load_plugin
from harness.store.results import Result, Store

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from harness.data.datasets import Dataset
    from harness.data.pairs import PairSet
    from harness.data.splits import Role, Split

_SOURCES = "sources.json"


@dataclass(frozen=True)
class RunningStage:
    """A stage at work.

    Attributes:
        spec: the stage as the plan wrote it (``Stage`` as JSON): kind, label, key, parts, inputs, runtime.
        store: where the results it reads are.
        context: progress, metrics, pictures, notes, saved state; its folder becomes the result.
        device: where to compute.
    """

    spec: dict[str, Any]
    store: Store
    context: WorkFolder
    device: torch.device

    @property
    def folder(self) -> Path:
        """Where the stage writes its files."""
        return self.context.folder

    @property
    def parameters(self) -> dict[str, Any]:
        """The stage's own parameters."""
        return self.spec["parts"]["parameters"]

    @property
    def seed(self) -> int:
        """The stage's seed."""
        return int(self.spec["parts"]["seed"])

    def results(self, name: str) -> list[Result]:
        """Return the results of one input.

        Raises:
            HarnessError: a result is gone since the plan was made.
        """
        found = []
        for kind, key in self.spec["inputs"].get(name, []):
            result = self.store.find(kind, key)
            if result is None:
                raise HarnessError(
                    f"The {kind} result {key[:12]} that {self.spec['label']!r} reads is gone; run the study again."
                )
            found.append(result)
        return found

    def result(self, name: str) -> Result:
        """Return the only result of one input."""
        return self.results(name)[0]

    def plugin(self, kind: Kind) -> Any:
        """Return the stage's plugin, with its parameters."""
        attached = self.spec["runtime"]
        return load_plugin(kind, attached["target"]).create(**attached["plugin-parameters"])

    @cached_property
    def dataset(self) -> RealPairs:
        """The real pairs of the stage's dataset."""
        return RealPairs(self.result("dataset"))

    def sample_context(self, pairs: PairSet) -> SampleContext:
        """Return what a plugin needs to sample or refine."""
        return SampleContext(device=self.device, pairs=pairs)


class RealPairs:
    """The real pairs of a dataset result, by role. There is no way to get at them all: every user names its role."""

    def __init__(self, result: Result) -> None:
        from harness.data.splits import Split

        self.result = result
        self.source: dict[str, Any] = json.loads((result.folder / "dataset.json").read_text())
        self.split: Split = Split.from_json((result.folder / "split.json").read_text())

    def _open(self) -> Dataset:
        from harness.data.datasets import open_dataset

        dataset = open_dataset(self.source["name"], **self.source["options"])
        if dataset.fingerprint != self.source["fingerprint"]:
            raise HarnessError(
                f"Dataset {dataset.name!r} has changed since this study was planned; run the study again."
            )
        return dataset

    @cached_property
    def _decoded(self) -> PairSet:
        return self._open().decode(self.source["size"], self.source["geometry"])

    @property
    def name(self) -> str:
        """The dataset's name, which starts the ids of its pairs."""
        return str(self.source["name"])

    def role(self, role: Role) -> PairSet:
        """Return the pairs of one role, sorted by id; may be empty."""
        return self._named(self.split.ids(role))

    def first(self, count: int | None, seed: int) -> PairSet:
        """Return the first ``count`` pairs (None: all) of one seeded shuffle of the fit role: small subsets nest."""
        from harness.data.splits import subset_order

        ids = self.split.ids("fit")
        return self._named(ids if count is None else subset_order(ids, seed)[:count])

    def _named(self, ids: Any) -> PairSet:
        return self._decoded.select([f"{self.name}/{name}" for name in ids])

    @cached_property
    def groups(self) -> dict[str, str]:
        """Group of every image of the dataset, by id."""
        return dict(json.loads((self.result.folder / "groups.json").read_text()))

    def frames_shared_with(self, other: RealPairs) -> dict[str, list[str]]:
        """Return, for ids of this dataset, the ids of another that show the same frame."""
        from harness.data.datasets import near_duplicates_between

        shared: dict[str, list[str]] = {}
        if other.name != self.name:
            for pair in near_duplicates_between(self._open(), other._open()):
                shared.setdefault(f"{self.name}/{pair.first}", []).append(f"{other.name}/{pair.second}")
        return shared


def item_seeds(seed: int, count: int, in_turn: int = 1) -> NDArray[np.int64]:
    """Return seeds of ``count`` items; the first n are the same however many are asked for.

    Args:
        seed: of the pool.
        count: how many.
        in_turn: things that the items are made from in turn (``Generator.turns``): item *i* gets a seed of which the
            remainder, divided by this, is ``i % in_turn``, and all else is random.

    Returns:
        int64 (count,), in [0, 2**62 + in_turn).
    """
    import numpy as np

    drawn = np.random.default_rng([seed, 0x5EED]).integers(0, 2**62, size=count, dtype=np.int64)
    return drawn - drawn % in_turn + np.arange(count) % in_turn


def pool_seeds(generator: Generator, checkpoint: Checkpoint, real: PairSet, seed: int, count: int) -> NDArray[np.int64]:
    """Return the seeds of the items of a pool (:func:`item_seeds`).

    A generator that has one model a pair makes an item from the pair at ``seed % n`` of the ``n``
    that it is given. Its seeds are dealt: the first k * n items of a pool are k from each pair. So are those of any
    generator that says that things take turns (``Generator.turns``).

    Args:
        generator: that makes them.
        checkpoint: that it is sampled at.
        real: the pairs that it is given, as :func:`sampled_pairs` returns them.
        seed: of the pool.
        count: how many.
    """
    return item_seeds(seed, count, generator.turns(checkpoint, real))


def sampled_pairs(generator: Generator, checkpoint: Checkpoint, real: PairSet) -> PairSet:
    """Return the real pairs that a generator is given to sample: of one model a pair, those that have a model.

    Raises:
        HarnessError: none has one.
    """
    if not generator.card.one_model_a_pair or checkpoint.seen is None or real.seen() <= checkpoint.seen:
        return real
    modelled = [name for name in real.ids if name in checkpoint.seen]
    if not modelled:
        raise HarnessError(
            f"Checkpoint {checkpoint.step} of {generator.name} has a model of none of the {len(real)} real pairs that "
            "are to be sampled from; take a later checkpoint."
        )
    return real.select(modelled)


def save_sources(folder: Path, sources: Sequence[frozenset[str]]) -> None:
    """Write what each pair of a pool was made from, where its lineage holds more than that."""
    distinct = list(dict.fromkeys(sources))
    position = {one: i for i, one in enumerate(distinct)}
    document = {"sources": [sorted(one) for one in distinct], "source": [position[one] for one in sources]}
    (folder / _SOURCES).write_text(json.dumps(document))


def load_pool(folder: Path) -> tuple[PairSet, tuple[frozenset[str], ...]]:
    """Open a pool of pairs, and what each of them was made from.

    That is the lineage of the pair without what only the choice of a checkpoint has seen. Where nothing was chosen,
    and in results that did not keep it apart, it is the lineage itself.

    Args:
        folder: of a ``sample`` or ``refine`` result.
    """
    from harness.data.pairs import PairSet

    pairs = PairSet.load(folder / "pairs")
    path = folder / _SOURCES
    if not path.is_file():
        return pairs, pairs.lineage
    document = json.loads(path.read_text())
    distinct = [frozenset(one) for one in document["sources"]]
    return pairs, tuple(distinct[i] for i in document["source"])

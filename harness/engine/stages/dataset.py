"""The ``dataset`` stage: decodes a dataset once per size and holds the split that later stages get their roles from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from harness.data.lineage import lineages_in, manifest_of
from harness.engine.graph import Plan, Stage
from harness.engine.kind import StageKind
from harness.engine.stages.running import RunningStage
from harness.errors import HarnessError
from harness.store.results import Result

if TYPE_CHECKING:
    from harness.data.datasets import Dataset
    from harness.data.pairs import PairSet
    from harness.data.splits import Role, Split

_SOURCE, _SPLIT, _GROUPS, _LINEAGE = "dataset.json", "split.json", "groups.json", "lineage.json"


class RealPairs:
    """The real pairs of a dataset result, by role. There is no way to get at them all: every user names its role."""

    def __init__(self, folder: Path) -> None:
        from harness.data.splits import Split

        self._folder = folder
        self.source: dict[str, Any] = json.loads((folder / _SOURCE).read_text())
        self.split: Split = Split.from_json((folder / _SPLIT).read_text())

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
        return self._named(self._first(count, seed))

    def first_ids(self, count: int | None, seed: int) -> PairSet:
        """Return the same with black pictures that take no memory; the dataset itself may be gone."""
        from harness.data.pairs import PairSet

        side = int(self.source["size"])
        return PairSet.without_pictures([f"{self.name}/{name}" for name in self._first(count, seed)], (side, side))

    def _first(self, count: int | None, seed: int) -> Sequence[str]:
        from harness.data.splits import subset_order

        ids = self.split.ids("fit")
        return ids if count is None else subset_order(ids, seed)[:count]

    def _named(self, ids: Iterable[str]) -> PairSet:
        return self._decoded.select([f"{self.name}/{name}" for name in ids])

    @cached_property
    def groups(self) -> dict[str, str]:
        """Group of every image of the dataset, by id."""
        return dict(json.loads((self._folder / _GROUPS).read_text()))

    @cached_property
    def made_from(self) -> dict[str, frozenset[str]]:
        """What each image of a dataset of samples was made from, by id; empty for real ones."""
        path = self._folder / _LINEAGE
        if not path.is_file():
            return {}
        names = lineages_in(path.read_bytes())
        return {f"{self.name}/{name}": lineage for name, lineage in names.items()}

    def frames_shared_with(self, other: RealPairs) -> dict[str, list[str]]:
        """Return, for ids of this dataset, the ids of another that show the same frame."""
        from harness.data.datasets import near_duplicates_between

        shared: dict[str, list[str]] = {}
        if other.name != self.name:
            for pair in near_duplicates_between(self._open(), other._open()):
                shared.setdefault(f"{self.name}/{pair.first}", []).append(f"{other.name}/{pair.second}")
        return shared


@dataclass(frozen=True)
class DatasetFacts:
    """What a dataset is decoded from and to, known before its stage runs.

    Attributes:
        source: its name.
        fingerprint: of its files and groups.
        size: side of the squares that it is decoded to, pixels.
        geometry: how its images become squares.
        split: digest of its split.
    """

    source: str
    fingerprint: str
    size: int
    geometry: str
    split: str


class DatasetStage(StageKind[RealPairs]):
    """Decodes a dataset and holds its split."""

    name: ClassVar[str] = "dataset"
    comparable: ClassVar[bool] = True
    not_shown: ClassVar[tuple[str, ...]] = ("fingerprint",)

    @classmethod
    def facts(cls, stage: Stage) -> DatasetFacts:
        """Return what the stage of a dataset is of."""
        given = stage.parts["parameters"]
        return DatasetFacts(**{one.name: given[one.name] for one in fields(DatasetFacts)})

    @classmethod
    def add(cls, plan: Plan, source: Dataset, split: Split, label: str, options: dict[str, Any]) -> str:
        """Add the stage of one dataset and split to a plan; return its key."""
        from harness.data import decoding, phantom

        declared = plan.loaded.study.dataset
        parameters = {
            "source": source.name,
            "fingerprint": source.fingerprint,
            "size": declared.size,
            "geometry": declared.geometry,
            "split": split.digest,
            "pixels": [decoding.VERSION, *([phantom.VERSION] if source.name == "phantom" else [])],
        }
        runtime = {"split": split.to_json(), "options": options}
        return plan.add(cls, label, parameters, {}, runtime=runtime, amount=len(source.entries))

    @classmethod
    def run(cls, stage: RunningStage) -> dict[str, Any]:
        """Decode into the dataset's memory-mapped cache; keep the manifest and the groups."""
        from harness.data.datasets import open_dataset
        from harness.data.splits import Split

        options = stage.runtime["options"]
        dataset = open_dataset(stage.parameters["source"], **options)
        split = Split.from_json(stage.runtime["split"])

        def report(done: int, total: int) -> None:
            stage.context.progress(done, total, "images")

        pairs = dataset.decode(stage.parameters["size"], stage.parameters["geometry"], progress=report)
        source = {"name": dataset.name, "fingerprint": dataset.fingerprint, "options": options}
        source |= {"size": stage.parameters["size"], "geometry": stage.parameters["geometry"]}
        (stage.folder / _SOURCE).write_text(json.dumps(source, sort_keys=True))
        (stage.folder / _SPLIT).write_text(split.to_json())
        groups = {f"{dataset.name}/{entry.id}": f"{dataset.name}/{entry.group}" for entry in dataset.entries}
        (stage.folder / _GROUPS).write_text(json.dumps(groups))
        if dataset.lineages:
            (stage.folder / _LINEAGE).write_text(json.dumps(manifest_of(dataset.name, dataset.made_from)))
            behind = len(frozenset().union(*dataset.lineages))
            stage.context.note(
                f"A generator made the images of {dataset.name} from {behind} real ones: whatever learned from one "
                "counts as having seen the real ones behind it."
            )
        fit = pairs.select([f"{dataset.name}/{name}" for name in split.ids("fit")[:25]])
        if len(fit):
            stage.context.log_images("fit-images", 0, fit.images)
        for note in split.notes:
            stage.context.note(note)
        counts = {role: len(split.ids(role)) for role in ("fit", "select", "report")}
        return {"images": len(pairs), "split-digest": split.digest, **counts}

    @classmethod
    def read(cls, result: Result) -> RealPairs:
        """Open the real pairs."""
        return RealPairs(result.folder)

    @classmethod
    def files(cls, result: Result) -> list[Path]:
        """Return the files that say what the dataset is; its pixels are decoded again when they are asked for."""
        known = [result.folder / name for name in (_SOURCE, _SPLIT, _GROUPS)]
        return known + [path for path in [result.folder / _LINEAGE] if path.is_file()]

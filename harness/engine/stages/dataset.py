"""The ``dataset`` stage: decodes a dataset once per size and holds the split that later stages get their roles from."""

from __future__ import annotations

import json
from typing import Any

from harness.engine.stages.running import RunningStage


def run(stage: RunningStage) -> dict[str, Any]:
    """Decode into the dataset's memory-mapped cache; keep the manifest and the groups."""
    from harness.data.datasets import open_dataset
    from harness.data.splits import Split

    options = stage.spec["runtime"]["options"]
    dataset = open_dataset(stage.parameters["source"], **options)
    split = Split.from_json(stage.spec["runtime"]["split"])

    def report(done: int, total: int) -> None:
        stage.context.progress(done, total, "images")

    pairs = dataset.decode(stage.parameters["size"], stage.parameters["geometry"], progress=report)
    source = {"name": dataset.name, "fingerprint": dataset.fingerprint, "options": options}
    source |= {"size": stage.parameters["size"], "geometry": stage.parameters["geometry"]}
    (stage.folder / "dataset.json").write_text(json.dumps(source, sort_keys=True))
    (stage.folder / "split.json").write_text(split.to_json())
    groups = {f"{dataset.name}/{entry.id}": f"{dataset.name}/{entry.group}" for entry in dataset.entries}
    (stage.folder / "groups.json").write_text(json.dumps(groups))
    fit = pairs.select([f"{dataset.name}/{name}" for name in split.ids("fit")[:25]])
    if len(fit):
        stage.context.log_images("fit-images", 0, fit.images)
    for note in split.notes:
        stage.context.note(note)
    counts = {role: len(split.ids(role)) for role in ("fit", "select", "report")}
    return {"images": len(pairs), "split-digest": split.digest, **counts}

"""What MLflow is told about a stage: names, parameters, metrics and tags. Pure functions without MLflow."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.engine.graph import Cell, Plan, Stage
from harness.engine.stages import kinds
from harness.engine.stages.dataset import DatasetStage
from harness.learning.work_folder import LoggedValue, logged_values
from harness.store.results import Result

#: Limits of MLflow 3.17.
LONGEST_NAME = 250
LONGEST_PARAMETER = 6000
LONGEST_TAG = 8000


def clean_name(name: str) -> str:
    """Return a name in which ``_`` replaces what MLflow does not allow: all but letters, digits and ``_-. :/``."""
    # MLflow takes what starts with two dots for a way out of its folder.
    parts = [re.sub(r"^\.\.(?=.)", "__", re.sub(r"[^\w\-. :]", "_", part).strip()) for part in name.split("/")]
    kept = [part for part in parts if part not in ("", ".", "..")]
    return "/".join(kept)[:LONGEST_NAME].rstrip("/ ") or "_"


def flatten(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the leaves of nested dicts with the keys on the way to each; everything that is not a dict is a leaf."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from flatten(item, (*path, str(key)))
    else:
        yield path, value


def parameters_of(stage: Stage) -> dict[str, str]:
    """Return what a stage depends on, flat: its own parameters, its plugin's, its seed."""
    parts = stage.parts
    found: dict[str, Any] = {"kind": stage.kind, "seed": parts["seed"]}
    if "plugin" in parts:
        found |= {"plugin": parts["plugin"]["name"], "plugin-version": parts["plugin"]["version"]}
    kind = kinds()[stage.kind].thing
    for path, value in flatten(parts["parameters"]):
        if path[-1] not in kind.not_shown:
            found[".".join(path)] = "all" if path == (kind.real_pairs,) and value is None else value
    if "plugin" in parts:
        owner, values = parts["plugin"]["name"], flatten(parts.get("plugin-parameters", {}))
        found |= {f"{owner}.{'.'.join(path)}": value for path, value in values}
    return {clean_name(name): _shown(value)[:LONGEST_PARAMETER] for name, value in found.items()}


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def measured_numbers(result: Result, logged: set[str]) -> list[LoggedValue]:
    """Return what a result measured, as its kind tells it, without what its metrics file has under its last words.

    Args:
        result: of any stage.
        logged: names of metrics that the stage logged itself.
    """
    rows = []
    for name, value in kinds()[result.record["kind"]].thing.numbers(result):
        path = name.split("/")
        if path[-1] not in logged and " ".join(path[-2:]) not in logged:
            rows.append(LoggedValue(clean_name(name), _finite(value), 0, result.record.get("finished", 0.0)))
    return rows


def _finite(value: float) -> float:
    """Return NaN for an infinity, which MLflow would store as the largest number there is and draw."""
    return value if math.isfinite(value) else math.nan


@dataclass
class MetricsFile:
    """Reads the new lines of a growing file of metrics; starts again when lines that were read have changed.

    A killed fit that is taken up again cuts its file back to its last saved state.
    """

    _read: int = 0
    _digest: str = field(default_factory=lambda: hashlib.sha256(b"").hexdigest())

    def new_rows(self, path: Path) -> list[LoggedValue]:
        """Return the complete lines that were not returned before; nothing when there is no file."""
        try:
            content = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return []
        if hashlib.sha256(content[: self._read]).hexdigest() != self._digest:
            self._read = 0
        end = content.rfind(b"\n") + 1
        rows = logged_values(content[self._read : end].decode())
        self._read = max(end, self._read)
        self._digest = hashlib.sha256(content[: self._read]).hexdigest()
        return [row._replace(name=clean_name(row.name), value=_finite(row.value)) for row in rows]


def metric_names(path: Path) -> set[str]:
    """Return the names in a metrics file, as the stage wrote them."""
    try:
        return {row.name for row in logged_values(path.read_text())}
    except (FileNotFoundError, NotADirectoryError):
        return set()


def stage_tags(plan: Plan, stage: Stage, cells: Mapping[str, Cell]) -> dict[str, str]:
    """Return what a stage is, known before it runs."""
    loaded = plan.loaded
    tags = {
        "harness.study": loaded.name,
        "harness.profile": loaded.profile,
        "harness.kind": stage.kind,
        "harness.stage-key": stage.key,
    }
    read = dataset_stage(plan, stage)
    if read is not None:
        tags["harness.dataset-fingerprint"] = DatasetStage.facts(read).fingerprint
    cell = cells.get(stage.key)
    if cell is not None:
        tags |= {
            "harness.segmenter": cell.segmenter,
            "harness.recipe": cell.recipe.label,
            "harness.training-seed": str(cell.seed),
            "harness.fold": str(cell.fold),
        }
    return tags


def result_tags(result: Result, stored_before: bool) -> dict[str, str]:
    """Return where a result comes from, and the words among its values."""
    record = result.record
    words = {f"harness.{name}": value for name, value in result.values.items() if isinstance(value, str) and value}
    tags = {
        **words,
        "harness.status": "done",
        "harness.result-key": result.key,
        "harness.stored-before": str(stored_before).lower(),
        "harness.seconds": f"{record.get('seconds', 0.0):.3f}",
        "harness.host": str(record.get("host", "")),
        "harness.device": str(record.get("device", "")),
        "harness.commit": str(record.get("commit", "")),
        "mlflow.source.git.commit": str(record.get("commit", "")).removesuffix("-dirty"),
    }
    tags |= {f"harness.version.{name}": version for name, version in record.get("versions", {}).items()}
    return {clean_name(name): value[:LONGEST_TAG] for name, value in tags.items()}


def dataset_stage(plan: Plan, stage: Stage) -> Stage | None:
    """Return the stage of the dataset that a stage reads, or is; None where it reads none."""
    keys = (stage.key,) if stage.kind == DatasetStage.name else stage.inputs.get("dataset", ())
    return next((plan.stages[key] for key in keys), None)


def cells_by_stage(plan: Plan) -> dict[str, Cell]:
    """Return, for each train and evaluate stage, the first cell that it belongs to."""
    found: dict[str, Cell] = {}
    for cell in plan.cells:
        found.setdefault(cell.train, cell)
        found.setdefault(cell.evaluate, cell)
    return found


def study_parameters(plan: Plan) -> dict[str, str]:
    """Return the declaration of a study, for its parent run."""
    study = plan.loaded.study
    found: dict[str, Any] = {
        "title": study.title,
        "protocol": study.protocol,
        "dataset": plan.dataset.name,
        "size": study.dataset.size,
        "split": study.dataset.split.model_dump(mode="json", exclude_none=True),
        "folds": len(plan.splits),
        "seeds": list(study.replicate_seeds),
        "budget": study.budget.model_dump(mode="json", exclude_none=True),
        "segmenters": plan.segmenters,
        "generators": list(study.generators),
        "training-sets": [recipe.label for recipe in plan.recipes],
        "metric": study.primary.metric,
        "stages": len(plan.stages),
    }
    return {name: _shown(value)[:LONGEST_PARAMETER] for name, value in found.items() if value != ""}


@dataclass(frozen=True)
class Average:
    """The mean of the primary metric over seeds and folds of one segmenter and recipe; None while one is missing."""

    segmenter: str
    recipe: str
    where: str
    value: float | None
    done: int
    planned: int


def averages(plan: Plan, scores: Mapping[str, float]) -> list[Average]:
    """Return one average a segmenter, recipe and place it is scored on; never over fewer runs than planned.

    Args:
        plan: of the study.
        scores: the primary metric by key of the ``evaluate`` stage.
    """
    grouped: dict[tuple[str, str, str], list[str]] = {}
    for cell in plan.cells:
        parts = ([cell.dataset] if cell.dataset != plan.dataset.name else []) + (
            [cell.role] if cell.role != "report" else []
        )
        grouped.setdefault((cell.segmenter, cell.recipe.label, " ".join(parts)), []).append(cell.evaluate)
    found = []
    for (segmenter, recipe, where), keys in grouped.items():
        known = [scores[key] for key in keys if key in scores]
        mean = sum(known) / len(known) if len(known) == len(keys) else None
        found.append(Average(segmenter, recipe, where, mean, len(known), len(keys)))
    return found


def average_name(plan: Plan, average: Average) -> str:
    """Return the metric's name on the parent run, such as ``iou micro-imagewise/fpn real_100_dcgan_300``."""
    metric, reduction = plan.loaded.study.primary.primary
    where = f" on {average.where}" if average.where else ""
    return clean_name(f"{metric} {reduction}/{average.segmenter} {average.recipe}{where}")


def study_note(plan: Plan, found: list[Average]) -> str:
    """Return the parent run's description in Markdown: what the study is, what must be said of it, and its averages."""
    study = plan.loaded.study
    metric, reduction = study.primary.primary
    lines = [f"**{study.title or plan.loaded.name}**", ""]
    lines += [f"* {note}" for note in plan.notes]
    if found:
        lines += [
            "",
            f"| segmenter | training set | {metric} {reduction}, mean over seeds and folds | runs |",
            "|---|---|---|---|",
        ]
    for one in found:
        value = "incomplete" if one.value is None else f"{one.value:.4f}"
        label = f"{one.recipe} on {one.where}" if one.where else one.recipe
        lines.append(f"| {one.segmenter} | {label} | {value} | {one.done}/{one.planned} |")
    return "\n".join(lines)[:LONGEST_TAG]

"""What a report must say of its report images: who scored them before, and whether their groups are known."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from harness.engine.graph import Plan
from harness.engine.stages.dataset import DatasetStage
from harness.engine.stages.evaluate import EvaluateStage
from harness.store.results import Store

_NAMED = 3


def notes_on_report_role(plan: Plan, store: Store) -> Iterator[str]:
    """Yield a sentence on earlier looks at the report images, where the store knows any, and one on missing groups."""
    if not plan.cells:
        return
    dataset = plan.dataset
    own = {split.digest for split in plan.splits}
    studies = sorted(
        name
        for name, stages in store.run_plans().items()
        if name != plan.loaded.folder_name and any(_scored_reports(stages, dataset.name, store))
    )
    others = {split for split in _splits_scored(dataset.name, store) if split not in own}
    parts = []
    if studies:
        shown = ", ".join(studies[:_NAMED]) + (", ..." if len(studies) > _NAMED else "")
        parts.append(f"by {len(studies)} other {'studies' if len(studies) > 1 else 'study'} ({shown})")
    if others:
        parts.append(f"under {len(others)} other split{'s' if len(others) > 1 else ''}")
    if parts:
        yield (
            f"Report images of {dataset.name} were scored before {' and '.join(parts)}, as far as this store knows: a "
            "choice that was made after seeing those scores is not covered by these intervals."
        )
    if not dataset.given_groups:
        yield (
            f"No groups (patient, video) are known for {dataset.name}: every image but near-duplicates counts as "
            "independent of the others."
        )


def _scored_reports(stages: dict[str, dict[str, Any]], dataset: str, store: Store) -> Iterator[str]:
    """Yield the keys of a plan's stored scores of report images of a dataset."""
    for key, stage in stages.items():
        if stage["kind"] == EvaluateStage.name and stage["parts"]["parameters"]["role"] == "report":
            scored = stages.get(stage["parts"]["inputs"]["scored"][0])
            if scored and scored["parts"]["parameters"]["source"] == dataset and store.find(stage["kind"], key):
                yield key


def _splits_scored(dataset: str, store: Store) -> set[str]:
    """Return the digests of the splits of a dataset of which report images have stored scores."""
    keys = {
        result.record["parts"]["inputs"]["scored"][0]
        for result in store.results(EvaluateStage.name)
        if result.record["parts"]["parameters"]["role"] == "report"
    }
    found = filter(None, (store.find(DatasetStage.name, key) for key in keys))
    given = [result.record["parts"]["parameters"] for result in found]
    return {parameters["split"] for parameters in given if parameters["source"] == dataset}

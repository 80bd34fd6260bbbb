"""How commands run a plan: with progress on standard error and a mirror in MLflow."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.engine.executors.executor import Executor
    from harness.engine.graph import Plan
    from harness.engine.run import Summary
    from harness.store.results import Store


def note_plan(plan: Plan, store: Store, name: str, *, keep: bool) -> None:
    """Note a plan for ``harness store explain``, and, to ``keep`` its results, for ``harness store gc``."""
    stages = {s.key: {"label": s.label, "kind": s.kind, "parts": s.parts} for s in plan.stages.values()}
    store.record_plan(name, stages, keep=keep)


def run_shown(
    plan: Plan,
    store: Store,
    executor: Executor,
    *,
    stages: int,
    track: bool,
    report: Callable[[], Path] | None = None,
    **options: Any,
) -> tuple[Summary, Path | None]:
    """Run a plan as a command does.

    Args:
        plan: what to run.
        store: where results are.
        executor: where stages run.
        stages: how many stages the run is about, for progress.
        track: whether to mirror the run to MLflow.
        report: renders the report when the run has ended, and returns its page.
        **options: of ``harness.engine.run.run_plan``.

    Returns:
        How the run ended, and the report's page.
    """
    from harness.engine.progress import ProgressDisplay
    from harness.engine.run import run_plan
    from harness.engine.worker import git_commit

    os.environ.setdefault("HARNESS_COMMIT", git_commit())
    mirror = None
    if track:
        from harness.tracking.mirror import Mirror

        mirror = Mirror(plan, store, os.environ.get("MLFLOW_TRACKING_URI"))
    summary: Summary | None = None
    try:
        with ProgressDisplay(stages) as display:
            listeners: list[Any] = [display, *([mirror] if mirror else [])]
            summary = run_plan(plan, store, executor, listeners=listeners, **options)
        page = report() if report else None
        if mirror is not None and page is not None:
            mirror.report(page.parent)
        return summary, page
    finally:
        if mirror is not None:
            mirror.close(summary)

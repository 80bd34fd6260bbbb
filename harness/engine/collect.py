"""From a plan and the store to the results of a study. A cell without a result is a row without a value."""

from __future__ import annotations

from typing import Any

from harness.engine.comparisons import comparisons
from harness.engine.earlier_looks import notes_on_report_role
from harness.engine.graph import Plan
from harness.engine.rows import Rows, image_table
from harness.engine.shown import Shown
from harness.engine.stored import StoredResults
from harness.metrics.segmentation.boundary import in_pixels
from harness.plugins.contract import Kind
from harness.plugins.registry import load_plugin
from harness.results.schema import COLUMNS, Pipeline, Plugged, StudyResults
from harness.store.results import Store
from harness.study.schema import PluginUse


def collect(plan: Plan, store: Store, command: str = "") -> StudyResults:
    """Build the results of a study from what is stored now.

    Args:
        plan: the study's stages.
        store: where their results are.
        command: how the user would get these results again, shown in the report.
    """
    import pandas as pd

    stored = StoredResults(plan, store)
    shown = Shown(stored)
    study = plan.loaded.study
    primary, *secondary = comparisons(study, plan.recipes)
    cells = {(c.segmenter, c.recipe.label, c.seed, c.fold, c.dataset, c.role): c for c in plan.cells}
    return StudyResults(
        name=plan.loaded.name,
        title=study.title or plan.loaded.name,
        profile=plan.loaded.profile,
        rows=pd.DataFrame(Rows(stored).all(), columns=list(COLUMNS)),
        images=image_table(stored),
        comparison=primary,
        secondary=secondary,
        recipes=[recipe.label for recipe in plan.recipes],
        segmenters=plan.segmenters,
        generators=list(study.generators),
        done=sum(stored.result(cell.evaluate) is not None for cell in cells.values()),
        total=len(cells),
        failures=stored.failures(),
        notes=list(dict.fromkeys([*plan.notes, *stored.notes(), *notes_on_report_role(plan, store)])),
        facts={**_facts(stored), "command": command},
        published=list(study.report.published),
        tables=list(study.report.tables),
        figures=list(study.report.figures),
        real=shown.real(),
        synthetic=shown.synthetic(),
        predictions=shown.predictions(),
        measured=list(shown.measured()),
        selection_networks=_selection_networks(stored),
        made=list(shown.made()),
        pipelines=_pipelines(plan),
        masks=shown.masks(),
        variations=list(shown.variations()),
        checkpoints=list(shown.checkpoints()),
    )


def _pipelines(plan: Plan) -> dict[str, Pipeline]:
    """Return how each generator makes pairs."""

    def plugged(kind: Kind, use: PluginUse) -> Plugged:
        plugin = load_plugin(kind, use.plugin).create(**use.values())
        return Plugged(plugin.name, plugin.parameters.model_dump(mode="json"))

    return {
        name: Pipeline(
            tuple(plugged("generators", use) for _, use in declared.uses()),
            tuple(plugged("refiners", use) for use in declared.refine),
            declared.makes,
        )
        for name, declared in plan.loaded.study.generators.items()
    }


def _selection_networks(stored: StoredResults) -> dict[str, str]:
    """Return the network that the checkpoints of each selected part were scored with."""
    found = {}
    for pool in stored.plan.pools:
        for part, key in pool.selections:
            chosen = stored.read(key)
            if chosen is not None and not pool.control:
                found[f"{pool.label} {part}"] = chosen.network
    return found


def _size_limits(stored: StoredResults) -> dict[str, tuple[float, ...]]:
    """Return the areas that part polyps into thirds, where they are the same in all folds."""
    scored = [found for cell in stored.plan.cells if (found := stored.read(cell.evaluate)) is not None]
    limits = {found.size_limits for found in scored}
    return {"size_limits": limits.pop()} if len(limits) == 1 else {}


def _facts(stored: StoredResults) -> dict[str, Any]:
    """Return what the methods paragraph and the page say about how the numbers were made."""
    plan, loaded, study = stored.plan, stored.plan.loaded, stored.plan.loaded.study
    split = plan.splits[0]
    budget = (
        f"{study.budget.steps} optimiser steps for every recipe"
        if study.budget.steps
        else f"{study.budget.epochs} epochs, so that larger training sets get more optimiser steps"
    )
    role = "report" if study.protocol == "published" else "select"
    training = {
        "seeds": list(study.replicate_seeds),
        "budget": budget,
        "selection": f"best of {study.budget.validations} checkpoints by mean IoU on the {role} images",
        **({"looks": list(study.decide.looks), "look": study.look} if study.decide else {}),
        "zero_division": study.evaluate.zero_division,
        "tolerance": f"{in_pixels(study.evaluate.tolerance, (study.dataset.size,)):g} pixels",
        **_size_limits(stored),
    }
    environments = stored.environments()
    return {
        "dataset": plan.dataset.name,
        "title": plan.dataset.title,
        "split": split.name,
        "split_digest": split.digest[:12],
        "roles": {name: len(split.ids(name)) for name in ("fit", "select", "report")},
        "folds": len(plan.splits),
        **(training if plan.segmenters else {}),
        **({"sample_sets": study.fidelity.sets} if study.fidelity and study.fidelity.sets > 1 else {}),
        "protocol": study.protocol,
        "size": study.dataset.size,
        "geometry": study.dataset.geometry,
        "steps": {c.recipe.label: plan.stages[c.train].parts["parameters"]["steps"] for c in plan.cells},
        "segmenters": {n: u.model_dump() for n, u in zip(plan.segmenters, study.segmenters, strict=True)},
        "versions": environments[-1]["versions"] if environments else {},
        "commit": ", ".join(sorted({e["commit"] for e in environments if e["commit"]})),
        "device": ", ".join(sorted({e["device"] for e in environments})),
        "profile": loaded.profile,
    }

"""From a plan and the store to the results of a study. A cell without a result is a row without a value."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.data.pairs import PairSet
from harness.plan import Cell, Plan, Pool
from harness.results import COLUMNS, IMAGE_COLUMNS, Comparison, Failure, PredictionGrid, StudyResults
from harness.stages.running import RealPairs
from harness.store import Result, Store
from harness.study import SEGMENTATION_METRICS, Recipe

if TYPE_CHECKING:
    import pandas as pd

#: Pairs of each set that are kept for sample grids.
_SHOWN = 24


def collect(plan: Plan, store: Store, command: str = "") -> StudyResults:
    """Build the results of a study from what is stored now.

    Args:
        plan: the study's stages.
        store: where their results are.
        command: how the user would get these results again, shown in the report.
    """
    import pandas as pd

    reader = _Reader(plan, store)
    rows = [row for cell in plan.cells for row in reader.cell_rows(cell)]
    rows += [row for pool in plan.pools if not pool.control for row in reader.generator_rows(pool)]
    study = plan.loaded.study
    metric, reduction = study.compare.primary
    cells = {(c.segmenter, c.recipe.label, c.seed, c.fold, c.dataset, c.role): c for c in plan.cells}
    done = sum(reader.result(c.evaluate) is not None for c in cells.values())
    return StudyResults(
        name=plan.loaded.name,
        title=study.title or plan.loaded.name,
        profile=plan.loaded.profile,
        rows=pd.DataFrame(rows, columns=list(COLUMNS)),
        images=reader.image_table(),
        comparison=Comparison(_baselines(plan), metric, reduction, metric != "dice-loss"),
        recipes=[recipe.label for recipe in plan.recipes],
        segmenters=plan.segmenters,
        generators=list(study.generators),
        done=done,
        total=len(cells),
        failures=reader.failures(),
        notes=list(dict.fromkeys([*plan.notes, *reader.notes()])),
        facts={**reader.facts(), "command": command},
        published=list(study.report.published),
        tables=list(study.report.tables),
        figures=list(study.report.figures),
        real=reader.real(),
        synthetic=reader.synthetic(),
        predictions=reader.predictions(),
    )


def _baselines(plan: Plan) -> dict[str, str]:
    """Return the control arm of each recipe: the declared one, or the same real pairs without synthetic ones."""
    against = plan.loaded.study.compare.against
    labels = {recipe.label for recipe in plan.recipes}
    found = {}
    for recipe in plan.recipes:
        if against is not None:
            real = None if against.real == "all" else against.real
            baseline = Recipe(real, tuple((name, count) for name, count in against.synthetic.items() if count))
        else:
            baseline = Recipe(recipe.real)
        if baseline.label in labels and baseline.label != recipe.label:
            found[recipe.label] = baseline.label
    return found


class _Reader:
    """Reads each stored result once."""

    def __init__(self, plan: Plan, store: Store) -> None:
        self.plan = plan
        self.store = store
        self._results: dict[str, Result | None] = {}

    def result(self, key: str) -> Result | None:
        if key not in self._results:
            self._results[key] = self.store.find(self.plan.stages[key].kind, key)
        return self._results[key]

    def status(self, key: str) -> tuple[str, str]:
        """Return the status of a stage and why it has no result."""
        if self.result(key) is not None:
            return "done", ""
        failure = self.store.failure(key)
        if failure is not None:
            return str(failure["status"]), str(failure["reason"])
        for inputs in self.plan.stages[key].inputs.values():
            for other in inputs:
                status, _ = self.status(other)
                if status not in ("done", "left"):
                    return "skipped", f"needs {self.plan.stages[other].label!r}, which has no result"
        return "left", "has not run yet"

    def failures(self) -> list[Failure]:
        found = []
        for key, stage in self.plan.stages.items():
            status, reason = self.status(key)
            if status not in ("done", "left"):
                found.append(Failure(key, stage.label, status, reason))
        return found

    def notes(self) -> Iterator[str]:
        older = sum((result := self.result(key)) is not None and result.key != key for key in self.plan.stages)
        if older:
            yield f"{older} stage results come from older code than today's and were kept with --accept-code."
        for key in self.plan.stages:
            result = self.result(key)
            if result is not None:
                yield from result.notes

    def _row(self, **values: Any) -> dict[str, Any]:
        loaded = self.plan.loaded
        row = dict.fromkeys(COLUMNS, "")
        row |= {"study": loaded.name, "profile": loaded.profile, "protocol": loaded.study.protocol}
        return {**row, **values}

    def cell_rows(self, cell: Cell) -> Iterator[dict[str, Any]]:
        recipe = cell.recipe
        available = len(self.plan.splits[cell.fold].ids("fit"))
        result = self.result(cell.evaluate)
        status, _ = self.status(cell.evaluate)
        common = {
            "kind": "segmentation",
            "cell": cell.label,
            "segmenter": cell.segmenter,
            "recipe": recipe.label,
            "arm": _arm(recipe),
            "real": available if recipe.real is None else recipe.real,
            "synthetic": recipe.synthetic_count,
            "generator": "+".join(name for name, _ in recipe.synthetic),
            "seed": cell.seed,
            "fold": cell.fold,
            "dataset": cell.dataset,
            "role": cell.role,
            "status": status,
            "stage": cell.evaluate if result is None else result.key,
        }
        for metric in SEGMENTATION_METRICS:
            for reduction in ("micro", "micro-imagewise"):
                measured: dict[str, Any] = {"value": np.nan, "images": 0, "leak": ""}
                if result is not None:
                    measured["value"] = result.values["scores"][metric][reduction]
                    measured["images"] = result.values["images"]
                    measured["leak"] = result.values["leak"]
                yield self._row(**common, metric=metric, reduction=reduction, **measured)

    def generator_rows(self, pool: Pool) -> Iterator[dict[str, Any]]:
        common: dict[str, Any] = {"cell": pool.generator, "generator": pool.generator, "fold": pool.fold}
        real = len(self.plan.splits[pool.fold].ids("fit")) if pool.real is None else pool.real
        common |= {
            "arm": "synthetic",
            "real": real,
            "synthetic": pool.count,
            "dataset": self.plan.dataset.name,
            "seed": "",
        }
        for part, key in pool.selections:
            yield from self._selection_rows(part, key, common)
        if not pool.fidelity:
            return
        declared = self.plan.loaded.study.fidelity
        assert declared is not None
        result = self.result(pool.fidelity)
        status, _ = self.status(pool.fidelity)
        for metric in declared.metrics:
            measured = {} if result is None else result.values["measured"][metric]
            yield self._row(
                **common,
                kind="fidelity",
                role=declared.against,
                metric=metric,
                reduction=str(measured.get("network", "")),
                value=measured.get(metric, np.nan),
                images=measured.get("n_synthetic", 0),
                status=status,
                stage=pool.fidelity,
            )

    def _selection_rows(self, part: str, key: str, common: dict[str, Any]) -> Iterator[dict[str, Any]]:
        result = self.result(key)
        status, _ = self.status(key)
        parameters = self.plan.stages[key].parts["parameters"]
        metrics = [name for name in (parameters["by"], parameters["then"]) if name]
        rows = result.values["rows"] if result else [{"step": "", **dict.fromkeys(metrics, np.nan)}]
        chosen = result.values["step"] if result else None
        for row in rows:
            for metric in metrics:
                yield self._row(
                    **{**common, "cell": f"{common['cell']} {part}"},
                    kind="selection",
                    role=parameters["against"],
                    step=row["step"],
                    metric=metric,
                    reduction="selected" if row["step"] == chosen else "",
                    value=row[metric],
                    images=parameters["samples"],
                    status=status,
                    stage=key,
                )

    def image_table(self) -> pd.DataFrame:
        """Return one row an image and cell."""
        import pandas as pd

        frames = []
        for cell in self.plan.cells:
            result = self.result(cell.evaluate)
            if result is None:
                continue
            table = json.loads((result.folder / "images.json").read_text())
            columns: dict[str, Any] = {
                "segmenter": cell.segmenter,
                "recipe": cell.recipe.label,
                "seed": cell.seed,
                "fold": cell.fold,
                "dataset": cell.dataset,
                "role": cell.role,
                "image": table["ids"],
                "group": table["groups"],
            }
            counts = np.asarray(table["counts"], dtype=np.int64).reshape(-1, 4)
            columns |= {name: counts[:, i] for i, name in enumerate(("tp", "fp", "fn", "tn"))}
            columns |= table["scores"]
            frames.append(pd.DataFrame(columns, columns=list(IMAGE_COLUMNS)))
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=list(IMAGE_COLUMNS))

    def real(self) -> PairSet | None:
        result = self.result(self.plan.datasets[0])
        if result is None:
            return None
        pairs = RealPairs(result).role("fit")
        return pairs.first(min(_SHOWN, len(pairs))) if len(pairs) else None

    def synthetic(self) -> dict[str, PairSet]:
        shown = {}
        for pool in self.plan.pools:
            result = self.result(pool.key)
            if result is not None and pool.fold == 0 and pool.generator not in shown:
                pairs = PairSet.load(result.folder / "pairs")
                shown[pool.generator] = pairs.first(min(_SHOWN, len(pairs)))
        return shown

    def predictions(self) -> list[PredictionGrid]:
        """Return predictions of the first seed and fold on the first few report images."""
        count = self.plan.loaded.study.report.predictions
        scored = self.result(self.plan.datasets[0])
        if not count or scored is None:
            return []
        report = RealPairs(scored).role("report")
        few = report.first(min(count, len(report))) if len(report) else None
        if few is None:
            return []
        grids = []
        for segmenter in self.plan.segmenters:
            predictions = {}
            for cell in self.plan.cells:
                first = cell.seed == self.plan.loaded.study.seeds[0] and cell.fold == 0
                here = cell.role == "report" and cell.dataset == self.plan.dataset.name
                result = self.result(cell.evaluate) if cell.segmenter == segmenter and first and here else None
                if result is not None:
                    predictions[cell.recipe.label] = _unpack(result)[: len(few)]
            if predictions:
                grids.append(PredictionGrid(segmenter, few.images, few.masks, predictions, few.ids))
        return grids

    def _steps(self) -> dict[str, int]:
        """Return the optimiser steps of each recipe."""
        stages = self.plan.stages
        return {c.recipe.label: stages[c.train].parts["parameters"]["steps"] for c in self.plan.cells}

    def facts(self) -> dict[str, Any]:
        """Return what the methods paragraph and the page say about how the numbers were made."""
        loaded, study = self.plan.loaded, self.plan.loaded.study
        split = self.plan.splits[0]
        budget = (
            f"{study.budget.steps} optimiser steps for every recipe"
            if study.budget.steps
            else f"{study.budget.epochs} epochs, so that larger training sets get more optimiser steps"
        )
        role = "report" if study.protocol == "published" else "select"
        environments = [r.record for key in self.plan.stages if (r := self.result(key)) is not None]
        return {
            "dataset": self.plan.dataset.name,
            "title": self.plan.dataset.title,
            "split": split.name,
            "split_digest": split.digest[:12],
            "roles": {name: len(split.ids(name)) for name in ("fit", "select", "report")},
            "folds": len(self.plan.splits),
            "seeds": list(study.seeds),
            "budget": budget,
            "selection": f"best of {study.budget.validations} checkpoints by mean IoU on the {role} images",
            "protocol": study.protocol,
            "size": study.dataset.size,
            "geometry": study.dataset.geometry,
            "zero_division": study.evaluate.zero_division,
            "steps": self._steps(),
            "segmenters": {n: u.model_dump() for n, u in zip(self.plan.segmenters, study.segmenters, strict=True)},
            "versions": environments[-1]["versions"] if environments else {},
            "commit": ", ".join(sorted({e["commit"] for e in environments if e["commit"]})),
            "device": ", ".join(sorted({e["device"] for e in environments})),
            "profile": loaded.profile,
        }


def _arm(recipe: Recipe) -> str:
    if recipe.control:
        return "control"
    if recipe.synthetic:
        return "synthetic" if recipe.real == 0 else "mixed"
    return "real"


def _unpack(result: Result) -> np.ndarray:
    """Return the stored predictions as uint8 (N, H, W)."""
    shape = tuple(result.values["shape"])
    packed = np.load(result.folder / "predictions.npy")
    return np.unpackbits(packed, count=int(np.prod(shape))).reshape(shape)

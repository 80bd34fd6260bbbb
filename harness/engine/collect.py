"""From a plan and the store to the results of a study. A cell without a result is a row without a value."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.data.pairs import PairSet
from harness.engine.graph import SHOWN
from harness.engine.plan import Cell, Plan, Pool
from harness.engine.stages.running import RealPairs, load_pool
from harness.metrics.fidelity.masks import positions_by_source
from harness.metrics.fidelity.measure import measured_quantities
from harness.metrics.segmentation.boundary import in_pixels
from harness.metrics.segmentation.scores import reductions_of, size_of
from harness.metrics.spec import scored_metrics
from harness.plugins.contract import Kind
from harness.plugins.registry import load_plugin
from harness.results.schema import (
    COLUMNS,
    IMAGE_COLUMNS,
    CheckpointSamples,
    ClosestMasks,
    ClosestPairs,
    Comparison,
    Failure,
    MadeFrom,
    MaskDiversity,
    Measured,
    Pipeline,
    Plugged,
    PredictionGrid,
    StudyResults,
    Variations,
    score_columns,
)
from harness.store.results import Result, Store
from harness.study.recipes import Recipe
from harness.study.schema import PluginUse

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

#: Real pairs that a figure shows what was made from, and how many made from each.
_SOURCES, _MADE = 3, 5


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
    rows += [row for reference in getattr(plan, "references", []) for row in reader.reference_rows(reference)]
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
        comparison=Comparison(_baselines(plan), metric, reduction),
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
        measured=list(reader.measured()),
        selection_networks=reader.selection_networks(),
        made=list(reader.made()),
        pipelines=_pipelines(plan),
        masks=reader.masks(),
        variations=list(reader.variations()),
        checkpoints=list(reader.checkpoints()),
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


def _baselines(plan: Plan) -> dict[str, str]:
    """Return the control arm of each recipe: the declared one, or the same real pairs without synthetic ones.

    A recipe without real pairs that says what its generators see is compared with those.
    """
    against = plan.loaded.study.compare.against
    labels = {recipe.label for recipe in plan.recipes}
    found = {}
    for recipe in plan.recipes:
        alone = Recipe(recipe.sees if recipe.real == 0 and recipe.sees else recipe.real)
        baseline = alone if against is None else against.recipe()
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
            "seen": self._seen(cell),
            "synthetic": recipe.synthetic_count,
            "generator": "+".join(name for name, _ in recipe.synthetic),
            "seed": cell.seed,
            "fold": cell.fold,
            "dataset": cell.dataset,
            "role": cell.role,
            "status": status,
            "stage": cell.evaluate if result is None else result.key,
        }
        for metric in scored_metrics(self.plan.loaded.study.evaluate.metrics):
            for reduction in reductions_of(metric):
                measured: dict[str, Any] = {"value": np.nan, "images": 0, "leak": ""}
                if result is not None:
                    size, values = size_of(reduction), result.values
                    measured["value"] = _number(values["scores"][metric.name][reduction])
                    measured["images"] = values["sizes"][size] if size else values["images"]
                    measured["leak"] = values["leak"]
                yield self._row(**common, metric=metric.name, reduction=reduction, **measured)

    def _seen(self, cell: Cell) -> int | str:
        """Return the most real pairs that a generator of a recipe was fitted on; nothing when it takes from none."""
        keys = self.plan.stages[cell.train].inputs["pools"]
        seen = [self._fitted_on(pool) for pool in self.plan.pools if pool.key in keys]
        return max(seen, default="")

    def _fitted_on(self, pool: Pool) -> int:
        return len(self.plan.splits[pool.fold].ids("fit")) if pool.real is None else pool.real

    def generator_rows(self, pool: Pool) -> Iterator[dict[str, Any]]:
        """Return what a generator's checkpoints scored, and what was measured of its pairs."""
        real = self._fitted_on(pool)
        common: dict[str, Any] = {
            "cell": _pool_label(pool),
            "generator": pool.generator,
            "fold": pool.fold,
            "arm": "synthetic",
            "real": real,
            "seen": real,
            "synthetic": pool.count,
            "dataset": self.plan.dataset.name,
        }
        for part, key in pool.selections:
            yield from self._selection_rows(part, key, common)
        if pool.fidelity:
            yield from self._fidelity_rows(pool.fidelity, common)

    def reference_rows(self, reference: Any) -> Iterator[dict[str, Any]]:
        """Return what was measured of real images of another role, as of synthetic ones."""
        label = reference.label
        common: dict[str, Any] = {
            "cell": label,
            "generator": label,
            "fold": reference.fold,
            "arm": "real",
            "real": reference.count,
            "synthetic": 0,
            "dataset": self.plan.dataset.name,
        }
        yield from self._fidelity_rows(reference.key, common)

    def _fidelity_rows(self, key: str, common: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Return a row for every quantity; for every declared metric, without a value, when there is no result."""
        declared = self.plan.loaded.study.fidelity
        assert declared is not None
        result = self.result(key)
        status, _ = self.status(key)
        measured = {name: {} for name in declared.metrics} if result is None else result.values["measured"]
        # The store sorts names; rows stand in the declared order.
        names = sorted(measured, key=lambda n: declared.metrics.index(n) if n in declared.metrics else len(measured))
        for metric, network, value, images in measured_quantities({name: measured[name] for name in names}):
            yield self._row(
                **common,
                kind="fidelity",
                role=declared.against,
                metric=metric,
                reduction=network,
                value=value,
                images=images,
                status=status,
                stage=key,
            )

    def _selection_rows(self, part: str, key: str, common: dict[str, Any]) -> Iterator[dict[str, Any]]:
        result = self.result(key)
        status, _ = self.status(key)
        parameters = self.plan.stages[key].parts["parameters"]
        metrics = [name for name in (parameters["by"], parameters["then"]) if name]
        rows = result.values["rows"] if result else [{"step": "", **dict.fromkeys(metrics, np.nan)}]
        chosen = result.values["step"] if result else None
        for row in rows:
            problem = _problem(row, metrics) if result else ""
            for metric in metrics:
                yield self._row(
                    **{**common, "cell": f"{common['cell']} {part}"},
                    kind="selection",
                    role=parameters["against"],
                    step=row["step"],
                    metric=metric,
                    reduction="selected" if row["step"] == chosen else problem,
                    value=_number(row[metric]),
                    images=parameters["samples"],
                    status=status,
                    stage=key,
                )

    def selection_networks(self) -> dict[str, str]:
        """Return the network that the checkpoints of each selected part were scored with."""
        found = {}
        for pool in self.plan.pools:
            for part, key in pool.selections:
                result = self.result(key)
                if result is not None and not pool.control:
                    found[f"{_pool_label(pool)} {part}"] = str(result.values.get("network", ""))
        return found

    def measured(self) -> Iterator[Measured]:
        """Return what each fidelity stage tells beside its numbers."""
        stages = [(r.label, r.fold, "real", r.key) for r in getattr(self.plan, "references", [])]
        stages += [(_pool_label(p), p.fold, "synthetic", p.fidelity) for p in self.plan.pools if not p.control]
        for cell, fold, arm, key in stages:
            result = self.result(key) if key else None
            if result is None:
                continue
            memorisation = result.values["measured"].get("memorisation", {})
            areas = _arrays(result, "areas.npz")
            yield Measured(
                cell,
                fold,
                arm,
                str(memorisation.get("reference") or ""),
                _copies(memorisation),
                areas.get("real"),
                areas.get("synthetic"),
                ClosestPairs.of(_arrays(result, "closest.npz")),
                MaskDiversity.of(_arrays(result, "diversity.npz")),
                ClosestMasks.of(_arrays(result, "closest-masks.npz")),
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
                "size": table["sizes"],
            }
            for metric, parts in table["fractions"].items():
                columns |= dict(zip(score_columns(metric), parts, strict=True))
            frames.append(pd.DataFrame(columns))
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=list(IMAGE_COLUMNS))

    def real(self) -> PairSet | None:
        result = self.result(self.plan.datasets[0])
        if result is None:
            return None
        pairs = RealPairs(result).role("fit")
        return pairs.first(min(SHOWN, len(pairs))) if len(pairs) else None

    def synthetic(self) -> dict[str, PairSet]:
        shown = {}
        for pool in self.plan.pools:
            result = self.result(pool.key)
            if result is not None and pool.fold == 0 and pool.generator not in shown:
                pairs = PairSet.load(result.folder / "pairs")
                shown[pool.generator] = pairs.first(min(SHOWN, len(pairs)))
        return shown

    def made(self) -> Iterator[MadeFrom]:
        """Return some pairs of each generator beside the real pair that they were made from, in its first pool."""
        stored = self.result(self.plan.datasets[0])
        shown: set[str] = set()
        for pool in self.plan.pools:
            result = self.result(pool.key)
            if stored is None or result is None or pool.control or pool.fold or pool.generator in shown:
                continue
            if pool.makes == "masks":  # their images are the masks once more
                continue
            shown.add(pool.generator)
            pairs, before = PairSet.load(result.folder / "pairs"), self._before_refinement(pool.key)
            _, sources = load_pool((before or result).folder)
            positions = positions_by_source(sources)
            real = RealPairs(stored).role("fit") if positions else None
            chosen: list[str | None] = [*list(positions)[:_SOURCES]]
            for name in chosen or ([None] if before else []):
                few = positions[name][:_MADE] if name is not None else range(min(_MADE, len(pairs)))
                yield MadeFrom(
                    _pool_label(pool),
                    None if name is None or real is None else real.select([name]),
                    pairs.take(few),
                    None if before is None else PairSet.load(before.folder / "pairs").take(few),
                )

    def _sampled(self, key: str) -> str:
        """Return the key of the stage that sampled a pool, before any refinement."""
        while self.plan.stages[key].kind == "refine":
            key = self.plan.stages[key].inputs["pool"][0]
        return key

    def _before_refinement(self, key: str) -> Result | None:
        """Return the pool that the first refiner of a pool was given; None when nothing refines it."""
        first = self._sampled(key)
        return self.result(first) if first != key else None

    def masks(self) -> dict[str, NDArray[np.uint8]]:
        """Return the first masks of each generator that has a plugin for them, in its first pool."""
        shown: dict[str, NDArray[np.uint8]] = {}
        for pool in self.plan.pools:
            sampled = self._sampled(pool.key)
            key = self.plan.stages[sampled].inputs.get("masks", (sampled,) if pool.makes == "masks" else ())
            result = self.result(key[0]) if key else None
            if result is not None and not pool.control and not pool.fold and pool.generator not in shown:
                shown[pool.generator] = PairSet.load(result.folder / "pairs").masks[:SHOWN]
        return shown

    def variations(self) -> Iterator[Variations]:
        """Return the images that each generator made for a few masks by several seeds, in its first pool."""
        shown: set[str] = set()
        for pool in self.plan.pools:
            result = self.result(self._sampled(pool.key))
            if result is None or pool.control or pool.fold or pool.generator in shown:
                continue
            if found := _arrays(result, "variations.npz"):
                shown.add(pool.generator)
                measured = self.result(pool.fidelity) if pool.fidelity else None
                agreement = _arrays(measured, "agreement_by_mask.npz").get("agreement") if measured else None
                yield Variations(_pool_label(pool), found["masks"], found["images"], agreement)

    def checkpoints(self) -> Iterator[CheckpointSamples]:
        """Return what the checkpoints of each selected part made; older results have kept nothing of it."""
        for pool in self.plan.pools:
            for part, key in pool.selections if not (pool.control or pool.fold) else ():
                result = self.result(key)
                if result is None:
                    continue
                steps = [int(row["step"]) for row in result.values["rows"]]
                kept = {step: found for step in steps if (found := _arrays(result, f"shown/{step}.npz"))}
                if kept:
                    images, masks = (np.stack([found[name] for found in kept.values()]) for name in ("images", "masks"))
                    cell, chosen = f"{_pool_label(pool)} {part}", int(result.values["step"])
                    yield CheckpointSamples(cell, part, tuple(kept), chosen, images, masks)

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

    def _size_limits(self) -> dict[str, list[float]]:
        """Return the areas that part polyps into thirds, where they are the same in all folds."""
        found = [result.values["size-limits"] for c in self.plan.cells if (result := self.result(c.evaluate))]
        return {"size_limits": found[0]} if found and all(one == found[0] for one in found) else {}

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
        training = {
            "seeds": list(study.seeds),
            "budget": budget,
            "selection": f"best of {study.budget.validations} checkpoints by mean IoU on the {role} images",
            "zero_division": study.evaluate.zero_division,
            "tolerance": f"{in_pixels(study.evaluate.tolerance, (study.dataset.size,)):g} pixels",
            **self._size_limits(),
        }
        environments = [r.record for key in self.plan.stages if (r := self.result(key)) is not None]
        return {
            "dataset": self.plan.dataset.name,
            "title": self.plan.dataset.title,
            "split": split.name,
            "split_digest": split.digest[:12],
            "roles": {name: len(split.ids(name)) for name in ("fit", "select", "report")},
            "folds": len(self.plan.splits),
            **(training if self.plan.segmenters else {}),
            **({"sample_sets": study.fidelity.sets} if study.fidelity and study.fidelity.sets > 1 else {}),
            "protocol": study.protocol,
            "size": study.dataset.size,
            "geometry": study.dataset.geometry,
            "steps": self._steps(),
            "segmenters": {n: u.model_dump() for n, u in zip(self.plan.segmenters, study.segmenters, strict=True)},
            "versions": environments[-1]["versions"] if environments else {},
            "commit": ", ".join(sorted({e["commit"] for e in environments if e["commit"]})),
            "device": ", ".join(sorted({e["device"] for e in environments})),
            "profile": loaded.profile,
        }


def _pool_label(pool: Pool) -> str:
    """Return a generator's name, with the real pairs it was fitted on when those are not all, as the plan writes it."""
    return pool.generator if pool.real is None else f"{pool.generator} on {pool.real} real"


def _number(value: Any) -> float:
    """Return a stored number; JSON has null where there is none."""
    return math.nan if value is None else float(value)


def _problem(row: dict[str, Any], metrics: Sequence[str]) -> str:
    """Return why a checkpoint cannot be chosen; older results do not say it in words."""
    if row.get("problem"):
        return str(row["problem"])
    if row.get("constant"):
        return "constant"
    return "" if all(math.isfinite(_number(row[metric])) for metric in metrics) else "not a number"


def _copies(memorisation: dict[str, Any]) -> bool | None:
    """Return whether images were flagged as copies; older results hold only what the flag stands on."""
    if memorisation.get("copies") is not None:
        return bool(memorisation["copies"])
    p, exact = _number(memorisation.get("copied-p-value")), _number(memorisation.get("exact-copies"))
    return None if math.isnan(p) or math.isnan(exact) else exact > 0 or p < 0.01


def _arrays(result: Result, name: str) -> dict[str, np.ndarray]:
    """Return the arrays of a result's file; none when it has no such file."""
    path = result.folder / name
    if not path.is_file():
        return {}
    with np.load(path) as stored:
        return dict(stored)


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

"""From stored results to the rows of ``results.csv``: every number once, and a row for each that is missing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from harness.engine.graph import Cell, Measurement, Pool, Reference, Trivial
from harness.engine.stages import kinds
from harness.engine.stages.trivial import PREDICTIONS
from harness.engine.stored import StoredResults
from harness.metrics.fidelity.measure import measured_quantities
from harness.metrics.segmentation.scores import reductions_of, size_of
from harness.metrics.spec import scored_metrics
from harness.results.schema import COLUMNS, IMAGE_COLUMNS, score_columns
from harness.study.recipes import Recipe

if TYPE_CHECKING:
    import pandas as pd

    from harness.engine.stages.evaluate import EvaluateResult
    from harness.engine.stages.fidelity import FidelityResult
    from harness.engine.stages.select import SelectResult
    from harness.engine.stages.train import TrainResult
    from harness.engine.stages.trivial import TrivialResult

Row = dict[str, Any]


class Rows:
    """The rows of a study.

    Args:
        stored: the results of its stages.
    """

    def __init__(self, stored: StoredResults) -> None:
        self.stored = stored
        self.plan = stored.plan
        loaded = self.plan.loaded
        self._common = dict.fromkeys(COLUMNS, "")
        self._common |= {"study": loaded.name, "profile": loaded.profile, "protocol": loaded.study.protocol}

    def all(self) -> list[Row]:
        """Return every row, in the order of ``results.csv``."""
        rows = [row for cell in self.plan.cells for row in self._of_cell(cell)]
        rows += [row for cell in self.plan.cells for row in self._of_training(cell)]
        rows += [row for trivial in self.plan.trivial for row in self._of_trivial(trivial)]
        rows += [row for reference in self.plan.references for row in self._of_reference(reference)]
        rows += [row for pool in self.plan.pools if not pool.control for row in self._of_pool(pool)]
        return rows + [row for measured in self.plan.measurements for row in self._of_measurement(measured)]

    def _row(self, key: str, **values: Any) -> Row:
        """Return a row of a stage: its status, and the key of the result that stands for it."""
        result = self.stored.result(key)
        status, _ = self.stored.status(key)
        return {**self._common, "status": status, "stage": key if result is None else result.key, **values}

    def _about(self, cell: Cell) -> Row:
        """Return what the rows of a cell share."""
        recipe = cell.recipe
        return {
            "cell": cell.label,
            "segmenter": cell.segmenter,
            "recipe": recipe.label,
            "arm": arm_of(recipe),
            "real": self.plan.n_fit(recipe.real, cell.fold),
            "n_fit": self._n_fit_of(cell),
            "synthetic": recipe.synthetic_count,
            "generator": "+".join(name for name, _ in recipe.synthetic),
            **_drawn(cell),
            "fold": cell.fold,
            "dataset": cell.dataset,
            "role": cell.role,
        }

    def _of_cell(self, cell: Cell) -> Iterator[Row]:
        scored: EvaluateResult | None = self.stored.read(cell.evaluate)
        common = {"kind": "segmentation", **self._about(cell)}
        for metric in scored_metrics(self.plan.loaded.study.evaluate.metrics):
            for reduction in reductions_of(metric):
                measured: Row = {"value": math.nan, "images": 0, "leak": ""}
                if scored is not None:
                    size, value = size_of(reduction), scored.scores[metric.name][reduction]
                    images = scored.sizes[size] if size else scored.images
                    measured = {"value": _number(value), "images": images, "leak": scored.leak}
                yield self._row(cell.evaluate, **common, metric=metric.name, reduction=reduction, **measured)

    def _of_training(self, cell: Cell) -> Iterator[Row]:
        """Yield whether a segmenter learned: by its last rise, and by whether it looks at images."""
        trained: TrainResult | None = self.stored.read(cell.train)
        scored: EvaluateResult | None = self.stored.read(cell.evaluate)
        common = {"kind": "training", **self._about(cell)}
        rise = None if trained is None else trained.last_rise
        yield self._row(cell.train, **common, metric="last-rise", value=_number(rise))
        constant, images = (None, 0) if scored is None else (scored.constant, scored.images)
        yield self._row(cell.evaluate, **common, metric="constant", value=_number(constant), images=images)

    def _of_trivial(self, trivial: Trivial) -> Iterator[Row]:
        """Yield what each trivial prediction scored."""
        found: TrivialResult | None = self.stored.read(trivial.key)
        common = {"kind": "trivial", "fold": trivial.fold, "dataset": trivial.dataset, "role": trivial.role}
        for name in PREDICTIONS:
            for metric in scored_metrics(self.plan.loaded.study.evaluate.metrics):
                for reduction in reductions_of(metric):
                    measured: Row = {"value": math.nan, "images": 0}
                    if found is not None:
                        size, value = size_of(reduction), found.scores[name][metric.name][reduction]
                        measured = {"value": _number(value), "images": found.sizes[size] if size else found.images}
                    yield self._row(
                        trivial.key, **common, cell=name, metric=metric.name, reduction=reduction, **measured
                    )

    def _n_fit_of(self, cell: Cell) -> int | str:
        """Return the most real pairs that a generator of a recipe was fitted on; nothing when it takes from none."""
        return max((self.plan.n_fit(pool.n_fit, pool.fold) for pool in cell.pools), default="")

    def _of_pool(self, pool: Pool) -> Iterator[Row]:
        """Yield what a generator's checkpoints scored, and what was measured of its pairs."""
        n_fit = self.plan.n_fit(pool.n_fit, pool.fold)
        common: Row = {
            "cell": pool.label,
            "generator": pool.generator,
            "fold": pool.fold,
            "arm": "synthetic",
            "real": n_fit,
            "n_fit": n_fit,
            "synthetic": pool.count,
            "dataset": self.plan.dataset.name,
        }
        for part, key in pool.selections:
            yield from self._of_selection(key, {**common, "cell": f"{pool.label} {part}"})
        if pool.fidelity:
            yield from self._of_fidelity(pool.fidelity, common)

    def _of_reference(self, reference: Reference) -> Iterator[Row]:
        """Yield what was measured of real images of another role, as of synthetic ones."""
        common: Row = {
            "cell": reference.label,
            "generator": reference.label,
            "fold": reference.fold,
            "arm": "real",
            "real": reference.count,
            "synthetic": 0,
            "dataset": self.plan.dataset.name,
        }
        yield from self._of_fidelity(reference.key, common)

    def _of_fidelity(self, key: str, common: Row) -> Iterator[Row]:
        """Yield a row for every quantity; for every declared metric, without a value, when there is no result."""
        declared = self.plan.loaded.study.fidelity
        assert declared is not None
        found: FidelityResult | None = self.stored.read(key)
        measured: dict[str, Any] = {name: {} for name in declared.metrics} if found is None else found.measured
        # The store sorts names; rows stand in the declared order.
        names = sorted(measured, key=lambda n: declared.metrics.index(n) if n in declared.metrics else len(measured))
        for metric, network, value, images in measured_quantities({name: measured[name] for name in names}):
            beside = {"metric": metric, "reduction": network, "value": value, "images": images}
            yield self._row(key, **common, kind="fidelity", role=declared.against, **beside)

    def _of_selection(self, key: str, common: Row) -> Iterator[Row]:
        """Yield a row for each checkpoint and metric; for each metric, without a value, when there is no result."""
        parameters = self.plan.stages[key].parts["parameters"]
        metrics = [name for name in (parameters["by"], parameters["then"]) if name]
        found: SelectResult | None = self.stored.read(key)
        nothing: Row = {"step": "", **dict.fromkeys(metrics, math.nan), "problem": ""}
        rows = found.rows if found else [nothing]
        for row in rows:
            chosen = found is not None and row["step"] == found.step
            for metric in metrics:
                yield self._row(
                    key,
                    **common,
                    kind="selection",
                    role=parameters["against"],
                    step=row["step"],
                    metric=metric,
                    reduction="selected" if chosen else row["problem"],
                    value=float(row[metric]),
                    images=parameters["samples"],
                )

    def _of_measurement(self, measurement: Measurement) -> Iterator[Row]:
        """Yield what a stage of a further kind measured; one row without a value when there is no result."""
        kind = self.plan.stages[measurement.key].kind
        common = {
            "kind": kind,
            "cell": measurement.label,
            "generator": measurement.generator,
            "fold": measurement.fold,
            "dataset": self.plan.dataset.name,
        }
        result = self.stored.result(measurement.key)
        numbers = [("", math.nan)] if result is None else list(kinds()[kind].thing.numbers(result))
        for name, value in numbers:
            yield self._row(measurement.key, **common, metric=name, value=value)


def image_table(stored: StoredResults) -> pd.DataFrame:
    """Return one row an image and cell, columns ``IMAGE_COLUMNS``."""
    import pandas as pd

    frames = []
    for cell in stored.plan.cells:
        scored: EvaluateResult | None = stored.read(cell.evaluate)
        if scored is None:
            continue
        table = scored.per_image
        columns: Row = {
            "segmenter": cell.segmenter,
            "recipe": cell.recipe.label,
            **_drawn(cell),
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


def _drawn(cell: Cell) -> Row:
    """Return which replicate a cell is of, and what tells its draws from those of others; nothing where it has none."""

    def named(keys: Iterable[str]) -> str:
        return "+".join(key[:12] for key in keys)

    subset = "" if cell.recipe.real in (None, 0) else f"{cell.fold}.{cell.draw.subset}"
    pools = named(pool.key for pool in cell.pools)
    fits = named(fit for pool in cell.pools for fit in pool.fits)
    return {"seed": cell.seed, "training": cell.draw.training, "pool": pools, "fit": fits, "subset": subset}


def _number(value: float | None) -> float:
    """Return a stored number; JSON has null where there is none."""
    return math.nan if value is None else float(value)


def arm_of(recipe: Recipe) -> str:
    """Return which kind of arm a recipe is: ``real``, ``synthetic``, ``mixed`` or ``control``."""
    if recipe.control:
        return "control"
    if recipe.synthetic:
        return "synthetic" if recipe.real == 0 else "mixed"
    return "real"

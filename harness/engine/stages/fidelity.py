"""The ``fidelity`` stage: measures a pool of synthetic pairs, or real pairs of another role, against real ones."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from harness.data.pairs import PairSet
from harness.engine.graph import Plan
from harness.engine.keys import absolute, named_network, unless_default
from harness.engine.kind import StageKind
from harness.engine.stages.pool import PoolResult
from harness.engine.stages.running import RunningStage
from harness.engine.stages.train import TrainResult, TrainStage
from harness.errors import HarnessError
from harness.metrics.spec import Sets, code_of_extensions, fidelity_metrics
from harness.plugins.registry import load_plugin
from harness.results.schema import ClosestMasks, ClosestPairs, MaskDiversity
from harness.store.results import Result
from harness.study.recipes import Recipe

if TYPE_CHECKING:
    from harness.metrics.spec import FidelityMetric, Judge, Values


@dataclass(frozen=True)
class FidelityResult:
    """What was measured of a pool or of real images.

    Attributes:
        folder: of the result.
        measured: by metric, its numbers and what belongs beside them.
    """

    folder: Path
    measured: dict[str, dict[str, Any]]

    def _arrays(self, name: str) -> dict[str, NDArray[Any]]:
        path = self.folder / f"{name}.npz"
        if not path.is_file():
            return {}
        with np.load(path) as stored:
            return dict(stored)

    def areas(self) -> dict[str, NDArray[np.float64]]:
        """Return shares of the frame that are polyp, ``real`` and ``synthetic``; empty when no metric needs them."""
        return self._arrays("areas")

    def closest(self) -> ClosestPairs | None:
        """Return the pairs that lie closest; None when memorisation was not measured."""
        return ClosestPairs.of(self._arrays("closest"))

    def diversity(self) -> MaskDiversity | None:
        """Return how masks of one real pair differ; None unless several were made from one."""
        return MaskDiversity.of(self._arrays("diversity"))

    def closest_masks(self) -> ClosestMasks | None:
        """Return synthetic masks with their most similar real ones; None when SIM was not measured."""
        return ClosestMasks.of(self._arrays("closest-masks"))

    def agreement_by_mask(self) -> NDArray[np.float64] | None:
        """Return the mean agreement of the images of each mask that has variations; None where there are none."""
        return self._arrays("agreement_by_mask").get("agreement")


class FidelityStage(StageKind[FidelityResult]):
    """Measures a pool, or real images."""

    name: ClassVar[str] = "fidelity"
    version: ClassVar[int] = 3
    comparable: ClassVar[bool] = True

    @classmethod
    def add(
        cls,
        plan: Plan,
        label: str,
        fold: int,
        *,
        pool: str = "",
        n_fit: int | None = None,
        role: str = "",
        of_masks: bool = False,
    ) -> str:
        """Add the measurement of a pool, or of the real images of a role, to a plan; return its key.

        Args:
            plan: to add to.
            label: what is measured.
            fold: of the split.
            pool: key of the pool.
            n_fit: real pairs that its generator was fitted on; None for all of the fit role.
            role: whose images are measured, where it is no pool.
            of_masks: whether the masks of that role are measured as grey pictures.
        """
        declared = plan.loaded.study.fidelity
        assert declared is not None
        # The key of the training stands for the segmenter and its budget.
        beside = {"references", "segmenter", "budget", "sets"}
        declaration = declared.model_dump(mode="json", exclude=beside)
        size = declared.size(plan.n_fit(n_fit, fold))
        parameters = named_network({**declaration, "samples": size})
        sets = declared.sets if pool else 1
        asked = {"real": role, "of": "masks" if of_masks else "", "sets": sets}
        parameters |= unless_default(asked, {"real": "", "of": "", "sets": 1})
        inputs = {"dataset": (plan.datasets[fold],), **({"pool": (pool,)} if pool else {})}
        known = fidelity_metrics()
        asked_for_judge = any(known[name].needs_segmenter for name in declared.metrics)
        judge, loaded = _judge(plan, fold) if asked_for_judge else ({}, {})
        return plan.add(
            cls,
            f"measure {label}",
            parameters,
            {**inputs, **judge},
            runtime={"network": declared.network, **loaded},
            code=code_of_extensions(declared.metrics),
            amount=float(sets),
        )

    @classmethod
    def run(cls, stage: RunningStage) -> dict[str, Any]:
        """Measure by every metric the study names, and keep what the report's figures need.

        Of generators of masks alone, and of real pairs beside them, the masks are measured as grey pictures. Several
        sets of a pool are measured one by one. Copies are looked for in all of them at once, since a copy in any set
        is one, and figures show all of them.
        """
        from harness.metrics.fidelity.measure import evidence, of_masks
        from harness.metrics.spec import fidelity_metric

        role = stage.parameters.get("real")
        pool = stage.dataset.role(role) if role else _pool(stage)
        if stage.parameters.get("of") == "masks":
            pool = of_masks(pool)
        count = stage.parameters.get("sets", 1)
        if stage.parameters["samples"] is not None:
            pool = pool.first(min(len(pool), count * stage.parameters["samples"]))
        size = len(pool) // count
        compared = _compared(stage, pool, role)
        sets = [replace(compared, synthetic=pool.take(range(i * size, (i + 1) * size))) for i in range(count)]
        metrics = [fidelity_metric(name) for name in stage.parameters["metrics"]]
        measured: dict[str, Values] = {}
        for done, metric in enumerate(metrics):
            stage.context.progress(done, len(metrics), "metrics")
            measured[metric.name] = _over_sets(metric, sets, compared)
            if metric.needs_segmenter and compared.segmenter is not None:
                measured[metric.name] |= _agreement_by_mask(stage, compared.segmenter)
        for name, arrays in evidence(metrics, compared).items():
            np.savez(stage.folder / f"{name}.npz", allow_pickle=False, **arrays)
            if name == "closest":
                pictures = np.concatenate([arrays["synthetic"], arrays["real"]], axis=2)
                stage.context.log_images("closest", 0, pictures)
        for name, values in measured.items():
            stage.context.log(0, **{name: float(values[name])})
            # What belongs beside a sound number stands in the tables; a note is for what is out of the ordinary.
            if values.get("notes") and (math.isnan(float(values[name])) or values.get("copies")):
                stage.context.note(f"{stage.label.removeprefix('measure ')}, {name}: {values['notes']}")
        return {"measured": measured}

    @classmethod
    def read(cls, result: Result) -> FidelityResult:
        """Open the measurement."""
        return FidelityResult(result.folder, result.values["measured"])


def _judge(plan: Plan, fold: int) -> tuple[dict[str, tuple[str, ...]], dict[str, Any]]:
    """Add the training of the segmenter that judges pairs; return it as an input, and what it takes to load it."""
    study = plan.loaded.study
    assert study.fidelity is not None
    use = study.fidelity.segmenter or study.segmenters[0]
    plugin = load_plugin("segmenters", use.plugin).create(**use.values())
    key = TrainStage.add(plan, use, Recipe(None), study.first_draw(fold), (), study.fidelity.budget or study.budget)
    parameters = plugin.parameters.model_dump(mode="json")
    loaded = {"target": absolute(use.plugin), "plugin-parameters": parameters}
    return {"train": (key,)}, {**loaded, "segmenter": use.name or plugin.label}


def _pool(stage: RunningStage) -> PairSet:
    """Return the pool, each pair with what it was made from as its lineage: the choice of a checkpoint made none."""
    pool: PoolResult = stage.input("pool")
    return replace(pool.pairs, lineage=pool.sources)


def _reference(stage: RunningStage) -> PairSet:
    """Return the real pairs to measure against: of a role, or those that the pool's generator was fitted on.

    Raises:
        HarnessError: the role has too few.
    """
    against = stage.parameters["against"]
    if against == "seen":
        return _fitted(stage, None)
    reference: PairSet = stage.dataset.role(against)
    if len(reference) < 2:
        raise HarnessError(f"The {against} role has fewer than 2 images to measure against.")
    return reference


def _compared(stage: RunningStage, pool: PairSet, role: str | None) -> Sets:
    """Return what is compared, and with what: the reference, what the pool's generator was fitted on, and what nothing
    of it has seen."""
    from harness.learning.judge import TrainedSegmenter

    judge = None
    trained: list[TrainResult] = stage.inputs("train")
    for result in trained:
        segmenter = stage.plugin("segmenters")
        judge = TrainedSegmenter.load(segmenter, result.weights, stage.device, stage.runtime["segmenter"])
    fitted = _fitted(stage, role)
    held_out = _held_out(stage, pool, fitted, role)
    network = stage.runtime["network"] or ""
    return Sets(_reference(stage), pool, stage.device, fitted, held_out, stage.seed, network, segmenter=judge)


def _over_sets(metric: FidelityMetric, sets: list[Sets], all_sets: Sets) -> Values:
    """Measure each set by one metric, and say what that is of all of them; of a single set, what it is."""
    from harness.metrics.fidelity.measure import measure
    from harness.metrics.fidelity.sample_sets import over_sets

    values = [measure([metric], one)[metric.name] for one in sets]
    if len(sets) == 1:
        return values[0]
    return over_sets(metric.name, values, measure([metric], all_sets)[metric.name] if metric.of_all_sets else None)


def _fitted(stage: RunningStage, role: str | None) -> PairSet:
    """Return the real pairs that the pool's generator was fitted on; of real images, those of the fit role."""
    fitted: PairSet = stage.dataset.role("fit")
    if role is not None:
        return fitted
    pool: PoolResult = stage.input("pool")
    names = set(pool.provenance["fitted"])
    return fitted.select([name for name in fitted.ids if name in names])


def _held_out(stage: RunningStage, pairs: PairSet, fitted: PairSet, role: str | None) -> PairSet | None:
    """Return real pairs of a role that nothing of what is measured has seen; None when there are none."""
    if role is None:
        pool: PoolResult = stage.input("pool")
        seen = frozenset().union(*(frozenset(names) for names in pool.provenance.values()))
    else:
        seen = fitted.seen() | pairs.seen()
    for other in ("select", "report"):
        candidates: PairSet = stage.dataset.role(other)
        unseen = [name for name in candidates.ids if name not in seen]
        if len(unseen) > 1:
            return candidates.select(unseen)
    return None


def _agreement_by_mask(stage: RunningStage, segmenter: Judge) -> Values:
    """Compare the images that were made for each of a few masks with it, where the pool has such; keep the means."""
    from harness.metrics.fidelity.agreement import agreement

    pools: list[PoolResult] = stage.inputs("pool")
    found = pools[0].variations if pools else {}
    if not found:
        return {}
    masks, images = found["masks"], found["images"]
    predicted = segmenter(images.reshape(-1, *images.shape[2:])).reshape(*images.shape[:2], *masks.shape[1:])
    means = [
        agreement(own, np.repeat(mask[None], len(own), axis=0)).value
        for own, mask in zip(predicted, masks, strict=True)
    ]
    np.savez(stage.folder / "agreement_by_mask.npz", allow_pickle=False, agreement=np.array(means))
    return {"agreement-lowest-mask": float(np.min(means))}

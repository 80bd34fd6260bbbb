"""The ``fidelity`` stage: measures a pool of synthetic pairs, or real pairs of another role, against real ones."""

from __future__ import annotations

import json
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
from harness.plugins.registry import load_plugin
from harness.results.schema import ClosestMasks, ClosestPairs, MaskDiversity
from harness.store.results import Result
from harness.study.recipes import Recipe

if TYPE_CHECKING:
    from harness.metrics.fidelity.agreement import TrainedSegmenter
    from harness.metrics.fidelity.measure import Values

_MEASURED = "fidelity.json"


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
        judge, loaded = _judge(plan, fold) if "agreement" in declared.metrics else ({}, {})
        runtime = {"network": declared.network, **loaded}
        return plan.add(cls, f"measure {label}", parameters, {**inputs, **judge}, runtime=runtime, amount=float(sets))

    @classmethod
    def run(cls, stage: RunningStage) -> dict[str, Any]:
        """Measure by every metric the study names, and keep what the report's figures need.

        Of generators of masks alone, and of real pairs beside them, the masks are measured as grey pictures. Several
        sets of a pool are measured one by one. Copies are looked for in all of them at once, since a copy in any set
        is one, and figures show all of them.
        """
        from harness.metrics.fidelity import figure_data
        from harness.metrics.fidelity.measure import of_masks

        role = stage.parameters.get("real")
        pool = stage.dataset.role(role) if role else _pool(stage)
        if stage.parameters.get("of") == "masks":
            pool = of_masks(pool)
        count = stage.parameters.get("sets", 1)
        if stage.parameters["samples"] is not None:
            pool = pool.first(min(len(pool), count * stage.parameters["samples"]))
        size = len(pool) // count
        sets = [pool.take(range(i * size, (i + 1) * size)) for i in range(count)]
        reference = _reference(stage)
        names = list(stage.parameters["metrics"])
        measured: dict[str, Values] = {}
        for done, name in enumerate(names):
            stage.context.progress(done, len(names), "metrics")
            measured[name] = _over_sets(stage, name, reference, sets, pool, role)
        (stage.folder / _MEASURED).write_text(json.dumps(measured, indent=1))
        if "memorisation" in names:
            _keep_closest(stage, _fitted(stage, role), pool)
        if {"mask-area", "sim"} & set(names) and len(reference):
            _keep_masks(stage, reference, pool)
        if "sim" in names and len(reference):
            figure_data.save(stage.folder / "closest-masks.npz", figure_data.closest_masks(reference, pool))
        for name in names:
            stage.context.log(0, **{name: float(measured[name][name])})
            # What belongs beside a sound number stands in the tables; a note is for what is out of the ordinary.
            if measured[name].get("notes") and (
                math.isnan(float(measured[name][name])) or measured[name].get("copies")
            ):
                stage.context.note(f"{stage.label.removeprefix('measure ')}, {name}: {measured[name]['notes']}")
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
    key = TrainStage.add(plan, use, Recipe(None), study.seeds[0], fold, (), study.fidelity.budget or study.budget)
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


def _over_sets(
    stage: RunningStage, name: str, reference: PairSet, sets: list[PairSet], pool: PairSet, role: str | None
) -> Values:
    """Measure each set by one metric, and say what that is of all of them; of a single set, what it is."""
    from harness.metrics.fidelity.sample_sets import over_sets

    values = [_measured(stage, name, reference, pairs, role) for pairs in sets]
    if len(sets) == 1:
        return values[0]
    together = _measured(stage, name, reference, pool, role) if name == "memorisation" else None
    return over_sets(name, values, together)


def _measured(stage: RunningStage, name: str, reference: PairSet, pairs: PairSet, role: str | None) -> Values:
    """Measure one set by one metric."""
    from harness.metrics.fidelity.measure import measure, too_few

    # Memorisation has a reference of its own, and says itself when that is too small.
    if lacking := too_few(name, pairs if name == "memorisation" else reference, pairs):
        return lacking
    if name == "memorisation":
        return _memorisation(stage, pairs, role)
    if name == "agreement":
        return _agreement(stage, reference, pairs)
    network = stage.runtime["network"] or ""
    return measure([name], reference, pairs, device=stage.device, seed=stage.seed, network=network)[name]


def _fitted(stage: RunningStage, role: str | None) -> PairSet:
    """Return the real pairs that the pool's generator was fitted on; of real images, those of the fit role."""
    fitted: PairSet = stage.dataset.role("fit")
    if role is not None:
        return fitted
    pool: PoolResult = stage.input("pool")
    names = set(pool.provenance["fitted"])
    return fitted.select([name for name in fitted.ids if name in names])


def _memorisation(stage: RunningStage, pairs: PairSet, role: str | None) -> Values:
    """Compare a set with the real pairs that made it, and those with held-out ones that nothing of it has seen."""
    from harness.metrics.fidelity.measure import measure

    fitted = _fitted(stage, role)
    if role is None:
        pool: PoolResult = stage.input("pool")
        seen = frozenset().union(*(frozenset(names) for names in pool.provenance.values()))
    else:
        seen = fitted.seen() | pairs.seen()
    held_out = None
    for other in ("select", "report"):
        candidates = stage.dataset.role(other)
        unseen = [name for name in candidates.ids if name not in seen]
        if held_out is None and len(unseen) > 1:
            held_out = candidates.select(unseen)
    measured = measure(["memorisation"], fitted, pairs, held_out=held_out, device=stage.device, seed=stage.seed)
    return measured["memorisation"]


def _agreement(stage: RunningStage, reference: PairSet, pairs: PairSet) -> Values:
    """Ask the segmenter that was trained on the real pairs of the fit role what the images of a set show."""
    from harness.metrics.fidelity.agreement import TrainedSegmenter
    from harness.metrics.fidelity.measure import measure

    trained: TrainResult = stage.input("train")
    segmenter = TrainedSegmenter.load(
        stage.plugin("segmenters"), trained.weights, stage.device, stage.runtime["segmenter"]
    )
    values = measure(["agreement"], reference, pairs, device=stage.device, segmenter=segmenter)["agreement"]
    return values | _agreement_by_mask(stage, segmenter)


def _agreement_by_mask(stage: RunningStage, segmenter: TrainedSegmenter) -> Values:
    """Compare the images that were made for each of a few masks with it, where the pool has such; keep the means."""
    from harness.metrics.fidelity import figure_data
    from harness.metrics.fidelity.agreement import agreement

    pools: list[PoolResult] = stage.inputs("pool")
    found = pools[0].variations if pools else {}
    if not found:
        return {}
    masks, images = found["masks"], found["images"]
    predicted = segmenter.predict(images.reshape(-1, *images.shape[2:])).reshape(*images.shape[:2], *masks.shape[1:])
    means = [
        agreement(own, np.repeat(mask[None], len(own), axis=0)).value
        for own, mask in zip(predicted, masks, strict=True)
    ]
    figure_data.save(stage.folder / "agreement_by_mask.npz", {"agreement": np.array(means)})
    return {"agreement-lowest-mask": float(np.min(means))}


def _keep_closest(stage: RunningStage, fitted: PairSet, pool: PairSet) -> None:
    """Keep the pairs that lie closest, the synthetic image beside its nearest training image, if there are any."""
    if len(fitted) < 2:
        return
    from harness.metrics.fidelity import figure_data
    from harness.metrics.fidelity.measure import of_masks, shows_masks
    from harness.metrics.fidelity.memorisation import describe, nearest_neighbours

    if shows_masks(pool):
        fitted = of_masks(fitted)
    found = nearest_neighbours(describe(pool.images, cache=True), describe(fitted.images, cache=True))
    made, training = ((pairs.ids, lambda at, pairs=pairs: pairs.take(at).images) for pairs in (pool, fitted))
    closest = figure_data.closest(*found, made, training)
    figure_data.save(stage.folder / "closest.npz", closest)
    stage.context.log_images("closest", 0, np.concatenate([closest["synthetic"], closest["real"]], axis=2))


def _keep_masks(stage: RunningStage, reference: PairSet, pool: PairSet) -> None:
    """Keep polyp areas, and how the masks differ that were made from one real pair."""
    from harness.metrics.fidelity import figure_data

    figure_data.save(stage.folder / "areas.npz", figure_data.areas(reference.masks, pool.masks))
    by_id = dict(zip(reference.ids, reference.masks, strict=True))
    diversity = figure_data.diversity(by_id, pool.masks, pool.lineage)
    if diversity is not None:
        figure_data.save(stage.folder / "diversity.npz", diversity)

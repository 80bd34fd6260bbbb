"""Pictures for the figures of a report, out of stored results: samples, what they were made from, predictions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from harness.data.pairs import PairSet
from harness.engine.builder import SHOWN
from harness.engine.graph import Pool
from harness.engine.stored import StoredResults
from harness.metrics.fidelity.masks import positions_by_source
from harness.results.schema import CheckpointSamples, MadeFrom, Measured, PredictionGrid, Variations

if TYPE_CHECKING:
    from harness.engine.stages.dataset import RealPairs
    from harness.engine.stages.evaluate import EvaluateResult
    from harness.engine.stages.fidelity import FidelityResult
    from harness.engine.stages.pool import PoolResult
    from harness.engine.stages.select import SelectResult

#: Real pairs that a figure shows what was made from, and how many made from each.
_SOURCES, _MADE = 3, 5


class Shown:
    """What figures show of a study.

    Args:
        stored: the results of its stages.
    """

    def __init__(self, stored: StoredResults) -> None:
        self.stored = stored
        self.plan = stored.plan

    def _first_pools(self, *, controls: bool = False) -> Iterator[Pool]:
        """Yield the pools of the first fold, those of controls only where they are asked for."""
        for pool in self.plan.pools:
            if pool.fold == 0 and (controls or not pool.control):
                yield pool

    def _sampled(self, key: str) -> str:
        """Return the key of the stage that sampled a pool, before any refinement."""
        while (given := self.plan.stages[key].inputs.get("pool")) is not None:
            key = given[0]
        return key

    def real(self) -> PairSet | None:
        """Return some real pairs of the fit role."""
        dataset: RealPairs | None = self.stored.read(self.plan.datasets[0])
        if dataset is None:
            return None
        pairs = dataset.role("fit")
        return pairs.first(min(SHOWN, len(pairs))) if len(pairs) else None

    def synthetic(self) -> dict[str, PairSet]:
        """Return some pairs of each generator, and of each control."""
        shown: dict[str, PairSet] = {}
        for pool in self._first_pools(controls=True):
            found: PoolResult | None = self.stored.read(pool.key)
            if found is not None and pool.generator not in shown:
                shown[pool.generator] = found.pairs.first(min(SHOWN, len(found.pairs)))
        return shown

    def made(self) -> Iterator[MadeFrom]:
        """Yield some pairs of each generator beside the real pair that they were made from, in its first pool."""
        dataset: RealPairs | None = self.stored.read(self.plan.datasets[0])
        shown: set[str] = set()
        for pool in self._first_pools():
            found: PoolResult | None = self.stored.read(pool.key)
            # The images of masks alone are the masks once more.
            if dataset is None or found is None or pool.generator in shown or pool.makes == "masks":
                continue
            shown.add(pool.generator)
            first = self._sampled(pool.key)
            before: PoolResult | None = self.stored.read(first) if first != pool.key else None
            positions = positions_by_source((before or found).sources)
            real = dataset.role("fit") if positions else None
            chosen: list[str | None] = [*list(positions)[:_SOURCES]]
            for name in chosen or ([None] if before else []):
                few = positions[name][:_MADE] if name is not None else range(min(_MADE, len(found.pairs)))
                yield MadeFrom(
                    pool.label,
                    None if name is None or real is None else real.select([name]),
                    found.pairs.take(few),
                    None if before is None else before.pairs.take(few),
                )

    def masks(self) -> dict[str, NDArray[np.uint8]]:
        """Return the first masks of each generator that has a plugin for them, in its first pool."""
        shown: dict[str, NDArray[np.uint8]] = {}
        for pool in self._first_pools():
            sampled = self._sampled(pool.key)
            key = self.plan.stages[sampled].inputs.get("masks", (sampled,) if pool.makes == "masks" else ("",))[0]
            found: PoolResult | None = self.stored.read(key)
            if found is not None and pool.generator not in shown:
                shown[pool.generator] = found.pairs.masks[:SHOWN]
        return shown

    def variations(self) -> Iterator[Variations]:
        """Yield the images that each generator made for a few masks by several seeds, in its first pool."""
        shown: set[str] = set()
        for pool in self._first_pools():
            found: PoolResult | None = self.stored.read(self._sampled(pool.key))
            if found is None or pool.generator in shown or not found.variations:
                continue
            shown.add(pool.generator)
            measured: FidelityResult | None = self.stored.read(pool.fidelity)
            agreement = measured.agreement_by_mask() if measured else None
            yield Variations(pool.label, found.variations["masks"], found.variations["images"], agreement)

    def checkpoints(self) -> Iterator[CheckpointSamples]:
        """Yield what the checkpoints of each selected part made."""
        for pool in self._first_pools():
            for part, key in pool.selections:
                chosen: SelectResult | None = self.stored.read(key)
                if chosen is None:
                    continue
                kept = chosen.samples()
                images, masks = (np.stack([found[name] for found in kept.values()]) for name in ("images", "masks"))
                yield CheckpointSamples(f"{pool.label} {part}", part, tuple(kept), chosen.step, images, masks)

    def measured(self) -> Iterator[Measured]:
        """Yield what each fidelity stage tells beside its numbers."""
        stages = [(r.label, r.fold, "real", r.key) for r in self.plan.references]
        stages += [(p.label, p.fold, "synthetic", p.fidelity) for p in self.plan.pools if not p.control]
        for cell, fold, arm, key in stages:
            found: FidelityResult | None = self.stored.read(key)
            if found is None:
                continue
            memorisation = found.measured.get("memorisation", {})
            areas = found.areas()
            yield Measured(
                cell,
                fold,
                arm,
                str(memorisation.get("reference") or ""),
                memorisation.get("copies"),
                areas.get("real"),
                areas.get("synthetic"),
                found.closest(),
                found.diversity(),
                found.closest_masks(),
            )

    def predictions(self) -> list[PredictionGrid]:
        """Return predictions of the first seed and fold on the first few report images."""
        count = self.plan.loaded.study.report.predictions
        dataset: RealPairs | None = self.stored.read(self.plan.datasets[0])
        report = dataset.role("report") if dataset and count else None
        if not report:
            return []
        few = report.first(min(count, len(report)))
        grids = []
        for segmenter in self.plan.segmenters:
            predictions = {}
            for cell in self.plan.cells:
                first = cell.seed == self.plan.loaded.study.replicate_seeds[0] and cell.fold == 0
                here = cell.role == "report" and cell.dataset == self.plan.dataset.name
                if cell.segmenter == segmenter and first and here:
                    scored: EvaluateResult | None = self.stored.read(cell.evaluate)
                    if scored is not None:
                        predictions[cell.recipe.label] = scored.predictions()[: len(few)]
            if predictions:
                grids.append(PredictionGrid(segmenter, few.images, few.masks, predictions, few.ids))
        return grids

"""The conformance suite of refiners."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from harness.conformance.checks import (
    SEEDS,
    Checks,
    check_arrays,
    check_sources,
    drawn_pairs,
    example_values,
    global_randomness,
    require,
    same,
    take,
)
from harness.conformance.fresh_process import in_fresh_process
from harness.data.pairs import PairSet
from harness.plugins.contract import Refiner, Sample, SampleContext
from harness.plugins.discovery import target_of

_ALL = list(range(len(SEEDS)))


class RefinerSuite:
    """The checks of a refiner."""

    def __init__(self, plugin: type[Refiner], folder: Path, fresh_process: bool) -> None:
        import torch

        self.plugin = plugin
        self.folder = folder
        self.fresh_process = fresh_process
        self.values = example_values(plugin)
        self.pairs = drawn_pairs(24, 32)
        drawn = drawn_pairs(len(SEEDS), 32, seed=1)
        ids = tuple(f"made/{i}" for i in range(len(drawn)))
        self.synthetic = PairSet(drawn.images, drawn.masks, ids, ids, (self.pairs.seen(),) * len(ids))
        self.device = torch.device("cpu")
        self.reference = Sample(np.zeros((0, 32, 32), np.uint8))

    def run(self, checks: Checks) -> None:
        """Run them all."""
        if not checks.run("refine", self._check_refine):
            return checks.skip(
                ["sources", "deterministic", "batch size", "independent", "save and load"], "refine failed"
            )
        checks.run("sources", lambda: check_sources(self.reference, len(SEEDS), self.pairs.seen()))
        checks.run("deterministic", self._check_deterministic)
        checks.run("batch size", self._check_batch_size)
        checks.run("independent", self._check_independent)
        if self.fresh_process:
            checks.run("save and load", self._check_fresh_process)
        return None

    def _make(self, positions: list[int], batch_size: int = 4) -> Sample:
        context = SampleContext(self.device, self.pairs, batch_size)
        synthetic, sources = self.synthetic.take(positions), self.pairs.take(positions)
        made: Sample = self.plugin.create(**self.values).refine(synthetic, sources, SEEDS[positions], context)
        return made

    def _check_refine(self) -> str:
        self.reference = self._make(_ALL)
        return check_arrays(self.reference, len(SEEDS), self.synthetic.size, needs_images=True)

    def _check_deterministic(self) -> str:
        for seed in (1, 2):
            with global_randomness(seed):
                again = self._make(_ALL)
            require(
                same(again, self.reference),
                "Two calls of refine with the same seeds differ; draw everything from the seeds.",
            )
        return "The same input and seeds make the same pairs."

    def _check_batch_size(self) -> str:
        for size in (1, 64):
            require(
                same(self._make(_ALL, size), self.reference),
                f"With context.batch_size={size} it makes other pairs than with 4.",
            )
        return "Batches of 1, 4 and 64 make the same pairs."

    def _check_independent(self) -> str:
        for positions in ([0], [2, 5], _ALL[::-1]):
            require(
                same(self._make(positions), take(self.reference, positions)),
                f"Pair {positions[0]} comes out differently when it is refined with others or in another order.",
            )
        return "A pair depends on itself, its source and its seed only."

    def _check_fresh_process(self) -> str:
        self.pairs.save(self.folder / "pairs")
        self.synthetic.save(self.folder / "synthetic")
        request = {
            "kind": "refiners",
            "target": target_of(self.plugin),
            "parameters": self.values,
            "seeds": [int(seed) for seed in SEEDS],
        }
        made = in_fresh_process(request, self.folder)
        require(same(made, self.reference), "A fresh process refines the same pairs differently.")
        return "A fresh process makes the same pairs."

"""The conformance suite of generators."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.conformance.checks import (
    SEEDS,
    Broken,
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
from harness.engine.stages.pool import sampled_pairs
from harness.learning.work_folder import WorkFolder, run_fit
from harness.plugins.contract import Checkpoint, Generator, Sample, SampleContext
from harness.plugins.discovery import target_of

_FEWEST_SAVES = 3
_MODELS = 3  # pairs that a generator of one model a pair is fitted on: the fewest that tell taking turns from swapping
_ALL = list(range(len(SEEDS)))


class _Killed(BaseException):
    """Ends a fit the way a kill does: no handler of ordinary exceptions sees it."""


class _WatchedContext(WorkFolder):
    """Counts how often a fit asks to save, lets it save once, and kills it once."""

    def __init__(self, folder: Path, *, save_at: int = 0, kill_at: int = 0) -> None:
        import torch

        super().__init__(folder, torch.device("cpu"), seed=5)
        self.asked = 0
        self.restored = False
        self._save_at = save_at
        self._kill_at = kill_at

    def should_save(self) -> bool:
        self.asked += 1
        if self.asked == self._kill_at:
            raise _Killed
        return self.asked == self._save_at

    def restore_state(self) -> dict[str, Any] | None:
        state = super().restore_state()
        self.restored = state is not None
        return state


class GeneratorSuite:
    """The checks of a generator."""

    def __init__(self, plugin: type[Generator], folder: Path, fresh_process: bool) -> None:
        import torch

        card = plugin.card
        size = 32 if not card.sizes or 32 in card.sizes else min(card.sizes)
        count = max(_MODELS if card.one_model_a_pair else 24, card.minimum)
        self.folder = folder
        self.fresh_process = fresh_process
        self.card = card
        self.plugin = plugin
        self.pairs = drawn_pairs(count, size)
        self.masks = drawn_pairs(len(SEEDS), size, seed=1).masks if card.makes == "images" else None
        self.values = example_values(plugin)
        self.device = torch.device("cpu")
        self.checkpoints: list[Checkpoint] = []
        self.asked = 0
        self.reference = Sample(np.zeros((0, size, size), np.uint8))

    def run(self, checks: Checks) -> None:
        """Run them all."""
        later = ["sample", "sources", "deterministic", "batch size", "independent", "seed", "resume", "save and load"]
        if not checks.run("fit", self._check_fit):
            return checks.skip(later, "fit failed")
        if not checks.run("sample", self._check_sample):
            return checks.skip(later[1:], "sample failed")
        checks.run("sources", self._check_sources)
        checks.run("deterministic", self._check_deterministic)
        checks.run("batch size", self._check_batch_size)
        checks.run("independent", self._check_independent)
        checks.run("seed", self._check_seed)
        checks.run("resume", self._check_resume)
        if self.fresh_process:
            checks.run("save and load", self._check_fresh_process)
        return None

    def _make(
        self, positions: list[int], *, checkpoint: Checkpoint | None = None, batch_size: int = 4, shift: int = 0
    ) -> Sample:
        """Sample the reference seeds at ``positions`` from a new instance."""
        chosen = checkpoint or self.checkpoints[-1]
        return self._sample(SEEDS[positions] + shift, self._given(chosen), chosen, positions, batch_size)

    def _sample(
        self,
        seeds: NDArray[np.int64],
        given: PairSet,
        checkpoint: Checkpoint,
        positions: list[int],
        batch_size: int = 4,
    ) -> Sample:
        """Sample seeds, with the reference masks at ``positions``, from a new instance that is given some pairs."""
        context = SampleContext(self.device, given, batch_size)
        masks = None if self.masks is None else self.masks[positions]
        made: Sample = self.plugin.create(**self.values).sample(checkpoint, seeds, context, masks)
        return made

    def _given(self, checkpoint: Checkpoint) -> PairSet:
        """Return the real pairs that the engine gives a generator to sample a checkpoint."""
        return sampled_pairs(self.plugin.create(**self.values), checkpoint, self.pairs)

    def _check_fit(self) -> str:
        context = _WatchedContext(self.folder / "whole")
        self.checkpoints = run_fit(self.plugin.create(**self.values), self.pairs, context)
        self.asked = context.asked
        steps = [checkpoint.step for checkpoint in self.checkpoints]
        if not self.card.learns:
            require(steps == [0], f"A generator that does not learn yields one checkpoint at step 0, not {steps}.")
        return f"Checkpoints at {', '.join(map(str, steps))}."

    def _check_sample(self) -> str:
        self.reference = self._make(_ALL)
        sentence = check_arrays(self.reference, len(SEEDS), self.pairs.size, self.card.makes != "masks")
        if self.masks is not None:
            require(np.array_equal(self.reference.masks, self.masks), "It returned other masks than it was given.")
        return sentence

    def _check_sources(self) -> str:
        sentence = check_sources(self.reference, len(SEEDS), self.pairs.seen())
        if not self.card.one_model_a_pair:
            return sentence
        last = self.checkpoints[-1]
        whole = self._given(last)
        _check_turns(self.reference, SEEDS, whole)
        # A smaller pool is made from the first pairs alone, by the same fit.
        fewer = whole.first(max(1, len(whole) - 1))
        made = self._sample(SEEDS, fewer, last, _ALL)
        _check_turns(made, SEEDS, fewer)
        alike = [i for i in _ALL if SEEDS[i] % len(whole) == SEEDS[i] % len(fewer)]
        require(
            same(take(made, alike), take(self.reference, alike)),
            "Given fewer pairs, a seed that names the same pair makes another item of it; draw from the seed and use "
            "the pair's own model only.",
        )
        return f"Each pair is made from the real pair at seed % n alone, of {len(whole)} and of {len(fewer)}."

    def _check_deterministic(self) -> str:
        for seed in (1, 2):
            with global_randomness(seed):
                again = self._make(_ALL)
            require(
                same(again, self.reference),
                "Two calls of sample with the same seeds differ; draw everything from the seeds.",
            )
        return "The same seeds make the same pairs, whatever the global random state."

    def _check_batch_size(self) -> str:
        for size in (1, 64):
            require(
                same(self._make(_ALL, batch_size=size), self.reference),
                f"With context.batch_size={size} it makes other pairs than with 4; "
                "batch norm in training mode does that, or one random stream for a batch.",
            )
        return "Batches of 1, 4 and 64 make the same pairs."

    def _check_independent(self) -> str:
        for positions in ([0], [2, 5], _ALL[::-1]):
            require(
                same(self._make(positions), take(self.reference, positions)),
                f"Seed {int(SEEDS[positions[0]])} makes another pair when it is asked for "
                "with other seeds or in another order.",
            )
        return "A pair depends on its own seed only."

    def _check_seed(self) -> str:
        other = self._make(_ALL, shift=1000)
        require(not same(other, self.reference), "Other seeds make the same pairs.")
        if self.card.one_model_a_pair:
            return "Other seeds make other pairs."
        content = self.reference.masks if self.reference.images is None else self.reference.images
        distinct = len(np.unique(content.reshape(len(content), -1), axis=0))
        require(distinct > 1, f"All {len(content)} seeds make one and the same pair.")
        return f"Other seeds make other pairs ({distinct} of {len(content)} distinct)."

    def _check_resume(self) -> str:
        if self.asked == 0 and not self.card.learns:
            return "It does not learn, so there is nothing to resume."
        require(self.asked > 0, "fit never asks context.should_save(), so a killed fit starts over.")
        require(
            self.asked >= _FEWEST_SAVES,
            f"fit asks context.should_save() only {self.asked} times in its example; "
            f"make the example {_FEWEST_SAVES} steps or more.",
        )
        save_at = max(1, self.asked // 2)
        folder = self.folder / "resumed"
        try:
            run_fit(
                self.plugin.create(**self.values),
                self.pairs,
                _WatchedContext(folder, save_at=save_at, kill_at=save_at + 1),
            )
            raise Broken("fit went on after it was killed; let what the context raises pass.")
        except _Killed:
            pass
        require(
            (folder / "state.pt").exists(), "fit did not call context.save_state() when context.should_save() said so."
        )
        context = _WatchedContext(folder)
        resumed = run_fit(self.plugin.create(**self.values), self.pairs, context)
        require(context.restored, "A resumed fit does not ask context.restore_state().")
        require(
            context.asked < self.asked,
            f"A resumed fit does all {self.asked} rounds again instead of going on from the saved state.",
        )
        steps, expected = [c.step for c in resumed], [c.step for c in self.checkpoints]
        require(steps == expected, f"A resumed fit yields checkpoints {steps}, an uninterrupted one {expected}.")
        for whole, other in zip(self.checkpoints, resumed, strict=True):
            require(
                same(self._make(_ALL, checkpoint=whole), self._make(_ALL, checkpoint=other)),
                f"Killed and resumed, the checkpoint at step {whole.step} makes other pairs than uninterrupted; "
                "save every optimiser, average and counter, and draw randomness from (seed, step).",
            )
        return f"Killed after save {save_at} of {self.asked} and resumed, it ends bit-equal."

    def _check_fresh_process(self) -> str:
        checkpoint = self.checkpoints[-1]
        given = self._given(checkpoint)
        given.save(self.folder / "pairs")
        count = 3 if self.masks is None else min(3, len(given))
        request = {
            "kind": "generators",
            "target": target_of(self.plugin),
            "parameters": self.values,
            "checkpoint": str(checkpoint.folder),
            "step": checkpoint.step,
            "seeds": [int(seed) for seed in SEEDS[:count]],
            "masks": self.masks is not None,
        }
        made = in_fresh_process(request, self.folder)
        expected = take(self.reference, list(range(count)))
        if self.masks is not None:
            context = SampleContext(self.device, given, batch_size=4)
            generator = self.plugin.create(**self.values)
            expected = generator.sample(checkpoint, SEEDS[:count], context, given.masks[:count])
        require(same(made, expected), "A fresh process makes other pairs from the checkpoint's folder than this one.")
        return "A fresh process makes the same pairs from the checkpoint's folder."


def _check_turns(sample: Sample, seeds: NDArray[np.int64], given: PairSet) -> None:
    """Check that each pair of a generator of one model a pair was made from the real pair that its seed names."""
    require(sample.sources is not None, "It has one model a pair (card.one_model_a_pair), so it must name its sources.")
    for seed, names in zip(seeds.tolist(), sample.sources or (), strict=True):
        wanted = given.ids[seed % len(given)]
        require(
            tuple(names) == (wanted,),
            f"With {len(given)} pairs, seed {seed} must make one from {wanted!r} alone (number seed % {len(given)}), "
            f"and its sources are {', '.join(names) or 'none'}.",
        )

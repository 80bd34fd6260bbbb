"""The training of a denoiser: one optimiser step, its averaged weights, and what is told of it."""

from __future__ import annotations

import contextlib
import copy
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from generators.cuda_graph import CapturedStep, set_capturable, set_rate
from generators.diffusion.denoiser import Denoiser
from generators.diffusion.examples import Examples
from generators.diffusion.parameters import DiffusionParameters
from generators.diffusion.process import Process
from generators.diffusion.timesteps import ImportantTimesteps, UniformTimesteps
from generators.randomness import seeded
from harness.learning.batches import batch_positions
from harness.learning.precision import fabric_on, without_remarks

if TYPE_CHECKING:
    from lightning_fabric import Fabric

# What a seed is for: each purpose has random numbers of its own.
_STEP, _WEIGHTS, _DROPOUT = range(3)

#: Ranges of timesteps whose losses are told apart, and steps over which they are averaged.
_BUCKETS, _TOLD_EVERY = 4, 20


def shares(count: int, parts: int) -> list[slice]:
    """Return slices that cut ``count`` things into parts of sizes that differ by one at most."""
    edges = [count * i // parts for i in range(parts + 1)]
    return [slice(start, end) for start, end in itertools.pairwise(edges)]


@dataclass(frozen=True)
class DiffusionStart:
    """What a training starts from, on whatever device; it can be sent to another process.

    Attributes:
        settings: of the model.
        examples: to learn from.
        build: builds the network from the global torch seed.
        seed: of all randomness.
        learned_variance: whether the network predicts variances.
        mask_dropout: share of pictures whose mask is left out, so that guidance can tell what a mask changes.
    """

    settings: DiffusionParameters
    examples: Examples
    build: Callable[[], Denoiser]
    seed: int
    learned_variance: bool = False
    mask_dropout: float = 0.0

    def __call__(self, fabric: Fabric) -> DiffusionTraining:
        """Build the training on the device of a Fabric."""
        return DiffusionTraining(
            self.settings,
            self.examples.to(fabric.device),
            self.build,
            Process(self.settings, fabric.device, learned_variance=self.learned_variance),
            self.seed,
            fabric.device,
            mask_dropout=self.mask_dropout,
            fabric=fabric,
        )


class DiffusionTraining:
    """Everything that changes while a denoiser trains."""

    def __init__(
        self,
        settings: DiffusionParameters,
        examples: Examples,
        build: Callable[[], Denoiser],
        process: Process,
        seed: int,
        device: torch.device,
        *,
        mask_dropout: float = 0.0,
        fabric: Fabric | None = None,
    ) -> None:
        """Build network and optimiser; the initial weights depend on the seed alone.

        Args:
            settings: of the model.
            examples: to learn from.
            build: builds the network from the global torch seed.
            process: that adds the noise.
            seed: of all randomness.
            device: to compute on.
            mask_dropout: share of pictures whose mask is left out, so that guidance can tell what a mask changes.
            fabric: of the device, which may share batches with others; one of the device alone when None.
        """
        self.settings, self.examples, self.process = settings, examples, process
        self.seed, self.device, self.mask_dropout = seed, device, mask_dropout
        self.fabric = fabric or fabric_on(device, settings.precision)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(seeded(seed, _WEIGHTS).initial_seed()))
            self.denoiser = build()
        self.denoiser.to(device).to(memory_format=torch.channels_last)
        self.averaged = copy.deepcopy(self.denoiser).requires_grad_(False).eval()
        # On a GPU the step is recorded and replayed where nothing in it changes.
        self._recorded = not (settings.dropout or settings.compile or self.fabric.world_size > 1)
        optimiser = torch.optim.AdamW(
            self.denoiser.parameters(),
            settings.learning_rate,
            settings.betas,
            weight_decay=settings.weight_decay,
            fused=True,
        )
        if settings.compile:
            self.denoiser.compile()
        set_capturable(optimiser, device, wanted=self._recorded)
        with without_remarks():
            self.network, self.optimiser = self.fabric.setup(self.denoiser, optimiser)
        self._captured = CapturedStep(self._updated)
        important = settings.timestep_sampling == "importance"
        self.timesteps = (ImportantTimesteps if important else UniformTimesteps)(settings.timesteps)
        self._sums, self._counts = (torch.zeros(_BUCKETS, device=device) for _ in range(2))

    def step(self, step: int) -> dict[str, Tensor]:
        """Update the network once, on one batch.

        All randomness comes from (seed, step) and is drawn for the whole batch, in however many parts and on however
        many devices that is computed; but dropout's is drawn for each part.

        Returns:
            The batch's ``loss`` and ``gradient-norm``, and of the steps since the last multiple of 20 the mean loss in
            each quarter of the timesteps (not a number where none was drawn).
        """
        settings = self.settings
        self.denoiser.train()
        if step % _TOLD_EVERY == 0:
            self._sums.zero_()
            self._counts.zero_()
        randomness = seeded(self.seed, _STEP, step)
        positions = batch_positions(np.arange(len(self.examples)), settings.batch_size, self.seed, step)
        start, coverage = self.examples.batch(positions, randomness)
        drawn, weights = self.timesteps.draw(len(start), randomness)
        noise = torch.randn(start.shape, generator=randomness)
        given = (torch.rand(len(start), generator=randomness) >= self.mask_dropout).float().to(self.device)
        timesteps = drawn.to(self.device)
        set_rate(self.optimiser, settings.learning_rate * self.rate(step))
        inputs: tuple[Tensor, ...] = (start, noise.to(self.device), timesteps, weights.to(self.device), given)
        inputs += () if coverage is None else (coverage,)
        told = self._captured(*inputs) if self._recorded else self._updated(*inputs, step=step)
        losses, norm = told[:-1], told[-1]
        self._average(step)
        if isinstance(self.timesteps, ImportantTimesteps):
            self.timesteps.learn(drawn, losses.cpu())
        buckets = timesteps * _BUCKETS // settings.timesteps
        self._sums.index_add_(0, buckets, losses)
        self._counts.index_add_(0, buckets, torch.ones_like(losses))
        edges = [math.ceil(settings.timesteps * i / _BUCKETS) for i in range(_BUCKETS + 1)]
        means = (self._sums / self._counts).unbind()
        by_timestep = {f"loss-timesteps-{a}-{b - 1}": m for a, b, m in zip(edges, edges[1:], means, strict=False)}
        return {"loss": losses.mean(), "gradient-norm": norm, **by_timestep}

    def _updated(
        self,
        start: Tensor,
        noise: Tensor,
        timesteps: Tensor,
        weights: Tensor,
        given: Tensor,
        coverage: Tensor | None = None,
        *,
        step: int = 0,
    ) -> Tensor:
        """Update the network once.

        Args:
            start: pictures, float (N, C, S, S).
            noise: of their shape.
            timesteps: int64 (N,).
            weights: of their losses, float (N,).
            given: float (N,), 0 where the mask is left out.
            coverage: by masks, float (N, 1, S, S).
            step: of which dropout depends.

        Returns:
            float (N + 1,): the losses, and the norm of the gradient.
        """
        settings = self.settings
        self.optimiser.zero_grad(set_to_none=True)
        losses = torch.zeros(len(start), device=self.device)
        # The gradients of all devices are averaged, once, with those of the last part; so losses count as often.
        count = len(start) / self.fabric.world_size
        parts = self._parts(len(start))
        for part in parts:
            clean, added, at = start[part], noise[part], timesteps[part]
            current = self.process.noised(clean, added, at).contiguous(memory_format=torch.channels_last)
            condition = () if coverage is None else (coverage[part], given[part])
            with self.fabric.no_backward_sync(self.network, enabled=part is not parts[-1]):
                with self._dropout(step, part.start):
                    output = self.network(current, at, *condition)
                found = self.process.losses(output, clean, added, current, at).total()
                self.fabric.backward((found * weights[part]).sum() / count)
            losses[part] = found.detach()
        if self.fabric.world_size > 1:
            # Of other devices' parts there are zeros.
            losses = cast(Tensor, self.fabric.all_reduce(losses, reduce_op="sum"))
        norm = nn.utils.clip_grad_norm_(self.denoiser.parameters(), settings.gradient_clip or math.inf)
        self.optimiser.step()
        return torch.cat([losses, norm.detach().reshape(1)])

    def _parts(self, count: int) -> list[slice]:
        """Return the parts of a batch that this device computes, one after another."""
        own = shares(count, self.fabric.world_size)[self.fabric.global_rank]
        parts = shares(own.stop - own.start, self.settings.accumulate)
        return [slice(own.start + part.start, own.start + part.stop) for part in parts]

    @contextlib.contextmanager
    def _dropout(self, step: int, first: int) -> Iterator[None]:
        """Let dropout, which draws from torch's global state, depend on seed, step and first picture of the part."""
        if not self.settings.dropout:
            yield
            return
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(int(seeded(self.seed, _DROPOUT, step, first).initial_seed()))
            yield

    def rate(self, step: int) -> float:
        """Return what the learning rate is multiplied by at a step: it rises, stays, and falls at the end."""
        settings = self.settings
        rising = min(1.0, (step + 1) / settings.warmup_steps) if settings.warmup_steps else 1.0
        falling = min(1.0, (settings.steps - step) / settings.decay_steps) if settings.decay_steps else 1.0
        return rising * falling

    def _average(self, step: int) -> None:
        """Move the averaged weights towards the raw ones."""
        settings = self.settings
        if settings.ema:
            decay = min(settings.ema, (1 + step) / (10 + step)) if settings.ema_warmup else settings.ema
            averaged: list[Tensor] = list(self.averaged.parameters())
            raw: list[Tensor] = [parameter.detach() for parameter in self.denoiser.parameters()]
            torch._foreach_lerp_(averaged, raw, 1 - decay)

    def sampled_network(self) -> Denoiser:
        """Return the network that is sampled from, in evaluation mode; it goes on changing while training does."""
        return self.averaged if self.settings.ema else self.denoiser.eval()

    def state(self, step: int) -> dict[str, Any]:
        """Return everything that a resumed fit needs."""
        return {
            "step": step,
            "denoiser": self.denoiser.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "timesteps": self.timesteps.state(),
            "told": [self._sums, self._counts],
        }

    def restore(self, state: dict[str, Any]) -> int:
        """Take up a state and return its step."""
        self.denoiser.load_state_dict(state["denoiser"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimiser.load_state_dict(state["optimiser"])
        set_capturable(self.optimiser, self.device, wanted=self._recorded)
        self.timesteps.restore(state["timesteps"])
        self._sums, self._counts = (tensor.to(self.device) for tensor in state["told"])
        return int(state["step"])

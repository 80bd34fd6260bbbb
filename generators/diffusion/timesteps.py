"""Which noise levels a batch is trained at."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

#: Losses that are remembered of each timestep, and the share of draws that stays uniform (Nichol and Dhariwal 2021).
_REMEMBERED, _UNIFORM_SHARE = 10, 0.001


class UniformTimesteps:
    """Every timestep is as likely as another, and weighs as much."""

    def __init__(self, timesteps: int) -> None:
        self.timesteps = timesteps

    def draw(self, count: int, randomness: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return timesteps int64 (count,) and the weights float32 (count,) of their losses, both on the CPU."""
        return torch.randint(0, self.timesteps, (count,), generator=randomness), torch.ones(count)

    def learn(self, timesteps: Tensor, losses: Tensor) -> None:
        """Take note of the losses (N,) at timesteps (N,)."""

    def state(self) -> dict[str, Any]:
        """Return what was noted."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what was noted."""


class ImportantTimesteps(UniformTimesteps):
    """Timesteps are drawn in proportion to the root mean square of their last losses, whose weights make up for it.

    Nichol and Dhariwal 2021 (arXiv 2102.09672), equation 18: ten losses of each timestep are remembered, and until
    every timestep has ten, draws are uniform.
    """

    def __init__(self, timesteps: int) -> None:
        super().__init__(timesteps)
        self._losses = torch.zeros(timesteps, _REMEMBERED, dtype=torch.float64)
        self._counts = torch.zeros(timesteps, dtype=torch.int64)

    def probabilities(self) -> Tensor:
        """Return how likely each timestep is, float64 (timesteps,)."""
        uniform = torch.full((self.timesteps,), 1 / self.timesteps, dtype=torch.float64)
        if int(self._counts.min()) < _REMEMBERED:
            return uniform
        size = self._losses.square().mean(dim=1).sqrt()
        if float(size.sum()) == 0.0:
            return uniform
        return (1 - _UNIFORM_SHARE) * size / size.sum() + _UNIFORM_SHARE * uniform

    def draw(self, count: int, randomness: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return timesteps and the weights of their losses, with which the mean loss is that of uniform draws."""
        probabilities = self.probabilities()
        drawn = torch.multinomial(probabilities, count, replacement=True, generator=randomness)
        return drawn, (1 / (self.timesteps * probabilities[drawn])).float()

    def learn(self, timesteps: Tensor, losses: Tensor) -> None:
        """Remember losses, each in place of the oldest of its timestep."""
        for timestep, loss in zip(timesteps.tolist(), losses.double().tolist(), strict=True):
            self._losses[timestep, int(self._counts[timestep]) % _REMEMBERED] = loss
            self._counts[timestep] += 1

    def state(self) -> dict[str, Any]:
        """Return the remembered losses."""
        return {"losses": self._losses, "counts": self._counts}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up remembered losses."""
        self._losses, self._counts = state["losses"].clone(), state["counts"].clone()

"""Notices when the training of a denoiser has come apart."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping

#: Looks over which losses are averaged: at 20 steps each, 200 steps.
_LOOKS = 10
#: A loss that was so many times lower before is not the noise of batches: healthy ones stay within a third.
_RISEN = 3.0


class LossWatch:
    """Compares the losses of a training with the lowest that they have been.

    A network may come apart from one step to the next (seen in bfloat16 at high rates), go on with a finite loss, and
    learn nothing any more. A resumed fit begins to look anew.
    """

    def __init__(self) -> None:
        """Begin to look."""
        self._recent: deque[float] = deque(maxlen=_LOOKS)
        self._lowest = math.inf

    def look(self, told: Mapping[str, float]) -> tuple[float, float] | None:
        """Take in the mean losses of the timesteps' ranges.

        Args:
            told: by a step; of it, ``loss-timesteps-...`` that are numbers.

        Returns:
            Once the training is lost, the lowest mean loss of ten looks in a row, and that of the last ten.
        """
        ranges = [value for name, value in told.items() if name.startswith("loss-timesteps-") and math.isfinite(value)]
        if not ranges:
            return None
        # Every range counts alike, however many timesteps were drawn from it.
        self._recent.append(sum(ranges) / len(ranges))
        if len(self._recent) < _LOOKS:
            return None
        now = sum(self._recent) / _LOOKS
        self._lowest = min(self._lowest, now)
        return (self._lowest, now) if now > _RISEN * self._lowest else None

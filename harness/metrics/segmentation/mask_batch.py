"""Predicted and true masks side by side, with what several scores need of them, computed once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from harness.metrics.segmentation.confusion import confusion

T = TypeVar("T")


@dataclass(frozen=True)
class MaskBatch:
    """N predicted masks and the true ones, of one size.

    Attributes:
        predicted: uint8 (N, H, W) in {0, 1}.
        truth: uint8 (N, H, W) in {0, 1}.
        tolerance: how far apart two outlines may lie that agree, in pixels.
    """

    predicted: NDArray[np.uint8]
    truth: NDArray[np.uint8]
    tolerance: float = 1.0
    _known: dict[Callable[[MaskBatch], Any], Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.truth)

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """Pixels, int64 (N, 4): true positive, false positive, false negative, true negative.

        Raises:
            ValueError: the masks are of two shapes, or hold other values.
        """
        return confusion(self.predicted, self.truth)

    def once(self, compute: Callable[[MaskBatch], T]) -> T:
        """Return what a function makes of these masks, computed at the first call: scores of one family share it."""
        if compute not in self._known:
            self._known[compute] = compute(self)
        return self._known[compute]

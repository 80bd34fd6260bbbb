"""Predicted and true masks side by side, with what several scores need of them, computed once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from harness.metrics.segmentation.confusion import confusion

if TYPE_CHECKING:
    from harness.metrics.segmentation.boundary import Boundaries
    from harness.metrics.segmentation.lesions import Lesions


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

    def __len__(self) -> int:
        return len(self.truth)

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """Pixels, int64 (N, 4): true positive, false positive, false negative, true negative.

        Raises:
            ValueError: the masks are of two shapes, or hold other values.
        """
        return confusion(self.predicted, self.truth)

    @cached_property
    def lesions(self) -> Lesions:
        """Connected pieces that are there, that are found, and that are predicted where there is none."""
        from harness.metrics.segmentation.lesions import count_lesions

        return count_lesions(self.predicted, self.truth)

    @cached_property
    def boundaries(self) -> Boundaries:
        """How far apart the outlines lie."""
        from harness.metrics.segmentation.boundary import compare_boundaries

        return compare_boundaries(self.predicted, self.truth, self.tolerance)

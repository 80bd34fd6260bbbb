"""The null generator: the real pairs again, geometrically augmented."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from harness.learning import Card, Checkpoint, FitContext, Generator, HarnessError, Sample, SampleContext

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from harness.learning import PairSet


class Resample(Generator):
    """The real pairs again, each moved by a random flip, rotation, zoom and shift: what every generator must beat.

    A control of this project, with no published source. Its pairs hold nothing that the real ones and ordinary
    augmentation do not, so whatever a segmenter gains from them it gains from more training or more augmentation, not
    from new content.
    """

    name: ClassVar[str] = "resample"
    card: ClassVar[Card] = Card(learns=False, control=True, cost="milliseconds a pair on a CPU")

    @classmethod
    def example(cls) -> dict[str, Any]:
        """Return parameters for a run of a second."""
        return {}

    def fit(self, pairs: PairSet, context: FitContext) -> Iterator[Checkpoint]:
        """Learn nothing; yield one empty checkpoint at step 0.

        Raises:
            HarnessError: there are no pairs.
        """
        if len(pairs) == 0:
            raise HarnessError("resample was given no training pairs; it needs at least one.")
        context.progress(1, 1)
        yield Checkpoint(0, context.checkpoint_folder(0))

    def sample(
        self,
        checkpoint: Checkpoint,
        seeds: NDArray[np.int64],
        context: SampleContext,
        masks: NDArray[np.uint8] | None = None,
    ) -> Sample:
        """Make one pair a seed: the seed picks the real pair and its transform. The source of each pair is that one
        real id."""
        import numpy as np

        from harness.learning.augmentation import geometric_transform

        pairs = context.pairs
        positions = np.array([_source(int(seed), len(pairs)) for seed in seeds], np.intp)
        images = np.empty((len(seeds), *pairs.images.shape[1:]), np.uint8)
        moved = np.empty(images.shape[:3], np.uint8)
        for start in range(0, len(seeds), context.batch_size):
            chunk = slice(start, start + context.batch_size)
            chosen = positions[chunk]
            images[chunk], moved[chunk] = geometric_transform(pairs.images[chosen], pairs.masks[chosen], seeds[chunk])
        return Sample(moved, images, tuple((pairs.ids[position],) for position in positions))


def _source(seed: int, count: int) -> int:
    """Return which of ``count`` pairs a seed picks, independent of the transform that the same seed draws."""
    import numpy as np

    return int(np.random.default_rng((seed % 2**64, 1)).integers(count))

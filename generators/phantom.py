"""The generator that has never seen a real image: frames of the embedded phantom."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from harness.learning import Card, Checkpoint, FitContext, Generator, HarnessError, Parameters, Sample, SampleContext

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from harness.learning import PairSet

#: Added to the seeds (64 bits, some negative): far beyond any that a ``phantom`` dataset is opened with, so that no
#: frame made here is an image of that dataset.
_BEYOND = 2**64


class PhantomParameters(Parameters):
    """What the frames can be told."""

    contrast: float = Field(
        1.0, gt=0, le=10, description="how strongly polyps are coloured, as the option of the phantom dataset"
    )


class Phantom(Generator):
    """Procedural endoscopy-like frames with polyps, a fresh patient and frame for each seed; knows no real image.

    A reference point of this project (``harness.data.phantom`` says how frames are drawn), with no published source. A
    person's idea of a colonoscopy, not an estimate of any data: a generator that has learned from real images must
    come closer to them than this by far. Nothing it makes can leak or be memorised.
    """

    name: ClassVar[str] = "phantom"
    card: ClassVar[Card] = Card(learns=False, cost="some ten milliseconds a pair at 128 px on a CPU")

    Parameters: ClassVar[type[Parameters]] = PhantomParameters

    parameters: PhantomParameters

    @classmethod
    def example(cls) -> dict[str, Any]:
        """Return parameters for a run of a second."""
        return {}

    def fit(self, pairs: PairSet, context: FitContext) -> Iterator[Checkpoint]:
        """Learn nothing; yield one empty checkpoint at step 0 that has seen no pair.

        Raises:
            HarnessError: the pairs are not square.
        """
        height, width = pairs.size
        if height != width:
            raise HarnessError(f"phantom draws square frames, but the training pairs have {width}x{height} pixels.")
        context.progress(1, 1)
        yield Checkpoint(0, context.checkpoint_folder(0), seen=frozenset())

    def sample(
        self,
        checkpoint: Checkpoint,
        seeds: NDArray[np.int64],
        context: SampleContext,
        masks: NDArray[np.uint8] | None = None,
    ) -> Sample:
        """Draw one frame a seed, as large as the real pairs. It has no source."""
        import numpy as np

        from harness.learning.phantom_frames import render

        size = context.pairs.size
        images = np.empty((len(seeds), *size, 3), np.uint8)
        made = np.empty((len(seeds), *size), np.uint8)
        for i, seed in enumerate(seeds):
            images[i], made[i] = render(_BEYOND + int(seed), 0, size[0], self.parameters.contrast)
        return Sample(made, images)

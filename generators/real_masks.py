"""The null generator of masks: the real masks again, as they are or geometrically augmented."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from harness.learning import Card, Checkpoint, FitContext, Generator, HarnessError, Parameters, Sample, SampleContext

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from harness.learning import PairSet

_ORDER = "order.json"


class RealMasksParameters(Parameters):
    """What is done to the masks."""

    augment: Literal["none", "geometric"] = Field(
        "none",
        description="nothing, or each mask moved by a flip, rotation, zoom, shift and smooth elastic bend of its own",
    )


class RealMasks(Generator):
    """The real masks of the fit, as they are or moved: what every generator of masks must beat.

    A control of this project, with no published source. With a generator of images for masks it tells what of that
    pipeline's gain or loss is owed to its masks: these are as good as masks get, and hold no new shape.

    The masks take turns in one random order, drawn by the seed of the fit: of ``n`` real masks, the first ``n`` items
    are each of them once, so that small pools are random draws without repeats.
    """

    name: ClassVar[str] = "real-masks"
    card: ClassVar[Card] = Card(needs="masks", makes="masks", learns=False, cost="milliseconds a mask on a CPU")
    Parameters: ClassVar[type[Parameters]] = RealMasksParameters
    sampling: ClassVar[frozenset[str]] = frozenset({"augment"})

    parameters: RealMasksParameters

    def turns(self, checkpoint: Checkpoint, pairs: PairSet) -> int:
        """Return the number of real masks: each is used once before any is used twice."""
        return len(pairs)

    def fit(self, pairs: PairSet, context: FitContext) -> Iterator[Checkpoint]:
        """Learn nothing; draw the order that the masks are taken in, and yield one checkpoint at step 0.

        Raises:
            HarnessError: there are no pairs.
        """
        import numpy as np

        if len(pairs) == 0:
            raise HarnessError("real-masks was given no training pairs; it needs at least one.")
        folder = context.checkpoint_folder(0)
        order = np.random.default_rng([context.seed, len(pairs)]).permutation(len(pairs))
        (folder / _ORDER).write_text(json.dumps(order.tolist()))
        context.progress(1, 1)
        yield Checkpoint(0, folder)

    def sample(
        self,
        checkpoint: Checkpoint,
        seeds: NDArray[np.int64],
        context: SampleContext,
        masks: NDArray[np.uint8] | None = None,
    ) -> Sample:
        """Make one mask a seed: of ``n`` real masks, the one at place ``seed % n`` of the order, moved by the seed.

        The source of each mask is that one real id.
        """
        import numpy as np

        pairs = context.pairs
        order = np.array(json.loads((checkpoint.folder / _ORDER).read_text()), np.intp)
        positions = order[np.asarray(seeds) % len(order)]
        made = np.array(pairs.masks[positions], np.uint8)
        if self.parameters.augment == "geometric":
            made = _moved(made, seeds, context.batch_size)
        return Sample(made, sources=tuple((pairs.ids[position],) for position in positions))


def _moved(masks: NDArray[np.uint8], seeds: NDArray[np.int64], batch_size: int) -> NDArray[np.uint8]:
    """Move each mask (N, H, W) by the transform of its seed, as ``resample`` moves pairs."""
    import numpy as np

    from harness.learning.augmentation import geometric_transform

    moved = np.empty(masks.shape, np.uint8)
    for start in range(0, len(masks), batch_size):
        part = masks[start : start + batch_size]
        no_images = np.zeros((*part.shape, 3), np.uint8)
        _, moved[start : start + batch_size] = geometric_transform(no_images, part, seeds[start : start + batch_size])
    return moved

"""The floor of every fidelity table: pixels without any structure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from harness.learning import Card, Checkpoint, FitContext, Generator, HarnessError, Parameters, Sample, SampleContext

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from harness.learning import PairSet

_FITTED = "noise.json"


class NoiseParameters(Parameters):
    """What the noise can be told."""

    colour: Literal["uniform", "fitted"] = Field(
        "uniform",
        description="every grey level alike, or normal draws with each channel's mean and deviation in the real images",
    )


class Noise(Generator):
    """Independent random pixels and masks of independent coin flips: what any generator must beat by far.

    A reference point of this project, with no published source. It knows the share of polyp in the real masks and,
    with ``colour: fitted``, six numbers of their colours (rounded and cut to 0 to 255, which narrows wide ones a
    little). A fidelity that is no better than its is that of a generator that has learned nothing.
    """

    name: ClassVar[str] = "noise"
    card: ClassVar[Card] = Card(learns=False, cost="milliseconds a pair on a CPU")
    Parameters: ClassVar[type[Parameters]] = NoiseParameters

    parameters: NoiseParameters

    @classmethod
    def example(cls) -> dict[str, Any]:
        """Return parameters for a run of a second."""
        return {"colour": "fitted"}

    def fit(self, pairs: PairSet, context: FitContext) -> Iterator[Checkpoint]:
        """Measure the polyp share and the colours; yield one checkpoint at step 0.

        Raises:
            HarnessError: there are no pairs.
        """
        if len(pairs) == 0:
            raise HarnessError("noise was given no training pairs; it needs at least one.")
        fitted: dict[str, Any] = {"share": float(pairs.masks.mean())}
        if self.parameters.colour == "fitted":
            fitted["mean"], fitted["deviation"] = _colours(pairs.images)
        folder = context.checkpoint_folder(0)
        (folder / _FITTED).write_text(json.dumps(fitted))
        context.progress(1, 1)
        # The share is a fact of every mask, so every pair has been seen, also when no image was looked at.
        yield Checkpoint(0, folder)

    def sample(
        self,
        checkpoint: Checkpoint,
        seeds: NDArray[np.int64],
        context: SampleContext,
        masks: NDArray[np.uint8] | None = None,
    ) -> Sample:
        """Make one pair a seed, at the size of the real ones. Each owes something to all that were fitted."""
        import numpy as np

        fitted = json.loads((checkpoint.folder / _FITTED).read_text())
        size = context.pairs.size
        images = np.empty((len(seeds), *size, 3), np.uint8)
        made = np.empty((len(seeds), *size), np.uint8)
        for i, seed in enumerate(seeds):
            draw = np.random.default_rng(int(seed) % 2**64)
            made[i] = draw.random(size) < fitted["share"]
            if self.parameters.colour == "uniform":
                images[i] = draw.integers(0, 256, (*size, 3), np.uint8)
            else:
                levels = draw.normal(fitted["mean"], fitted["deviation"], (*size, 3))
                images[i] = np.rint(levels).clip(0, 255)
        return Sample(made, images)


def _colours(images: NDArray[np.uint8]) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation of each channel of uint8 (N, H, W, 3), exact, from counts of grey levels."""
    import numpy as np

    counts = np.zeros((3, 256), np.int64)
    for image in images:
        for channel in range(3):
            counts[channel] += np.bincount(image[..., channel].ravel(), minlength=256)
    levels, total = np.arange(256), counts[0].sum()
    means = counts @ levels / total
    deviations = np.sqrt((counts * (levels - means[:, None]) ** 2).sum(axis=1) / total)
    return means.tolist(), deviations.tolist()

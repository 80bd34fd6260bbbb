"""SinGAN-Seg: one small generative model for each real pair, from which any number of similar pairs is made."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from generators.singan_seg.parameters import SinGANSegParameters
from harness.learning import (
    Card,
    Checkpoint,
    FitContext,
    Generator,
    HarnessError,
    OutOfMemory,
    PublishedParameters,
    Sample,
    SampleContext,
)

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from generators.singan_seg.batch import ModelBatch
    from harness.learning import PairSet

#: Pairs are sampled in chunks of this many, the last one padded, so that no pair depends on how many are asked for.
_CHUNK = 16


class SinGANSeg(Generator):
    """One generative model a real pair: image and mask as four channels, learned from that pair alone, coarse to fine.

    Implements SinGAN-Seg (paper B; Thambawita et al. 2022) on SinGAN (Rott Shaham, Dekel and Michaeli 2019, arXiv
    1905.01164). Many models are trained as one: their networks are the groups of grouped convolutions, and each ends
    as it would alone.
    A pair's only source is the real pair whose model made it.
    """

    name = "singan-seg"
    Parameters: ClassVar[type[PublishedParameters]] = SinGANSegParameters
    card = Card(one_model_a_pair=True, cost="minutes of a CPU core an image at 64 px")
    sampling = frozenset({"start_scale", "mask_threshold"})
    parameters: SinGANSegParameters

    @classmethod
    def example(cls) -> dict[str, Any]:
        """Return parameters for a fit of a second."""
        return {"epochs": 3, "together": 2, "max_size": 32, "features": 4}

    def fit(self, pairs: PairSet, context: FitContext) -> Iterator[Checkpoint]:
        """Train a model for each pair, ``together`` at a time, and yield a checkpoint whenever some are finished.

        Raises:
            HarnessError: the pairs are too small for two scales, or training diverged; names the pairs.
            OutOfMemory: the device had too little memory; names the number of models.
        """
        from harness.learning.memory import is_out_of_memory

        try:
            yield from self._train(pairs, context)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemory(
                f"Too little memory on {context.device} to train {self._together(context)} models of singan-seg "
                "together; use a smaller together, or a smaller max_size."
            ) from error

    def _train(self, pairs: PairSet, context: FitContext) -> Iterator[Checkpoint]:
        from generators.singan_seg.batch import ModelBatch

        together = self._together(context)
        state = context.restore_state() or {"done": 0, "folder": "", "batch": None}
        done, before = int(state["done"]), str(state["folder"])
        while done < len(pairs):
            chosen = range(done, min(done + together, len(pairs)))
            batch = ModelBatch(self.parameters, pairs.take(chosen), context.seed, context.device)
            if state["batch"] is not None:
                batch.restore(state["batch"])
            total = batch.total_epochs
            # A step of the logs is an epoch of one batch, as if batches were trained one after the other.
            first = done // together * total
            for epoch in batch.train():
                context.progress(done * total + epoch * len(chosen), len(pairs) * total, "epochs")
                saving = context.should_save()
                if saving or batch.at_scale_end:
                    for number, values in batch.losses():
                        context.log(first + number, **values)
                if batch.at_scale_end:
                    self._show(batch, first + epoch, context)
                if saving:
                    context.save_state({"done": done, "folder": before, "batch": batch.state()})
            done = chosen.stop
            folder = context.checkpoint_folder(done)
            self._write(batch, pairs, done, together, folder, folder.parent / before if before else None)
            yield Checkpoint(done, folder, frozenset(pairs.ids[:done]))
            before, state = folder.name, {"batch": None}
            context.save_state({"done": done, "folder": before, "batch": None})

    def _together(self, context: FitContext) -> int:
        return self.parameters.together or (4 if context.device.type == "cpu" else 16)

    def _show(self, batch: ModelBatch, step: int, context: FitContext) -> None:
        """Log samples of the first models of a batch at the scale that they have reached, above their masks."""
        import numpy as np

        images, masks = batch.samples(per_model=4, models=8)
        context.log_images("samples", step, images)
        context.log_images("masks", step, np.repeat(masks[..., None] * np.uint8(255), 3, axis=3))

    def _write(
        self, batch: ModelBatch, pairs: PairSet, done: int, together: int, folder: Path, before: Path | None
    ) -> None:
        """Write the finished models; those of the checkpoint before are linked, which takes no room."""
        from safetensors.torch import save_file

        files: list[str] = []
        if before is not None:
            files = json.loads((before / "config.json").read_text())["files"]
            for name in files:
                _link(before / name, folder / name)
        name = f"models-{done:06d}.safetensors"
        save_file(batch.weights(), folder / name)
        config = {
            "plugin": self.name,
            "version": self.version,
            "size": list(pairs.size),
            "ids": list(pairs.ids[:done]),
            "files": [*files, name],
            "per_file": together,
            **batch.describe(),
        }
        (folder / "config.json").write_text(json.dumps(config, indent=1))

    def sample(
        self,
        checkpoint: Checkpoint,
        seeds: NDArray[np.int64],
        context: SampleContext,
        masks: NDArray[np.uint8] | None = None,
    ) -> Sample:
        """Make one pair a seed: item i from the model of the pair at position ``seeds[i] % n`` of ``context.pairs``.

        Raises:
            HarnessError: the checkpoint's files are missing, or not those of this generator, or lack a pair's model.
        """
        import numpy as np
        from safetensors import SafetensorError

        from generators.singan_seg.sampling import Models

        try:
            models = Models(checkpoint.folder, context.device)
            position = {name: i for i, name in enumerate(models.ids)}
            pairs = context.pairs.ids
            chosen = [position[pairs[int(seed) % len(pairs)]] for seed in seeds]
            size = context.pairs.size
            images = np.empty((len(seeds), *size, 3), np.uint8)
            polyps = np.empty((len(seeds), *size), np.uint8)
            for start in range(0, len(seeds), _CHUNK):
                part = slice(start, start + _CHUNK)
                made = models.make(
                    chosen[part], seeds[part], _CHUNK, self.parameters.start_scale, self.parameters.mask_threshold
                )
                images[part], polyps[part] = made
        except (OSError, SafetensorError, ValueError, KeyError) as error:
            raise HarnessError(
                f"{checkpoint.folder} is not a whole checkpoint of {self.name} ({error}); run its fit again."
            ) from error
        return Sample(polyps, images, tuple((models.ids[position],) for position in chosen))


def _link(source: Path, target: Path) -> None:
    """Give a file a second name; copy it where the file system has no such thing."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)

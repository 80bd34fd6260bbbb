"""SinGAN-Seg: one small generative model for each real pair, from which any number of similar pairs is made."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

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


class SinGANSegParameters(PublishedParameters):
    """What a SinGAN-Seg can be told; ``setting`` sets the defaults of the others."""

    as_published: ClassVar[dict[str, Any]] = {
        "max_size": 250,
        "one_update": True,
        "truncate": True,
        "fixed_reconstruction_noise": False,
        "precision": "float32",
    }

    epochs: int = Field(2000, ge=1, description="of each scale; an epoch is critic_steps and generator_steps")
    together: int | None = Field(
        None, ge=1, description="models that are trained at once; 4 on a CPU, whose cache holds no more, else 16"
    )
    max_size: int | None = Field(
        None, ge=26, description="longest side that is learned, in pixels; the study's size when left out or smaller"
    )
    min_size: int = Field(25, ge=12, description="shorter side of the coarsest scale, in pixels")
    scale_factor: float = Field(0.75, gt=0.3, lt=1, description="side of a scale over that of the next, about")
    features: int = Field(32, ge=1, description="channels of the networks at the coarsest scales")
    features_double_every: int = Field(4, ge=1, description="scales after which the channels double")
    largest_features: int = Field(128, ge=1, description="the most channels that doubling leads to")
    critic_steps: int = Field(3, ge=1, description="updates of the critic in an epoch")
    generator_steps: int = Field(3, ge=1, description="updates of the generator in an epoch")
    one_update: bool = Field(
        False,
        description="one update of the generator in an epoch, on the critic's last fake, as paper B's code",
    )
    learning_rate: float = Field(5e-4, gt=0, description="Adam's learning rate for both networks")
    betas: tuple[float, float] = Field((0.5, 0.999), description="Adam's decay rates")
    decay_after: float = Field(0.8, gt=0, le=1, description="share of the epochs after which the rate falls")
    decay: float = Field(0.1, gt=0, le=1, description="what the rate is multiplied by then")
    gradient_penalty: float = Field(0.1, ge=0, description="weight of the critic's gradient penalty (WGAN-GP)")
    reconstruction: float = Field(10.0, ge=0, description="weight of the squared error of the reconstruction")
    noise_amplitude: float = Field(
        0.1, gt=0, description="noise of a scale over the error with which the scale before reconstructs"
    )
    truncate: bool = Field(False, description="round pictures down to bytes between scales, as paper B's code does")
    fixed_reconstruction_noise: bool = Field(
        True, description="one noise that the coarsest scale reconstructs from; otherwise a new one each epoch"
    )
    start_scale: int = Field(
        0, ge=0, description="first scale with fresh noise in sampling; those below reconstruct the real pair"
    )
    mask_threshold: float = Field(0.5, gt=0, lt=1, description="a mask pixel is polyp above this")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="of the networks in training; auto takes bfloat16 on a CPU that computes with it, and on a GPU "
        "float32, which is faster there",
    )


class SinGANSeg(Generator):
    """One generative model a real pair: image and mask as four channels, learned from that pair alone, coarse to fine.

    Implements SinGAN-Seg (paper B; Thambawita et al. 2022) on SinGAN (Rott Shaham, Dekel and Michaeli 2019, arXiv
    1905.01164). Many models are trained as one: their networks are the groups of grouped convolutions, and each ends
    as it would alone.
    A pair's only source is the real pair whose model made it.
    """

    name = "singan-seg"
    Parameters: ClassVar[type[PublishedParameters]] = SinGANSegParameters
    card = Card(needs="image", cost="minutes of a CPU core an image at 64 px")
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

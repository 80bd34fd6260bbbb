"""Some single-image models from their first scale to their last."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from generators.four_channel_gan.pictures import to_bytes
from generators.randomness import seeded
from generators.singan_seg.networks import CHANNELS, FrozenTrunk
from generators.singan_seg.pyramid import Pyramid, truncated
from generators.singan_seg.training import FinishedScale, ScaleTraining, draw_noise, through
from harness.learning import HarnessError
from harness.learning.precision import computes_in_bfloat16

if TYPE_CHECKING:
    from generators.singan_seg.parameters import SinGANSegParameters
    from harness.learning import PairSet

_SHOWN = 0x5409


class ModelBatch:
    """K models in training. The random numbers of each come from the fit's seed and its pair's id alone."""

    def __init__(self, settings: SinGANSegParameters, pairs: PairSet, seed: int, device: torch.device) -> None:
        """Start with the first scale.

        Raises:
            HarnessError: the pairs are too small.
        """
        height, width = pairs.size
        if min(height, width) <= settings.min_size:
            raise HarnessError(
                f"singan-seg needs pairs larger than min_size, {settings.min_size} px, not of {width} x {height} px; "
                "set dataset.size or min_size."
            )
        self.settings = settings
        self.pairs = pairs
        self.device = device
        self.pyramid = Pyramid.of(
            height, width, settings.min_size, settings.max_size or max(height, width), settings.scale_factor
        )
        self.keys = [model_seed(seed, name) for name in pairs.ids]
        # Measured on an H200: grouped convolutions are up to twice as fast in float32 (as TF32) as in bfloat16.
        auto = settings.precision == "auto" and device.type == "cpu" and computes_in_bfloat16(device)
        self.dtype = torch.bfloat16 if auto or settings.precision == "bfloat16" else torch.get_default_dtype()
        self.real = [scale.to(device) for scale in self._real_scales()]
        self.finished: list[FinishedScale] = []
        self.scale_noise: Tensor | None = None
        self.reconstruction = torch.zeros_like(self.real[0])
        self.training = self._at_scale(0)
        self.at_scale_end = False

    def _real_scales(self) -> list[Tensor]:
        images = torch.from_numpy(np.array(self.pairs.images)).permute(0, 3, 1, 2)
        masks = torch.from_numpy(np.array(self.pairs.masks))[:, None] * 255
        whole = torch.cat([images, masks], dim=1).to(torch.get_default_dtype()) / 127.5 - 1
        scales = self.pyramid.of_images(whole)
        if self.settings.truncate:
            scales = [truncated(scale) for scale in scales]
        return [scale.reshape(1, -1, *scale.shape[2:]) for scale in scales]

    def _at_scale(self, scale: int) -> ScaleTraining:
        return ScaleTraining(
            self.settings,
            self.pyramid,
            scale,
            self.real[scale],
            self.keys,
            self.finished[:scale],
            self.reconstruction,
            self.dtype,
        )

    @property
    def scales(self) -> int:
        """How many scales there are."""
        return len(self.pyramid.sizes)

    @property
    def total_epochs(self) -> int:
        """Epochs of all scales together."""
        return self.scales * self.settings.epochs

    def train(self) -> Iterator[int]:
        """Train to the end and yield the epochs done, in all scales together.

        Raises:
            HarnessError: a model diverged.
        """
        epochs = self.settings.epochs
        while True:
            scale = self.training.scale
            for epoch in self.training.run(epochs):
                self.at_scale_end = epoch == epochs
                if self.at_scale_end:
                    self._finish_scale()
                yield scale * epochs + epoch
            if scale + 1 == self.scales:
                return
            before = self.training
            self.training = self._at_scale(scale + 1)
            self.training.warm_start(before)

    def _finish_scale(self) -> None:
        training = self.training
        finished = training.finish()
        self.reconstruction = training.next_reconstruction(finished)
        if training.scale == 0:
            self.scale_noise = training.noise_of_reconstruction
        self.finished.append(finished)
        error = training.history[-1][1]["reconstruction_error"]
        broken = [name for name, value in zip(self.pairs.ids, error.isfinite().tolist(), strict=True) if not value]
        if broken:
            raise HarnessError(
                f"singan-seg diverged at scale {training.scale} for {', '.join(broken[:3])} "
                f"({len(broken)} of {len(self.keys)} models): the losses are not finite numbers; lower learning_rate "
                f"(now {self.settings.learning_rate:g}) or use precision: float32."
            )

    def losses(self) -> list[tuple[int, dict[str, float]]]:
        """Return what was logged since the last call: epoch of all scales, and means over the models."""
        start = self.training.scale * self.settings.epochs
        chosen, self.training.history = self.training.history, []
        every = max(self.settings.epochs // 100, 1)
        return [
            (start + epoch + 1, {name: float(value.mean()) for name, value in values.items()})
            for epoch, values in chosen
            if (epoch + 1) % every == 0
        ]

    @torch.no_grad()
    def samples(self, per_model: int, models: int) -> tuple[NDArray[np.uint8], ...]:
        """Return samples of the first models with the scales finished so far, ``per_model`` of each in a row.

        Returns:
            Images uint8 (N, h, w, 3) and masks uint8 (N, h, w) at the size of the last finished scale.
        """
        randomness = [seeded(key, _SHOWN) for key in self.keys]
        scales = len(self.finished)
        noise = [
            draw_noise(per_model, scale, self.pyramid.sizes[scale], randomness).to(self.device)
            for scale in range(scales)
        ]
        shown = Pyramid(self.pyramid.full, self.pyramid.sizes[:scales], self.pyramid.ratio, self.pyramid.shrink)
        made = through(self.finished, shown, noise, truncate=self.settings.truncate)
        each = made.view(per_model, len(self.keys), CHANNELS, *made.shape[2:]).transpose(0, 1)[:models]
        pictures = each.reshape(-1, CHANNELS, *made.shape[2:])
        return to_bytes(pictures, 0.5, made.shape[-1], "nearest")

    def weights(self) -> dict[str, Tensor]:
        """Return everything that sampling needs: folded generators, amplitudes, and the noise of the reconstruction."""
        assert self.scale_noise is not None
        models = len(self.keys)
        kept = {"noise": self.scale_noise.view(models, CHANNELS, *self.pyramid.sizes[0])[:, :1]}
        for scale, finished in enumerate(self.finished):
            kept[f"{scale}.amplitude"] = finished.amplitude
            for layer, (weight, bias) in enumerate(zip(finished.trunk.weights, finished.trunk.biases, strict=True)):
                kept[f"{scale}.weight.{layer}"] = weight.view(models, -1, *weight.shape[1:])
                kept[f"{scale}.bias.{layer}"] = bias.view(models, -1)
        return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in kept.items()}

    def describe(self) -> dict[str, Any]:
        """Return what sampling needs to know beside the weights."""
        return {
            "sizes": [list(size) for size in self.pyramid.sizes],
            "ratio": self.pyramid.ratio,
            "shrink": self.pyramid.shrink,
            "truncate": self.settings.truncate,
        }

    def state(self) -> dict[str, Any]:
        """Return what a resumed fit needs."""
        finished = [
            {"weights": scale.trunk.weights, "biases": scale.trunk.biases, "amplitude": scale.amplitude}
            for scale in self.finished
        ]
        return {
            "scale": self.training.scale,
            "training": self.training.state(),
            "reconstruction-before": self.training.reconstruction,
            "reconstruction": self.reconstruction,
            "noise": self.scale_noise,
            "finished": finished,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up a state."""
        finished = [
            FinishedScale(
                FrozenTrunk(
                    [w.to(self.device) for w in scale["weights"]],
                    [b.to(self.device) for b in scale["biases"]],
                    len(self.keys),
                ),
                scale["amplitude"].to(self.device),
            )
            for scale in state["finished"]
        ]
        self.finished = finished
        self.reconstruction = state["reconstruction-before"].to(self.device)
        self.training = self._at_scale(int(state["scale"]))
        self.training.restore(state["training"])
        self.reconstruction = state["reconstruction"].to(self.device)
        self.scale_noise = None if state["noise"] is None else state["noise"].to(self.device)


def model_seed(seed: int, name: str) -> int:
    """Return the seed of the model of one pair, whatever else is in its fit."""
    return int(seeded(seed, *name.encode()).initial_seed())

"""The Lightning module behind the segmenter ``smp``; apart from it because it imports torch and the model library."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import segmentation_models_pytorch as smp
import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.nn import functional

from harness.learning import PluginError, WeightsError
from harness.learning.augmentation import make_augmentation

if TYPE_CHECKING:
    from harness.learning.pretrained import EncoderWeights
    from segmenters.smp.parameters import SMPParameters

Colour = tuple[float, float, float]

_IMAGENET: tuple[Colour, Colour] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_HALF: tuple[Colour, Colour] = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_DPN: tuple[Colour, Colour] = ((124 / 255, 117 / 255, 104 / 255), (0.2348, 0.2348, 0.2348))

#: Mean and standard deviation that a family of encoders was trained with; ImageNet's for all others.
_FAMILIES: dict[str, tuple[Colour, Colour]] = {
    "tu-tf_efficientnet_lite": _HALF,
    "timm-tf_efficientnet_lite": _HALF,
    "tu-vit_": _HALF,
    "tu-mobilenetv4": _IMAGENET,
    "inception": _HALF,
    "xception": _HALF,
    "dpn": _DPN,
}

#: Rise of the learning rate in warmup-cosine, as a fraction of the steps.
WARMUP = 0.05


def normalisation(encoder: str) -> tuple[Colour, Colour]:
    """Return the mean and standard deviation, per channel of RGB in [0, 1], that an encoder's family expects."""
    return next((values for family, values in _FAMILIES.items() if encoder.startswith(family)), _IMAGENET)


def make_loss(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a loss of logits and masks, both float (N, 1, H, W).

    All but bce and focal (means over pixels) are over the batch as a whole, not per image. ``dice`` is the papers':
    1 - 2 sum(p t) / sum(p + t) with eps 1e-7 and no smoothing, 0 for a batch without polyps. ``tversky`` weighs
    false negatives 0.7 and false positives 0.3. ``dice-bce`` is the mean of the two.

    Raises:
        KeyError: there is no such loss.
    """
    dice = smp.losses.DiceLoss(mode="binary", from_logits=True)
    matthews = smp.losses.MCCLoss()
    losses: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "dice": dice,
        "jaccard": smp.losses.JaccardLoss(mode="binary", from_logits=True),
        "focal": smp.losses.FocalLoss(mode="binary"),
        "lovasz": smp.losses.LovaszLoss(mode="binary"),
        "tversky": smp.losses.TverskyLoss(mode="binary", from_logits=True, alpha=0.3, beta=0.7),
        "bce": functional.binary_cross_entropy_with_logits,
        # The library's takes probabilities.
        "mcc": lambda logits, masks: matthews(logits.sigmoid(), masks),
        "dice-bce": lambda logits, masks: (
            0.5 * dice(logits, masks) + 0.5 * functional.binary_cross_entropy_with_logits(logits, masks)
        ),
    }
    return losses[name]


def learning_rate_factor(parameters: SMPParameters, steps: int) -> Callable[[int], float]:
    """Return what the learning rate is multiplied by at each step (from 0), by the parameters' schedule."""

    def cosine(fraction: float) -> float:
        return 0.5 * (1 + math.cos(math.pi * min(1.0, fraction)))

    warm = max(1, round(WARMUP * steps))
    schedules: dict[str, Callable[[int], float]] = {
        "constant": lambda step: 1.0,
        "cosine": lambda step: cosine(step / steps),
        "step": lambda step: parameters.gamma ** sum(step >= m * steps for m in parameters.milestones),
        "warmup-cosine": lambda step: (
            (step + 1) / warm if step < warm else cosine((step - warm) / max(1, steps - warm))
        ),
    }
    return schedules[parameters.schedule]


def build_network(parameters: SMPParameters) -> nn.Module:
    """Build the network with random weights: three channels in, one out, no activation.

    Raises:
        PluginError: the library refuses the combination.
    """
    options: dict[str, Any] = dict(parameters.decoder)
    if parameters.arch == "DPT" and parameters.encoder.startswith(("tu-vit_", "tu-deit")):
        options["dynamic_img_size"] = True
    try:
        return getattr(smp, parameters.arch)(
            encoder_name=parameters.encoder, encoder_weights=None, in_channels=3, classes=1, **options
        )
    except (ValueError, TypeError, KeyError, AssertionError, RuntimeError, NotImplementedError) as error:
        raise PluginError(
            f"segmentation-models-pytorch cannot build {parameters.arch} with the encoder {parameters.encoder!r} and "
            f"{parameters.decoder or 'no decoder options'} ({type(error).__name__}: {error}); choose another encoder."
        ) from error


class SMPModule(LightningModule):
    """A network of segmentation-models-pytorch with its normalisation, augmentation, loss and optimiser."""

    mean: Tensor
    std: Tensor

    def __init__(self, parameters: SMPParameters, steps: int, pretrained: EncoderWeights | None = None) -> None:
        """Build it.

        Args:
            parameters: of the segmenter.
            steps: optimiser steps that the learning-rate schedule spans.
            pretrained: weights of the encoder with their normalisation; None leaves it at random.

        Raises:
            PluginError: the library refuses the combination.
            WeightsError: the weights do not fit the encoder.
        """
        super().__init__()
        self.parameters_of_segmenter = parameters
        self.steps = steps
        self.network = build_network(parameters)
        mean, std = normalisation(parameters.encoder)
        if pretrained is not None:
            _load_encoder(self.network, parameters.encoder, pretrained)
            mean, std = pretrained.mean, pretrained.std
        # Buffers, so that trained weights bring the normalisation they were trained with.
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))
        self.augment = make_augmentation(parameters.augmentation)
        self.loss = make_loss(parameters.loss)
        # channels_last is faster on CPU and GPU, but torch's backward pass of mobileone crashes in it.
        crashes = parameters.encoder.startswith(("mobileone_", "tu-mobileone_"))
        self.memory_format = torch.contiguous_format if crashes else torch.channels_last
        self.network.to(memory_format=self.memory_format)

    def forward(self, images: Tensor) -> Tensor:
        """Map float32 (N, 3, H, W) in [0, 1] to logits (N, 1, H, W); sides may have any length."""
        x = images
        for _ in range(2 if self.parameters_of_segmenter.normalise == "twice" else 1):
            x = (x - self.mean) / self.std
        height, width = x.shape[2:]
        multiple = self._side_multiple()
        below, right = -height % multiple, -width % multiple
        if below or right:
            x = functional.pad(x, (0, right, 0, below), mode="replicate")
        return self.network(x.contiguous(memory_format=self.memory_format))[:, :, :height, :width]

    def _side_multiple(self) -> int:
        """Return what the sides of the network's input must be multiples of."""
        stride = int(getattr(self.network.encoder, "output_stride", 32))
        # DPT halves its grid of patches once, PAN pools the last level three times.
        return {"DPT": 2 * stride, "PAN": 8 * stride}.get(self.parameters_of_segmenter.arch, stride)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        """Augment the batch and return its loss; the loss and the augmentation are float32 under autocast too."""
        images, masks = batch
        with torch.autocast(images.device.type, enabled=False), torch.no_grad():
            images, masks = self.augment(images, masks)
        logits = self(images)
        with torch.autocast(images.device.type, enabled=False):
            return self.loss(logits.float(), masks)

    def configure_optimizers(self) -> Any:
        """Return the optimiser and its schedule, which moves at every step."""
        p = self.parameters_of_segmenter
        weights = [w for w in self.network.parameters() if w.requires_grad]
        optimiser: torch.optim.Optimizer
        if p.optimizer == "sgd":
            optimiser = torch.optim.SGD(
                weights, lr=p.learning_rate, momentum=0.9, nesterov=True, weight_decay=p.weight_decay
            )
        else:
            kind = torch.optim.AdamW if p.optimizer == "adamw" else torch.optim.Adam
            optimiser = kind(weights, lr=p.learning_rate, weight_decay=p.weight_decay)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, learning_rate_factor(p, self.steps))
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _load_encoder(network: Any, encoder: str, pretrained: EncoderWeights) -> None:
    """Load an encoder's weights; what it has no place for (a classifier, levels below its depth) is left out."""
    own = network.encoder.state_dict()
    given = pretrained.state_dict
    wrong = [name for name, weight in own.items() if name not in given or given[name].shape != weight.shape]
    if wrong:
        raise WeightsError(
            f"The weights of the encoder {encoder!r} ({pretrained.origin}) do not fit it: {len(wrong)} of its "
            f"{len(own)} tensors are missing or of another shape, such as {wrong[0]!r}; name another file or use "
            "encoder_weights: random."
        )
    # The module's own method: some encoders override it with one that drops keys from what they are given.
    nn.Module.load_state_dict(network.encoder, {name: given[name] for name in own})

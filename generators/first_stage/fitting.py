"""The first stage as the first part of a fit, and the part after it: both resume where they were."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from generators.first_stage.autoencoder import Autoencoder, build, load
from generators.first_stage.parameters import FirstStageParameters
from generators.first_stage.reconstruction import measure
from generators.first_stage.training import FirstStageTraining
from generators.stepped_fit import SteppedTraining, Stops, fit_in_steps
from harness.learning import FitContext

#: Training images that reconstructions are measured on, and shown, at most.
_MEASURED, _SHOWN = 512, 8

# What a saved state holds of each part.
_TRAINING, _AUTOENCODER, _AFTER = "first-stage-training", "autoencoder", "after"


class _FirstStage:
    """The training of the first stage, whose saved state says that it is that."""

    def __init__(self, training: FirstStageTraining) -> None:
        self.training = training
        self.step = training.step

    def state(self, step: int) -> dict[str, Any]:
        return {_TRAINING: self.training.state(step)}

    def restore(self, state: dict[str, Any]) -> int:
        return self.training.restore(state[_TRAINING])


class AfterFirstStage:
    """A training that goes on from a first stage, whose saved states hold both."""

    def __init__(self, training: SteppedTraining, autoencoder: Autoencoder) -> None:
        """Wrap the training at its start."""
        self.training, self.autoencoder = training, autoencoder
        self.step = training.step

    def state(self, step: int) -> dict[str, Any]:
        """Return everything that a resumed fit needs after so many steps."""
        return {_AUTOENCODER: self.autoencoder.state_dict(), _AFTER: self.training.state(step)}

    def restore(self, state: dict[str, Any]) -> int:
        """Take up a state and return its step."""
        return self.training.restore(state[_AFTER])


def in_progress(state: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return the state of a fit when it is one of the part after the first stage, else None."""
    return state if state is not None and _AFTER in state else None


def fitted_first_stage(
    settings: FirstStageParameters, images: Tensor, context: FitContext, state: dict[str, Any] | None
) -> Autoencoder:
    """Return the first stage: loaded from its file, trained, or taken from the saved state of a fit.

    Its reconstructions of training images are measured and logged once.

    Args:
        settings: of the first stage.
        images: real training images, uint8 (N, 3, H, W) on the device.
        context: of the fit.
        state: the saved state of the fit.

    Raises:
        HarnessError: the training diverged, or the images do not fit.
        WeightsError: the file holds something else.
    """
    if state is not None and _AUTOENCODER in state:
        autoencoder = build(settings.network)
        autoencoder.load_state_dict(state[_AUTOENCODER])
        return _frozen(autoencoder, context)
    if settings.file is not None:
        autoencoder = load(settings.file, settings.network)
    else:
        training = FirstStageTraining(
            settings, images.contiguous(memory_format=torch.channels_last), context.seed, context.device
        )
        if training.note:
            context.note(training.note)
        stops = Stops(settings.steps)
        for _ in fit_in_steps(
            _FirstStage(training), context, stops, settings.batch_size, state=state, prefix="first-stage-"
        ):
            pass
        autoencoder = training.autoencoder
    autoencoder = _frozen(autoencoder, context)
    given = images[:_MEASURED].permute(0, 2, 3, 1).contiguous().cpu().numpy()
    found = measure(autoencoder, given, context.device)
    done = 0 if settings.file is not None else settings.steps
    context.log(done, **{f"first-stage-{name}": value for name, value in found.items()})
    _show(autoencoder, images[:_SHOWN], done, context)
    context.save_state({_AUTOENCODER: autoencoder.state_dict()})
    return autoencoder


def _frozen(autoencoder: Autoencoder, context: FitContext) -> Autoencoder:
    return autoencoder.requires_grad_(False).to(context.device).to(memory_format=torch.channels_last).eval()


def _show(autoencoder: Autoencoder, images: Tensor, step: int, context: FitContext) -> None:
    """Log images, and below them their reconstructions."""
    with torch.no_grad():
        made = autoencoder(images.float() / 127.5 - 1)
    levels = ((made + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    both = torch.cat([images, levels]).permute(0, 2, 3, 1).contiguous().cpu().numpy()
    context.log_images("reconstructions", step, both.astype(np.uint8, copy=False))

"""The training loop of segmenters: a data stream that is a function of (seed, step), selection, and resume.

Every step is reproducible on its own: the batch of step *t* depends on the seed and *t* only
(:func:`batch_positions`), and torch's global generators are seeded from the same two before it. So a run that was
killed and resumed is equal, bit for bit on a CPU, to one that was not.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import HarnessError, OutOfMemory
from harness.learning.batches import batch_positions, initialisation_seed, step_seed, validation_steps
from harness.learning.memory import is_out_of_memory
from harness.learning.optimisation import Optimisation
from harness.learning.precision import fabric_on
from harness.learning.predict import predict_masks
from harness.metrics.segmentation.confusion import confusion, intersection_over_union

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule
    from torch import Tensor

    from harness.data.pairs import PairSet
    from harness.plugins.contract import FitContext, Segmenter

#: File in the checkpoint's folder that holds the weights.
WEIGHTS_FILE = "weights.safetensors"

#: Training losses are averaged over this many steps between two logs.
LOG_EVERY = 20


@dataclass(frozen=True)
class CurvePoint:
    """One logged value: ``loss`` (mean since the last one) or ``selection-iou``, after ``step`` steps."""

    step: int
    name: str
    value: float


@dataclass(frozen=True)
class TrainOutcome:
    """What a training ends with.

    Attributes:
        weights: safetensors file of the whole module's state at ``best_step``.
        best_step: steps done when those weights were taken.
        best_score: their selection score (mean per-image IoU, empty against empty counts 1), or None without a
            selection set.
        steps: optimiser steps done.
        images_seen: training images shown, repeats included.
        curve: everything logged, in order.
    """

    weights: Path
    best_step: int
    best_score: float | None
    steps: int
    images_seen: int
    curve: list[CurvePoint]


def train_segmenter(
    segmenter: Segmenter,
    training: PairSet,
    order: NDArray[np.intp],
    selection: PairSet | None,
    *,
    steps: int,
    validations: int,
    context: FitContext,
) -> TrainOutcome:
    """Train a segmenter for a number of optimiser steps and keep its best state.

    The state with the best mean per-image IoU on ``selection`` is kept (ties: the earliest); without a selection
    set, the last one. The module is initialised from the context's seed. On CUDA it computes in bfloat16 autocast
    where the device has it, and TF32.

    Args:
        segmenter: what to train.
        training: the pairs that ``order`` points into.
        order: positions into ``training``; a position may come several times (the real-repeated control). One epoch
            is one shuffle of it.
        selection: pairs to choose the checkpoint by, or None.
        steps: optimiser steps, at least 1.
        validations: how often ``selection`` is scored, evenly spread; always after the last step.
        context: device, seed, saved state, logs.

    Raises:
        HarnessError: the loss is not a number, or there is nothing to train on.
        PluginError: the module asks for what this loop does not do.
        OutOfMemory: the device had too little memory; names the batch.
    """
    if steps < 1 or len(order) == 0:
        raise HarnessError(
            f"Training {segmenter.label} needs at least one step and one image, "
            f"got {steps} steps and {len(order)} images; raise the budget or the training set."
        )
    import torch

    torch.manual_seed(initialisation_seed(context.seed))
    module = segmenter.module(steps)
    run = _Run(segmenter, training, order, selection, steps, set(validation_steps(steps, validations)), context, module)
    try:
        run.train()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        height, width = training.size
        raise OutOfMemory(
            f"Too little memory on {context.device} for a batch of {segmenter.batch_size} images of "
            f"{width}x{height} pixels with {segmenter.label}; use a smaller batch_size, encoder or image size."
        ) from error
    return run.outcome()


@dataclass
class _Run:
    """One training: what it is given, and how far it has come."""

    segmenter: Segmenter
    training: PairSet
    order: NDArray[np.intp]
    selection: PairSet | None
    steps: int
    validate_after: set[int]
    context: FitContext
    module: LightningModule
    step: int = 0
    best_step: int = 0
    best_score: float | None = None
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    pending_losses: list[Tensor] = field(default_factory=list)
    curve: list[tuple[int, str, float]] = field(default_factory=list)

    def train(self) -> None:
        """Take the steps that are left."""
        import torch

        device = self.context.device
        self.module.to(device).train()
        self.trainer = _Trainer(self)
        self.module.trainer = self.module.fabric = self.trainer  # type: ignore[assignment]
        self.optimisation = Optimisation(self.module, self.segmenter.batch_size, len(self.order))
        state = self.context.restore_state()
        if state is not None:
            self.restore(state)
        # On CPUs in float32, whatever instructions they have, so that all of them compute alike.
        fabric = fabric_on(device, "auto" if device.type == "cuda" else "float32")

        def compute_loss() -> Any:
            with fabric.autocast():
                return self.module.training_step(batch, self.step)

        while self.step < self.steps:
            batch = self._batch()
            torch.manual_seed(step_seed(self.context.seed, self.step))
            self._finish_step(self.optimisation.update(self.step, compute_loss))
        self.module.trainer = self.module.fabric = None

    def _batch(self) -> tuple[Tensor, Tensor]:
        """Return the batch of the current step, as :meth:`Segmenter.module` describes it, on the device."""
        import torch

        device = self.context.device
        where = batch_positions(self.order, self.segmenter.batch_size, self.context.seed, self.step)
        images = torch.from_numpy(self.training.images[where]).to(device).permute(0, 3, 1, 2).float().div_(255)
        masks = torch.from_numpy(self.training.masks[where]).to(device)[:, None].float()
        return images, masks

    def _finish_step(self, loss: Tensor) -> None:
        """Take note of a step that is done and of its loss, a scalar: log, validate, save, report progress."""
        self.step += 1
        self.pending_losses.append(loss)
        if self.step % LOG_EVERY == 0 or self.step == self.steps:
            self._record("loss", float(self._losses().mean()))
            self.pending_losses.clear()
        if self.step in self.validate_after:
            self._losses()
            self._validate()
        if self.context.should_save() and self.step < self.steps:
            self.context.save_state(self.state())
        self.context.progress(self.step, self.steps)

    def _losses(self) -> Tensor:
        """Return the losses since the last log, after a look whether all are numbers.

        Not at every step, since the look makes a GPU wait; but before anything is kept.
        """
        import torch

        if not self.pending_losses:
            return torch.zeros(0)
        losses = torch.stack(self.pending_losses).float().cpu()
        bad = (~torch.isfinite(losses)).nonzero()
        if len(bad):
            step = self.step - len(losses) + 1 + int(bad[0])
            raise HarnessError(
                f"The training loss of {self.segmenter.label} became {float(losses[bad[0]])} at step {step} "
                f"of {self.steps}; lower its learning_rate or choose another loss."
            )
        return losses

    def _validate(self) -> None:
        if self.selection is None:
            if self.step == self.steps:
                self._keep()
            return
        masks = predict_masks(self.module, self.selection.images, self.context.device)
        score = float(intersection_over_union(confusion(masks, self.selection.masks), empty=1.0).mean())
        self._record("selection-iou", score)
        if self.best_score is None or score > self.best_score:
            self.best_score = score
            self._keep()

    def _keep(self) -> None:
        """Keep a copy of the weights in memory: the one checkpoint folder is made at the end, whatever comes first."""
        self.best_step = self.step
        self.best_weights = {name: tensor.detach().cpu().clone() for name, tensor in self.module.state_dict().items()}

    def _record(self, name: str, value: float) -> None:
        self.curve.append((self.step, name, value))
        self.context.log(self.step, **{name: value})

    def state(self) -> dict[str, Any]:
        """Return everything a resumed run needs: tensors, numbers, strings, lists and dicts of them."""
        return {
            "step": self.step,
            "module": self.module.state_dict(),
            "optimisation": self.optimisation.state(),
            "best_step": self.best_step,
            "best_score": self.best_score,
            "best_weights": self.best_weights,
            "pending_losses": self._losses(),
            "curve": [list(point) for point in self.curve],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take a run up where :meth:`state` left it."""
        self.module.load_state_dict(state["module"])
        self.optimisation.restore(state["optimisation"])
        self.step = state["step"]
        self.best_step, self.best_score = state["best_step"], state["best_score"]
        self.best_weights = state["best_weights"]
        self.pending_losses = list(state["pending_losses"].to(self.context.device))
        self.curve = [(step, name, value) for step, name, value in state["curve"]]

    def outcome(self) -> TrainOutcome:
        """Write the best weights and say how it went."""
        from safetensors.torch import save_file

        path = self.context.checkpoint_folder(self.best_step) / WEIGHTS_FILE
        save_file({name: tensor.contiguous() for name, tensor in self.best_weights.items()}, path)
        shown = self.steps * self.segmenter.batch_size
        curve = [CurvePoint(*point) for point in self.curve]
        return TrainOutcome(path, self.best_step, self.best_score, self.steps, shown, curve)


class _Trainer:
    """What a module may ask of Lightning's Trainer while it trains. What it logs by itself goes nowhere."""

    logger = None
    loggers = ()

    def __init__(self, run: _Run) -> None:
        self._run = run
        self.max_steps = self.estimated_stepping_batches = run.steps

    @property
    def global_step(self) -> int:
        return self._run.step

    @property
    def current_epoch(self) -> int:
        return self._run.step * self._run.segmenter.batch_size // len(self._run.order)

    def log_dict(self, metrics: Any) -> None: ...

"""The engine's training loop for segmenters: a data stream that is a function of (seed, step), selection, and resume.

Every step is reproducible on its own: the batch of step *t* depends on the seed and *t* only
(:func:`batch_positions`), and torch's global generators are seeded from the same two before it. So a run that was
killed and resumed is equal, bit for bit on a CPU, to one that was not.
"""

from __future__ import annotations

import logging
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import HarnessError, OutOfMemory
from harness.learning.memory import is_out_of_memory
from harness.learning.predict import predict_masks
from harness.metrics.segmentation.confusion import confusion, intersection_over_union

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule
    from torch import Tensor

    from harness.data.pairs import PairSet
    from harness.plugins.contract import FitContext, Segmenter

from harness.learning.batches import _INITIALISATION, _derive, batch_positions, step_seed, validation_steps

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
        OutOfMemory: the device had too little memory; names the batch.
    """
    if steps < 1 or len(order) == 0:
        raise HarnessError(
            f"Training {segmenter.label} needs at least one step and one image, "
            f"got {steps} steps and {len(order)} images; raise the budget or the training set."
        )
    import torch

    torch.manual_seed(_derive(context.seed, _INITIALISATION))
    module = segmenter.module(steps)
    run = _Run(segmenter, training, order, selection, steps, set(validation_steps(steps, validations)), context, module)
    state = context.restore_state()
    if state is not None:
        run.restore(state)
    if run.step < steps:
        try:
            _fit(run)
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
    saved_optimiser: dict[str, Any] | None = None

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches from the current step on, as :meth:`Segmenter.module` describes them, on the device."""
        import torch

        device, size = self.context.device, self.segmenter.batch_size
        for step in range(self.step, self.steps):
            where = batch_positions(self.order, size, self.context.seed, step)
            images = torch.from_numpy(self.training.images[where]).to(device).permute(0, 3, 1, 2).float().div_(255)
            masks = torch.from_numpy(self.training.masks[where]).to(device)[:, None].float()
            yield images, masks

    def finish_step(self, loss: Tensor, optimiser_state: Any) -> None:
        """Take note of a step that is done: log, validate, save, report progress.

        Args:
            loss: of the step, a scalar.
            optimiser_state: a function that returns the optimiser's and the schedulers' state.
        """
        self.step += 1
        self.pending_losses.append(loss.detach())
        if self.step % LOG_EVERY == 0 or self.step == self.steps:
            self._record("loss", float(self._losses().mean()))
            self.pending_losses.clear()
        if self.step in self.validate_after:
            self._losses()
            self._validate()
        if self.context.should_save() and self.step < self.steps:
            self.context.save_state(self.state(optimiser_state()))
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

    def state(self, optimiser_state: dict[str, Any]) -> dict[str, Any]:
        """Return everything a resumed run needs: tensors, numbers, strings, lists and dicts of them."""
        return {
            "step": self.step,
            "module": self.module.state_dict(),
            "optimiser": optimiser_state,
            "best_step": self.best_step,
            "best_score": self.best_score,
            "best_weights": self.best_weights,
            "pending_losses": self._losses(),
            "curve": [list(point) for point in self.curve],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take a run up where :meth:`state` left it; the optimiser's part waits for Lightning to make the optimiser."""
        self.module.load_state_dict(state["module"])
        self.step = state["step"]
        self.saved_optimiser = state["optimiser"]
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


def _fit(run: _Run) -> None:
    """Let Lightning do the steps that are left."""
    import pytorch_lightning as lightning
    import torch

    class Hooks(lightning.Callback):
        """Ties Lightning's loop to the run."""

        def on_train_start(self, trainer: lightning.Trainer, pl_module: LightningModule) -> None:
            if run.saved_optimiser is not None:
                _restore_optimisers(trainer, run.saved_optimiser, run.step)

        def on_train_batch_start(self, trainer: lightning.Trainer, *_: Any) -> None:
            torch.manual_seed(step_seed(run.context.seed, run.step))

        def on_train_batch_end(
            self, trainer: lightning.Trainer, pl_module: LightningModule, outputs: Any, *_: Any
        ) -> None:
            run.finish_step(outputs["loss"], lambda: _optimiser_state(trainer))

    cuda = run.context.device.type == "cuda"
    with _quiet(), _interruptible():
        if cuda:
            torch.set_float32_matmul_precision("high")
        trainer = lightning.Trainer(
            accelerator="gpu" if cuda else run.context.device.type,
            devices=[run.context.device.index or 0] if cuda else 1,
            precision="bf16-mixed" if cuda and torch.cuda.is_bf16_supported(including_emulation=False) else "32-true",
            max_steps=run.steps,
            # The whole run is one pass over its stream, so that the end of the stream ends it too.
            max_epochs=1,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[Hooks()],
        )
        trainer.fit(run.module.train(), train_dataloaders=_Stream(run))


class _Stream:
    """An iterable of batches for Lightning, without workers: it starts wherever the run is."""

    def __init__(self, run: _Run) -> None:
        self.run = run

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self.run.batches()


def _optimiser_state(trainer: Any) -> dict[str, Any]:
    return {
        "optimisers": [optimiser.state_dict() for optimiser in trainer.optimizers],
        "schedulers": [entry.scheduler.state_dict() for entry in trainer.lr_scheduler_configs],
    }


def _restore_optimisers(trainer: Any, state: dict[str, Any], step: int) -> None:
    for optimiser, saved in zip(trainer.optimizers, state["optimisers"], strict=True):
        optimiser.load_state_dict(saved)
    for entry, saved in zip(trainer.lr_scheduler_configs, state["schedulers"], strict=True):
        entry.scheduler.load_state_dict(saved)
    # Lightning counts steps itself, and modules may read that count as global_step.
    progress = trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step
    progress.total.ready = progress.total.completed = step


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Lightning's tips and warnings: the loop is ours, and they ask for what it already does otherwise."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"(pytorch_)?lightning.*")
        warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*")
        try:
            yield
        finally:
            for logger, level in zip(loggers, before, strict=True):
                logger.setLevel(level)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C be a KeyboardInterrupt: Lightning turns it into an exit, and leaves the signal ignored."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as end:
        if isinstance(end.__context__, KeyboardInterrupt):
            if signal.getsignal(signal.SIGINT) is not handler:
                signal.signal(signal.SIGINT, handler)
            raise KeyboardInterrupt from end
        raise

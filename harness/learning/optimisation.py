"""The optimiser and the schedules that a Lightning module asks for, and the steps that they take together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from harness.errors import PluginError

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule
    from torch import Tensor
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

#: Lightning's Trainer calls these while it trains; the harness does not.
_NOT_CALLED = (
    "prepare_data", "setup", "teardown", "configure_model", "configure_sharded_model", "configure_callbacks",
    "on_fit_start", "on_fit_end",
    "on_train_start", "on_train_end", "on_train_epoch_start", "on_train_epoch_end", "on_train_batch_start",
    "on_train_batch_end", "on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer",
    "on_before_zero_grad", "optimizer_zero_grad", "on_before_backward", "backward", "on_after_backward",
    "configure_gradient_clipping", "optimizer_step", "lr_scheduler_step",
)  # fmt: skip


class Optimisation:
    """The optimiser of a module with its schedules.

    ``configure_optimizers`` may return what Lightning takes for one optimiser: the optimiser, a list of it, lists of it
    and of schedulers, or a dict with ``optimizer`` and ``lr_scheduler``; a scheduler may stand in a dict with
    ``scheduler``, ``interval`` (``step``, or ``epoch``, the default) and ``frequency``. An epoch is a pass over the
    training images, whose last batch may belong to the next pass too.
    """

    def __init__(self, module: LightningModule, batch_size: int, images: int) -> None:
        """Ask a module, on its device, for its optimiser.

        Args:
            module: to train.
            batch_size: images a step.
            images: in one pass.

        Raises:
            PluginError: it asks for what is not done here.
        """
        _refuse_what_is_not_done(module)
        self.module, self.batch_size = module, batch_size
        self.optimiser, schedules = _configured(module)
        #: Schedulers, each with the number of images between two of its moves.
        self.schedules = [_schedule(one, self.optimiser, {"step": batch_size, "epoch": images}) for one in schedules]

    def update(self, step: int, compute_loss: Callable[[], Any]) -> Tensor:
        """Take a step and move the learning rates; return the loss, without gradient.

        Args:
            step: from 0.
            compute_loss: returns what ``training_step`` does.

        Raises:
            PluginError: that is no loss.
        """
        loss: Tensor

        def closure() -> Tensor:
            nonlocal loss
            loss = self._loss(compute_loss())
            self.optimiser.zero_grad()
            loss.backward()
            self.module.on_before_optimizer_step(self.optimiser)
            return loss

        self.optimiser.step(closure)  # type: ignore[arg-type]
        shown_before, shown = step * self.batch_size, (step + 1) * self.batch_size
        for scheduler, interval in self.schedules:
            for _ in range(shown // interval - shown_before // interval):
                scheduler.step()
        return loss.detach()

    def _loss(self, returned: Any) -> Tensor:
        import torch

        loss = returned.get("loss") if isinstance(returned, Mapping) else returned
        if not isinstance(loss, torch.Tensor):
            raise PluginError(
                f"training_step of {type(self.module).__name__} returned {type(returned).__name__}; it must return the "
                "loss, a tensor of one number."
            )
        return loss

    def state(self) -> dict[str, Any]:
        """Return everything that :meth:`restore` needs."""
        schedules = [scheduler.state_dict() for scheduler, _ in self.schedules]
        return {"optimiser": self.optimiser.state_dict(), "schedules": schedules}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up a state."""
        self.optimiser.load_state_dict(state["optimiser"])
        for (scheduler, _), saved in zip(self.schedules, state["schedules"], strict=True):
            scheduler.load_state_dict(saved)


def _refuse_what_is_not_done(module: LightningModule) -> None:
    from pytorch_lightning import LightningModule

    kind = type(module)
    if not isinstance(module, LightningModule):
        raise PluginError(f"A segmenter's module must be a LightningModule; this one is a {kind.__name__}.")
    if not module.automatic_optimization:
        raise PluginError(
            f"{kind.__name__} sets automatic_optimization to False, but the harness takes the optimiser's steps; leave "
            "it True and return the loss from training_step."
        )
    own = [name for name in _NOT_CALLED if getattr(kind, name) is not getattr(LightningModule, name)]
    if own:
        raise PluginError(
            f"{kind.__name__} overrides {own[0]}, which the harness does not call; do it in training_step, "
            "configure_optimizers or on_before_optimizer_step."
        )


def _configured(module: LightningModule) -> tuple[Optimizer, list[Any]]:
    """Return the optimiser that a module asks for, and its schedulers as it gives them."""
    from torch.optim import Optimizer

    given: Any = module.configure_optimizers()
    if isinstance(given, list | tuple) and len(given) == 1:
        given = given[0]
    match given:
        case Optimizer():
            return given, []
        case {"optimizer": Optimizer() as optimiser, **others}:
            return optimiser, [others["lr_scheduler"]] if "lr_scheduler" in others else []
        case [[Optimizer() as optimiser], [*schedules]]:
            return optimiser, schedules
    raise PluginError(
        f"configure_optimizers of {type(module).__name__} must return one optimiser of torch, or one with its "
        f"schedulers in the forms that Lightning takes, not {given!r}."
    )


def _schedule(given: Any, optimiser: Optimizer, intervals: dict[str, int]) -> tuple[LRScheduler, int]:
    """Return a scheduler and the number of images between two of its moves."""
    from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

    options = given if isinstance(given, Mapping) else {"scheduler": given}
    scheduler, interval = options.get("scheduler"), options.get("interval", "epoch")
    if (
        not isinstance(scheduler, LRScheduler)
        or isinstance(scheduler, ReduceLROnPlateau)
        or scheduler.optimizer is not optimiser
        or interval not in intervals
    ):
        raise PluginError(
            f"configure_optimizers returned the scheduler {given!r}; it must be one of torch's for its optimiser, "
            "moved at each 'step' or 'epoch' (interval), not by a metric."
        )
    return scheduler, intervals[interval] * options.get("frequency", 1)

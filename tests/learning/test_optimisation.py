"""What ``configure_optimizers`` may return, when learning rates move, and what is refused."""

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_lightning import LightningModule
from torch.optim.lr_scheduler import ExponentialLR, LambdaLR, ReduceLROnPlateau

from harness.errors import PluginError
from harness.learning.optimisation import Optimisation


class Module(LightningModule):
    """One number, which a step takes to ``number - rate``, and an optimiser as the test says."""

    def __init__(self, configured=lambda optimiser: optimiser):
        super().__init__()
        self.number = torch.nn.Parameter(torch.zeros(1))
        self.configured = configured

    def training_step(self, batch, batch_index):
        return self.number.sum()

    def configure_optimizers(self):
        return self.configured(torch.optim.SGD(self.parameters(), lr=1.0))


def halving(optimiser):
    return ExponentialLR(optimiser, 0.5)


def rates(module, steps, batch_size=2, images=6):
    """The learning rate that each step is taken with, seen in how far the number moves."""
    optimisation = Optimisation(module, batch_size, images)
    seen = []
    for step in range(steps):
        before = float(module.number)
        loss = optimisation.update(step, lambda step=step: module.training_step(None, step))
        assert loss == before
        assert not loss.requires_grad
        seen.append(before - float(module.number))
    return seen


FORMS = {
    "optimiser": (lambda o: o, [1, 1, 1, 1, 1, 1, 1]),
    "list": (lambda o: [o], [1, 1, 1, 1, 1, 1, 1]),
    "tuple": (lambda o: (o,), [1, 1, 1, 1, 1, 1, 1]),
    "dict": (lambda o: {"optimizer": o}, [1, 1, 1, 1, 1, 1, 1]),
    # By the epoch, as Lightning does when nothing is said: six images in batches of two are three steps.
    "lists": (lambda o: ([o], [halving(o)]), [1, 1, 1, 0.5, 0.5, 0.5, 0.25]),
    "list of lists": (lambda o: [[o], [halving(o)]], [1, 1, 1, 0.5, 0.5, 0.5, 0.25]),
    "list of dicts": (lambda o: [{"optimizer": o, "lr_scheduler": halving(o)}], [1, 1, 1, 0.5, 0.5, 0.5, 0.25]),
    "epoch": (
        lambda o: {"optimizer": o, "lr_scheduler": {"scheduler": halving(o), "interval": "epoch", "frequency": 2}},
        [1, 1, 1, 1, 1, 1, 0.5],
    ),
    "step": (
        lambda o: {"optimizer": o, "lr_scheduler": {"scheduler": halving(o), "interval": "step", "name": "halving"}},
        [1, 0.5, 0.25, 0.125, 0.0625, 0.03125, 0.015625],
    ),
    "every other step": (
        lambda o: ([o], [{"scheduler": halving(o), "interval": "step", "frequency": 2}]),
        [1, 1, 0.5, 0.5, 0.25, 0.25, 0.125],
    ),
    "two": (
        lambda o: ([o], [{"scheduler": halving(o), "interval": "step"}, halving(o)]),
        [1, 0.5, 0.25, 0.0625, 0.03125, 0.015625, 0.00390625],
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_what_lightning_takes_for_one_optimiser(form):
    configured, expected = FORMS[form]
    assert rates(Module(configured), 7) == pytest.approx(expected)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(1, 40), st.integers(1, 3), st.integers(1, 30))
def test_an_epoch_is_a_pass_over_the_images(batch_size, images, frequency, steps):
    """After n images the rate has moved as often as whole passes are in n, however batches and passes overlap."""

    def configured(optimiser):
        counted = LambdaLR(optimiser, lambda moves: 1.0 + moves)
        return [optimiser], [{"scheduler": counted, "frequency": frequency}]

    seen = rates(Module(configured), steps, batch_size, images)
    # Differences of a growing number, so to a tolerance.
    assert seen == pytest.approx([1.0 + step * batch_size // (images * frequency) for step in range(steps)], rel=1e-3)


def test_a_state_is_taken_up():
    def configured(optimiser):
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": halving(optimiser), "interval": "step"}}

    whole, cut, resumed = (Module(configured) for _ in range(3))
    rates(whole, 6)
    first = Optimisation(cut, 2, 6)
    for step in range(4):
        first.update(step, lambda: cut.number.sum())
    resumed.load_state_dict(cut.state_dict())
    second = Optimisation(resumed, 2, 6)
    second.restore(first.state())
    for step in range(4, 6):
        second.update(step, lambda: resumed.number.sum())
    assert torch.equal(resumed.number, whole.number)


def test_gradients_may_be_changed_before_the_step():
    class Clipped(Module):
        def on_before_optimizer_step(self, optimizer):
            assert isinstance(optimizer, torch.optim.SGD)
            torch.nn.utils.clip_grad_norm_(self.parameters(), 0.25)

    assert rates(Clipped(), 3) == pytest.approx([0.25] * 3, rel=1e-4)


def test_an_optimiser_may_compute_the_loss_several_times():
    class Quadratic(Module):
        def configure_optimizers(self):
            return torch.optim.LBFGS(self.parameters(), max_iter=20)

    module = Quadratic()
    computed = []

    def loss():
        computed.append(((module.number - 3) ** 2).sum())
        return computed[-1]

    Optimisation(module, 1, 1).update(0, loss)
    assert len(computed) > 1
    assert module.number.item() == pytest.approx(3)


def other_optimisers_schedule(optimiser):
    return [optimiser], [halving(torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0))]


REFUSED = {
    "nothing": (lambda o: None, "must return one optimiser of torch"),
    "two": (lambda o: [o, o], "must return one optimiser of torch"),
    "two with schedules": (lambda o: ([o, o], [halving(o)]), "must return one optimiser of torch"),
    "two dicts": (lambda o: [{"optimizer": o}, {"optimizer": o}], "must return one optimiser of torch"),
    "no optimiser": (lambda o: {"lr_scheduler": halving(o)}, "must return one optimiser of torch"),
    "by a metric": (lambda o: ([o], [ReduceLROnPlateau(o)]), "not by a metric"),
    "no scheduler": (lambda o: ([o], [{"interval": "step"}]), "it must be one of torch's"),
    "another interval": (
        lambda o: ([o], [{"scheduler": halving(o), "interval": "batch"}]),
        "moved at each 'step' or 'epoch'",
    ),
    "another optimiser's": (other_optimisers_schedule, "one of torch's for its optimiser"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused(what):
    configured, words = REFUSED[what]
    with pytest.raises(PluginError, match=re.escape(words)):
        Optimisation(Module(configured), 2, 6)


def test_hooks_that_are_not_called_are_refused():
    class Averaging(Module):
        def on_train_batch_end(self, outputs, batch, batch_index): ...

    with pytest.raises(PluginError, match="Averaging overrides on_train_batch_end, which the harness does not call"):
        Optimisation(Averaging(), 2, 6)


def test_what_lightning_calls_outside_of_training_is_no_matter():
    class Complete(Module):
        def validation_step(self, batch, batch_index): ...
        def on_validation_epoch_end(self): ...
        def on_save_checkpoint(self, checkpoint): ...
        def train_dataloader(self): ...

    assert rates(Complete(), 2) == [1, 1]


@pytest.mark.parametrize(
    ("module", "words"),
    [(torch.nn.Linear(1, 1), "must be a LightningModule; this one is a Linear"), (Module(), "returned NoneType")],
)
def test_other_modules_and_losses_are_refused(module, words):
    with pytest.raises(PluginError, match=words):
        Optimisation(module, 2, 6).update(0, lambda: None)


def test_every_hook_of_lightnings_training_is_called_or_refused():
    """So that no hook of a later Lightning is left out in silence."""
    from pytorch_lightning.core.hooks import DataHooks, ModelHooks

    from harness.learning.optimisation import _NOT_CALLED

    elsewhere = re.compile("val|test|predict|dataloader")
    hooks = {name for kind in (ModelHooks, DataHooks) for name in vars(kind) if not name.startswith("_")}
    training = {name for name in hooks if not elsewhere.search(name)}
    assert training - set(_NOT_CALLED) == {"on_before_optimizer_step"}

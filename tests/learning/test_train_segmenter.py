"""The training loop: reproducible steps, selection, resume, and what it reports."""

import io
import signal

import numpy as np
import pytest
import torch
from pytorch_lightning import LightningModule
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from harness.data.pairs import PairSet
from harness.errors import HarnessError, OutOfMemory, PluginError
from harness.learning import precision
from harness.learning.batches import batch_positions, initialisation_seed, step_seed
from harness.learning.predict import predict
from harness.learning.train_segmenter import train_segmenter
from harness.plugins.contract import Segmenter

SIZE = 24


def discs(count, seed):
    """Bright discs on a textured background."""
    rng = np.random.default_rng(seed)
    images = rng.integers(40, 110, (count, SIZE, SIZE, 3)).astype(np.uint8)
    y, x = np.mgrid[:SIZE, :SIZE]
    masks = np.zeros((count, SIZE, SIZE), np.uint8)
    for i in range(count):
        radius = rng.uniform(4, 8)
        cy, cx = rng.uniform(radius, SIZE - radius, 2)
        masks[i] = (y - cy) ** 2 + (x - cx) ** 2 < radius**2
    images[masks == 1] += 90
    return PairSet.real(images, masks, [f"discs-{seed}/{i}" for i in range(count)])


class TinyModule(LightningModule):
    """A few convolutions with everything that resume must get right: batch norm, dropout, momentum, a schedule."""

    def __init__(self, rate=2e-2):
        super().__init__()
        self.rate = rate
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Dropout2d(0.1),
            nn.Conv2d(8, 1, 3, padding=1),
        )
        self.steps_seen = []
        self.batches = []

    def forward(self, images):
        return self.body(images)

    def training_step(self, batch, batch_index):
        images, masks = batch
        self.steps_seen.append(self.global_step)
        self.batches.append(images.clone())
        noisy = images + 0.02 * torch.randn_like(images)
        return functional.binary_cross_entropy_with_logits(self(noisy), masks)

    def configure_optimizers(self):
        optimiser = torch.optim.Adam(self.parameters(), lr=self.rate)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 0.97**step)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class TinySegmenter(Segmenter):
    name = "tiny"
    label = "tiny"
    batch_size = 4

    def __init__(self, rate=2e-2):
        super().__init__()
        self.rate = rate
        self.built = []

    def module(self, steps):
        self.built.append(TinyModule(self.rate))
        return self.built[-1]


def made_of(kind):
    """A segmenter that builds modules of a class."""

    class Made(TinySegmenter):
        def module(self, steps):
            self.built.append(kind())
            return self.built[-1]

    return Made()


class Killed(Exception):
    pass


class FolderContext:
    """A fit context over a folder; state goes through bytes, as in a new process. Can be killed at a step."""

    def __init__(self, folder, seed=0, save_every=0, kill_at=None, device="cpu"):
        self.folder, self.seed, self.save_every, self.kill_at = folder, seed, save_every, kill_at
        self.device = torch.device(device)
        self.logged, self.asked, self.done = [], 0, []

    def checkpoint_folder(self, step):
        folder = self.folder / str(step)
        folder.mkdir(parents=True)
        return folder

    def log(self, step, **values):
        self.logged += [(step, name, value) for name, value in values.items()]

    def log_images(self, name, step, images): ...

    def note(self, sentence): ...

    def progress(self, done, total, unit="steps"):
        self.done.append((done, total))
        if done == self.kill_at:
            raise Killed

    def should_save(self):
        self.asked += 1
        return bool(self.save_every) and self.asked % self.save_every == 0

    def save_state(self, state):
        torch.save(state, self.folder / "state.pt")

    def restore_state(self):
        path = self.folder / "state.pt"
        return torch.load(io.BytesIO(path.read_bytes()), weights_only=True) if path.exists() else None


def train(folder, segmenter=None, *, steps=12, validations=3, order=None, selection=True, **context):
    folder.mkdir(exist_ok=True)
    segmenter = segmenter or TinySegmenter()
    training = discs(10, 1)
    place = FolderContext(folder, **context)
    outcome = train_segmenter(
        segmenter,
        training,
        np.arange(10) if order is None else np.asarray(order),
        discs(4, 2) if selection else None,
        steps=steps,
        validations=validations,
        context=place,
    )
    return outcome, place, segmenter


def assert_same_weights(a, b):
    first, second = load_file(a.weights), load_file(b.weights)
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


def test_learns_discs_and_scores_what_it_selected(tmp_path):
    outcome, place, segmenter = train(tmp_path, steps=60)
    assert outcome.best_score > 0.8
    assert (outcome.steps, outcome.images_seen) == (60, 240)
    assert place.done == [(i + 1, 60) for i in range(60)]
    selection = discs(4, 2)
    predicted = predict(segmenter, outcome.weights, selection.images, torch.device("cpu"))
    both, either = ((predicted & selection.masks).sum((1, 2)), (predicted | selection.masks).sum((1, 2)))
    assert outcome.best_score == pytest.approx((both / either).mean())


def test_it_is_the_plain_loop_of_torch(tmp_path):
    """The same steps, written out without Lightning or Fabric, end at the same numbers, bit for bit."""
    outcome, place, _ = train(tmp_path, steps=30, selection=False, seed=5)
    training, order = discs(10, 1), np.arange(10)
    torch.manual_seed(initialisation_seed(5))
    module = TinyModule()
    optimiser = torch.optim.Adam(module.parameters(), lr=2e-2)
    losses = []
    for step in range(30):
        where = batch_positions(order, 4, 5, step)
        images = torch.tensor(training.images[where]).permute(0, 3, 1, 2).float() / 255
        masks = torch.tensor(training.masks[where])[:, None].float()
        torch.manual_seed(step_seed(5, step))
        for group in optimiser.param_groups:
            group["lr"] = 2e-2 * 0.97**step
        loss = functional.binary_cross_entropy_with_logits(module.body(images + 0.02 * torch.randn_like(images)), masks)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.detach())
    weights = load_file(outcome.weights)
    assert weights.keys() == module.state_dict().keys()
    for name, tensor in module.state_dict().items():
        assert torch.equal(weights[name], tensor), name
    logged = [value for _, name, value in place.logged if name == "loss"]
    assert logged == [float(torch.stack(losses[:20]).mean()), float(torch.stack(losses[20:]).mean())]


def test_same_seed_is_bit_equal_and_another_seed_is_not(tmp_path):
    first, *_ = train(tmp_path / "a")
    again, *_ = train(tmp_path / "b")
    other, *_ = train(tmp_path / "c", seed=1)
    assert_same_weights(first, again)
    assert first.curve == again.curve
    with pytest.raises(AssertionError):
        assert_same_weights(first, other)


def test_randomness_outside_changes_nothing(tmp_path):
    first, *_ = train(tmp_path / "a")
    torch.manual_seed(99)
    torch.rand(7)
    second, *_ = train(tmp_path / "b")
    assert_same_weights(first, second)


@pytest.mark.parametrize(("save_every", "kill_at"), [(5, 7), (1, 11), (4, 4), (0, 6)])
def test_killed_and_resumed_is_bit_equal(tmp_path, save_every, kill_at):
    # More than one log interval, a best step before the kill or after it.
    whole, whole_place, _ = train(tmp_path / "whole", steps=24, validations=6)
    with pytest.raises(Killed):
        train(tmp_path / "cut", steps=24, validations=6, save_every=save_every, kill_at=kill_at)
    resumed, place, segmenter = train(tmp_path / "cut", steps=24, validations=6, save_every=save_every)
    assert_same_weights(whole, resumed)
    assert (whole.best_step, whole.best_score, whole.curve) == (resumed.best_step, resumed.best_score, resumed.curve)
    saved_at = kill_at // save_every * save_every if save_every else 0
    assert place.done[0] == (saved_at + 1, 24)
    assert segmenter.built[-1].steps_seen == list(range(saved_at, 24))
    assert place.logged == [entry for entry in whole_place.logged if entry[0] > saved_at]


def test_saving_state_changes_nothing(tmp_path):
    plain, *_ = train(tmp_path / "plain")
    saving, *_ = train(tmp_path / "saving", save_every=1)
    assert_same_weights(plain, saving)
    assert plain.curve == saving.curve


def test_best_state_is_kept(tmp_path):
    outcome, place, _ = train(tmp_path, steps=40, validations=8)
    scores = [(step, value) for step, name, value in place.logged if name == "selection-iou"]
    assert [step for step, _ in scores] == [5, 10, 15, 20, 25, 30, 35, 40]
    best = max(value for _, value in scores)
    assert (outcome.best_step, outcome.best_score) == (next(s for s, v in scores if v == best), best)
    assert outcome.weights.parent == tmp_path / str(outcome.best_step)


class ConstantModule(TinyModule):
    """Never predicts a polyp, so that all scores are equal; only its batch norm moves."""

    def forward(self, images):
        return super().forward(images) * 0 - 1


def test_ties_go_to_the_earliest(tmp_path):
    outcome, *_ = train(tmp_path, made_of(ConstantModule), steps=9, validations=3)
    assert (outcome.best_step, outcome.best_score) == (3, 0.0)


def test_a_best_state_from_before_the_kill_is_kept(tmp_path):
    whole, *_ = train(tmp_path / "whole", made_of(ConstantModule), steps=9, validations=3)
    with pytest.raises(Killed):
        train(tmp_path / "cut", made_of(ConstantModule), steps=9, validations=3, save_every=1, kill_at=7)
    resumed, *_ = train(tmp_path / "cut", made_of(ConstantModule), steps=9, validations=3)
    assert (resumed.best_step, resumed.best_score) == (3, 0.0)
    assert_same_weights(whole, resumed)


def test_without_selection_the_last_state_is_kept(tmp_path):
    outcome, _, segmenter = train(tmp_path, selection=False)
    assert (outcome.best_step, outcome.best_score) == (12, None)
    last = segmenter.built[-1].state_dict()
    assert all(torch.equal(last[name], tensor) for name, tensor in load_file(outcome.weights).items())


def test_batches_hold_what_order_says(tmp_path):
    _, _, segmenter = train(tmp_path, order=[3, 3, 3, 3], steps=2)
    expected = torch.from_numpy(discs(10, 1).images[3]).permute(2, 0, 1) / 255
    for batch in segmenter.built[-1].batches:
        assert torch.allclose(batch, expected.expand(4, 3, SIZE, SIZE))


def test_validation_leaves_batch_norm_learning(tmp_path):
    often, *_ = train(tmp_path / "often", validations=12, selection=True)
    seldom, *_ = train(tmp_path / "seldom", validations=1, selection=True)
    if often.best_step == seldom.best_step:
        assert_same_weights(often, seldom)
    last = [c.value for c in often.curve if c.name == "selection-iou"][-1]
    assert last == [c.value for c in seldom.curve if c.name == "selection-iou"][-1]


def test_loss_is_logged_as_the_mean_since_the_last_log(tmp_path):
    _, place, _ = train(tmp_path, steps=45)
    assert [step for step, name, _ in place.logged if name == "loss"] == [20, 40, 45]


def test_a_loss_that_is_not_a_number_stops_with_a_sentence(tmp_path):
    class Broken(TinyModule):
        def training_step(self, batch, batch_index):
            loss = super().training_step(batch, batch_index)
            return loss * float("nan") if self.global_step == 6 else loss

    with pytest.raises(HarnessError, match=r"loss of tiny became nan at step 7 of 12; lower its learning_rate"):
        train(tmp_path / "a", made_of(Broken), validations=1)
    # A broken state is never saved.
    with pytest.raises(HarnessError, match="at step 7 of 12"):
        train(tmp_path / "b", made_of(Broken), save_every=1)
    assert torch.load(tmp_path / "b" / "state.pt", weights_only=True)["step"] == 6


def test_out_of_memory_names_the_batch(tmp_path):
    class Hungry(TinyModule):
        def training_step(self, batch, batch_index):
            return torch.empty(2**50).sum()

    with pytest.raises(OutOfMemory, match="a batch of 4 images of 24x24 pixels with tiny"):
        train(tmp_path, made_of(Hungry))


def test_nothing_to_train_on_is_refused(tmp_path):
    with pytest.raises(HarnessError, match="0 images"):
        train(tmp_path, order=np.zeros(0, np.intp))


class InPrecision(TinyModule):
    """Says in what its steps are computed."""

    def training_step(self, batch, batch_index):
        self.steps_seen.append(torch.is_autocast_enabled(batch[0].device.type))
        return super().training_step(batch, batch_index)


def test_a_cpu_computes_in_float32_whatever_its_instructions(tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "computes_in_bfloat16", lambda device: True)
    segmenter = made_of(InPrecision)
    train(tmp_path, segmenter, steps=2)
    assert segmenter.built[-1].steps_seen[::2] == [False, False]


@pytest.mark.gpu
def test_on_a_gpu_a_step_is_computed_in_bfloat16_and_a_killed_run_resumes(tmp_path):
    whole, _, segmenter = train(tmp_path / "whole", made_of(InPrecision), steps=24, device="cuda")
    assert set(segmenter.built[-1].steps_seen[::2]) == {torch.cuda.is_bf16_supported(including_emulation=False)}
    with pytest.raises(Killed):
        train(tmp_path / "cut", made_of(InPrecision), steps=24, save_every=5, kill_at=17, device="cuda")
    resumed, place, _ = train(tmp_path / "cut", made_of(InPrecision), steps=24, device="cuda")
    assert place.done[0] == (16, 24)
    first, second = load_file(whole.weights), load_file(resumed.weights)
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, atol=1e-2, rtol=1e-2)


def test_signals_are_left_alone(tmp_path):
    """Ctrl-C is a KeyboardInterrupt, and SIGTERM ends the process at once, as in a fit; saved states are there."""
    during = []

    class Interrupted(TinyModule):
        def training_step(self, batch, batch_index):
            during.extend(signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM))
            raise KeyboardInterrupt

    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, made_of(Interrupted))
    assert during == before
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_module_may_ask_lightning_how_far_it_is_and_log(tmp_path, capfd):
    class Asking(TinyModule):
        def training_step(self, batch, batch_index):
            loss = super().training_step(batch, batch_index)
            self.log("loss", loss, prog_bar=True)
            self.log_dict({"twice": 2 * loss.detach(), "step": 1.0})
            asked.append((batch_index, self.global_step, self.current_epoch, self.logger))
            return {"loss": loss}

        def configure_optimizers(self):
            assert self.trainer.max_steps == self.trainer.estimated_stepping_batches == 12
            return super().configure_optimizers()

    asked = []
    outcome, place, _ = train(tmp_path / "asking", made_of(Asking))
    plain, plain_place, _ = train(tmp_path / "plain")
    assert_same_weights(outcome, plain)
    assert place.logged == plain_place.logged
    # Ten images in batches of four: a pass ends in the third step, and another one with the fifth.
    assert asked == [(step, step, step * 4 // 10, None) for step in range(12)]
    assert capfd.readouterr() == ("", "")


def test_a_module_that_asks_for_more_is_told_what_there_is_not(tmp_path):
    class Asking(TinyModule):
        def training_step(self, batch, batch_index):
            return self.trainer.datamodule

    with pytest.raises(AttributeError, match=r"tried to access `self\.trainer\.datamodule`"):
        train(tmp_path, made_of(Asking))


def test_a_refused_module_stops_with_a_sentence(tmp_path):
    class Manual(TinyModule):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

    with pytest.raises(PluginError, match="Manual sets automatic_optimization to False"):
        train(tmp_path, made_of(Manual))


def test_training_says_nothing(tmp_path, capfd, recwarn):
    train(tmp_path)
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list

"""The folder of a fit: what survives a kill, what is dropped, and what a fit may not do."""

import numpy as np
import pytest
import torch

from harness.conformance import drawn_pairs
from harness.errors import PluginError
from harness.learning.work_folder import WorkFolder, run_fit
from harness.plugins.contract import Checkpoint, Generator


class Walk(Generator):
    """A random walk of one number over six steps, with a checkpoint at every third."""

    name = "walk"

    def fit(self, pairs, context):
        state = context.restore_state() or {"step": 0, "value": 0.0}
        while state["step"] < 6:
            state["value"] += float(np.random.default_rng((context.seed, state["step"])).integers(1, 1000))
            state["step"] += 1
            context.log(state["step"], value=state["value"])
            if state["step"] % 3 == 0:
                folder = context.checkpoint_folder(state["step"])
                (folder / "value.txt").write_text(repr(state["value"]))
                yield Checkpoint(state["step"], folder)
            if context.should_save():
                context.save_state(dict(state))

    def sample(self, checkpoint, seeds, context, masks=None):
        raise NotImplementedError


def context(folder, **options):
    return WorkFolder(folder, torch.device("cpu"), 5, **options)


def test_state_survives_and_later_metrics_are_dropped(tmp_path):
    first = context(tmp_path)
    first.log(1, training_loss=0.5)
    first.save_state({"step": 1, "weights": {"a": torch.arange(3)}, "names": ["x", 2, 3.5]})
    first.log(2, training_loss=0.25)
    first.flush()
    second = context(tmp_path)
    state = second.restore_state()
    assert state["weights"]["a"].tolist() == [0, 1, 2]
    assert state["names"] == ["x", 2, 3.5]
    second.log(2, training_loss=0.125)
    rows = [(row["name"], row["step"], row["value"]) for row in second.metrics()]
    assert rows == [("training-loss", 1, 0.5), ("training-loss", 2, 0.125)]


def test_a_folder_without_state_starts_afresh(tmp_path):
    first = context(tmp_path)
    first.log(1, loss=0.5)
    first.note("Random weights.")
    first.flush()
    (first.checkpoint_folder(1) / "half.bin").write_text("half")
    second = context(tmp_path)
    assert second.restore_state() is None
    assert second.metrics() == []
    assert second.notes() == []
    assert not (tmp_path / "checkpoints" / "1").exists()


def test_a_save_that_fails_keeps_the_last_state(tmp_path):
    kept = context(tmp_path)
    kept.save_state({"step": 1})
    with pytest.raises(Exception, match=r"pickle|local"):
        kept.save_state({"step": 2, "function": lambda: None})
    assert context(tmp_path).restore_state() == {"step": 1}


def test_a_state_is_never_unpickled(tmp_path):
    class Surprise:
        def __reduce__(self):
            return (print, ("executed",))

    torch.save({"state": Surprise(), "metrics_bytes": 0}, tmp_path / "state.pt")
    with pytest.raises(Exception, match=r"[Uu]npickl|weights_only"):
        context(tmp_path).restore_state()


def test_should_save_follows_the_clock(tmp_path):
    assert context(tmp_path, save_every_s=0).should_save()
    assert not context(tmp_path, save_every_s=1e6).should_save()


def test_progress_is_limited_and_its_end_is_told(tmp_path):
    told = []
    watched = context(tmp_path, on_progress=lambda *row: told.append(row), progress_every_s=1e6)
    for step in range(1, 11):
        watched.progress(step, 10)
    assert told == [(1, 10, "steps"), (10, 10, "steps")]


def test_checkpoint_folder_replaces_a_half_written_one(tmp_path):
    watched = context(tmp_path)
    (watched.checkpoint_folder(3) / "half.bin").write_text("half")
    assert list(watched.checkpoint_folder(3).iterdir()) == []


def test_notes_are_said_once_and_images_are_grids(tmp_path):
    from PIL import Image

    watched = context(tmp_path)
    for _ in range(2):
        watched.note("Random weights.")
    assert watched.notes() == ["Random weights."]
    watched.log_images("samples", 7, np.full((5, 8, 6, 3), 9, np.uint8))
    grid = np.asarray(Image.open(tmp_path / "images" / "samples" / "7.png"))
    assert grid.shape == (2 * 10 + 2, 3 * 8 + 2, 3)
    assert np.count_nonzero(grid[..., 0] == 9) == 5 * 8 * 6


def test_run_fit_keeps_checkpoints_of_before_the_kill(tmp_path):
    class Kill(BaseException):
        pass

    class Killing(WorkFolder):
        def should_save(self):
            done = len(self.metrics())
            if done == 5:
                raise Kill
            return done == 4

    with pytest.raises(Kill):
        run_fit(Walk(), drawn_pairs(2), Killing(tmp_path, torch.device("cpu"), 5))
    resumed = run_fit(Walk(), drawn_pairs(2), context(tmp_path))
    whole = run_fit(Walk(), drawn_pairs(2), context(tmp_path / "whole"))
    assert [c.step for c in resumed] == [c.step for c in whole] == [3, 6]
    values = [[(c.folder / "value.txt").read_text() for c in fit] for fit in (resumed, whole)]
    assert values[0] == values[1]


def test_run_fit_refuses_a_fit_without_checkpoints(tmp_path):
    class Silent(Walk):
        """Yields nothing."""

        def fit(self, pairs, context):
            yield from ()

    with pytest.raises(PluginError, match="yielded no checkpoint"):
        run_fit(Silent.create(), drawn_pairs(2), context(tmp_path))


def yielding(*checkpoints):
    """A generator whose fit yields these: a step, a folder or None for the context's, and what was seen."""

    class Yielding(Walk):
        def fit(self, pairs, context):
            for step, folder, seen in checkpoints:
                yield Checkpoint(step, folder or context.checkpoint_folder(step), seen)

    return Yielding()


def test_run_fit_refuses_checkpoints_that_cannot_be(tmp_path):
    pairs = drawn_pairs(2)
    with pytest.raises(PluginError, match="yielded checkpoint 2 after 2; the steps of one fit must increase"):
        run_fit(yielding((2, None, None), (2, None, None)), pairs, context(tmp_path / "steps"))
    with pytest.raises(PluginError, match=r"put checkpoint 1 into .*; use context\.checkpoint_folder\(1\)"):
        run_fit(yielding((1, tmp_path, None)), pairs, context(tmp_path / "place"))
    with pytest.raises(PluginError, match="has seen 'stranger/1', which the fit was not given"):
        run_fit(yielding((1, None, frozenset({"stranger/1"}))), pairs, context(tmp_path / "seen"))


def test_seconds_go_on_after_a_kill_and_leave_other_work_out(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("harness.learning.work_folder.time.monotonic", lambda: now[0])
    first = context(tmp_path)
    now[0] += 8
    first.spent_elsewhere(3)
    first.save_state({})
    now[0] += 50  # is lost with the process
    second = context(tmp_path)
    second.restore_state()
    now[0] += 2
    assert second.seconds() == 7

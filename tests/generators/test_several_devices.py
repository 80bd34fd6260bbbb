"""Trainings on several devices: the same result as on one, and no process that outlives another's end.

Two processes on the CPU stand for two GPUs: all that differs is the backend through which they share gradients.
"""

from __future__ import annotations

import multiprocessing
import pickle
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from generators.first_stage import reconstruction
from generators.mask_ddpm import MaskDDPM
from generators.mask_ldm import MaskLDM
from generators.several_devices import SeveralDevices, _cause, _Failure
from harness.conformance import drawn_pairs
from harness.errors import HarnessError, OutOfMemory
from harness.learning.work_folder import WorkFolder, run_fit

CPU = torch.device("cpu")
PAIRS = drawn_pairs(6, 16)
SMALL: dict[str, Any] = {
    "network": "tiny",
    "steps": 6,
    "batch_size": 5,
    "checkpoints": (6,),
    "grids": 0,
    "timesteps": 2,
    "sampling_steps": 2,
    "attention": (8,),
    "precision": "float32",
}


def fit(plugin: Any, folder: Path, opened: WorkFolder | None = None, **values: Any) -> Any:
    opened = opened or WorkFolder(folder, CPU, 1)
    checkpoints = run_fit(plugin.create(**{**SMALL, **values}), PAIRS, opened)
    logged = {(r["name"], r["step"]): r["value"] for r in opened.metrics() if "images-per-second" not in r["name"]}
    return load_file(checkpoints[-1].folder / "denoiser.safetensors"), logged


def children() -> list[psutil.Process]:
    """Return the processes that serve trainings of this one."""
    return [rank for server in psutil.Process().children() for rank in server.children()]


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("generators.diffusion.generator._GRID_STEPS", 1)
    monkeypatch.setattr(reconstruction, "find", lambda name: None)


def assert_alike(one: Any, other: Any) -> None:
    """Compare weights and what was logged, but for rounding."""
    assert one[0].keys() == other[0].keys()
    for name, tensor in one[0].items():
        torch.testing.assert_close(other[0][name], tensor, atol=2e-5, rtol=1e-3)
    assert one[1].keys() == other[1].keys()
    for name, value in one[1].items():
        if name[0] not in ("mask-area", "empty-masks"):  # of masks, one pixel of which may turn
            assert other[1][name] == pytest.approx(value, rel=1e-3, abs=1e-5), name


# the result


def test_two_devices_make_what_one_makes(tmp_path: Path) -> None:
    """Of a batch that does not divide by two, in parts, with timesteps that are drawn by the losses of all."""
    values = {"accumulate": 2, "timestep_sampling": "importance", "learning_rate": 1e-3, "steps": 12, "checkpoints": 1}
    one = fit(MaskDDPM, tmp_path / "one", **values)
    two = fit(MaskDDPM, tmp_path / "two", **values, devices=2)
    assert_alike(one, two)
    assert ("loss", 12) in two[1]


def test_a_latent_model_is_shared_too(tmp_path: Path) -> None:
    first_stage = {"network": "tiny", "steps": 2, "batch_size": 2, "perceptual_weight": 0.0, "precision": "float32"}
    values = {"first_stage": first_stage, "attention": (4,), "steps": 3, "checkpoints": 1}
    assert_alike(fit(MaskLDM, tmp_path / "one", **values), fit(MaskLDM, tmp_path / "two", **values, devices=2))


class Kill(BaseException):
    pass


class Killing(WorkFolder):
    """Saves after three steps, and kills the fit after four."""

    asked = 0

    def should_save(self) -> bool:
        self.asked += 1
        if self.asked == 4:
            raise Kill
        return self.asked == 3


def test_a_killed_fit_resumes_bit_equal_and_on_as_many_devices_as_one_likes(tmp_path: Path) -> None:
    values = {"dropout": 0.2, "devices": 2}
    with pytest.raises(Kill):
        fit(MaskDDPM, tmp_path, Killing(tmp_path / "killed", CPU, 1), **values)
    assert children() == []
    resumed, whole = (fit(MaskDDPM, tmp_path / name, **values) for name in ("killed", "whole"))
    assert all(torch.equal(whole[0][name], resumed[0][name]) for name in whole[0])
    assert whole[1] == resumed[1]
    # Begun on one device, and ended on two.
    with pytest.raises(Kill):
        fit(MaskDDPM, tmp_path, Killing(tmp_path / "begun", CPU, 1))
    assert_alike(fit(MaskDDPM, tmp_path / "one"), fit(MaskDDPM, tmp_path / "begun", devices=2))


# failures

TRAININGS = '''
import os, signal, time
from dataclasses import dataclass
import torch
from torch import nn
from harness.errors import HarnessError


@dataclass(frozen=True)
class Start:
    """A training of one number, which the second process may not go on with."""

    fault: str = ""

    def __call__(self, fabric):
        if self.fault == "start" and fabric.global_rank == 1:
            raise HarnessError("There is no start.")
        return Training(fabric, self.fault)


class Training:
    def __init__(self, fabric, fault):
        self.fabric, self.fault = fabric, fault
        self.number = fabric.setup(nn.Linear(1, 1))

    def step(self, step):
        if step == 2 and self.fabric.global_rank == 1:
            if self.fault == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.fault == "told":
                raise HarnessError("It cannot go on.")
            if self.fault == "unexpected":
                raise ValueError("a wrong number")
            if self.fault == "memory":
                raise torch.OutOfMemoryError("out of memory")
            if self.fault == "hangs":
                time.sleep(3600)
        with torch.enable_grad():
            self.fabric.backward(self.number(torch.ones(1, 1)).sum())
        total = self.fabric.all_reduce(torch.tensor(float(self.fabric.global_rank + 1)), reduce_op="sum")
        return {"total": total}

    def state(self, step):
        return {"step": step, "number": self.number.state_dict(), "rates": (0.5, 0.9)}

    def restore(self, state):
        self.number.load_state_dict(state["number"])
        return state["step"]

    def sampled_network(self):
        return self.number.module


def hang(pipe):
    """Be a fit on two devices: the first waits in a collective operation, and the second sleeps."""
    from generators.several_devices import SeveralDevices

    with SeveralDevices(Start("hangs"), torch.device("cpu"), 2, "float32", nn.Linear(1, 1)) as training:
        training.step(0)
        pipe.send([process.pid for process, _ in training._ranks])
        training.step(2)
'''


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return the class of trainings above, in a module that other processes can import."""
    (tmp_path / "faulty_trainings.py").write_text(TRAININGS)
    monkeypatch.syspath_prepend(tmp_path)
    import faulty_trainings  # type: ignore[import-not-found]

    yield faulty_trainings.Start
    del sys.modules["faulty_trainings"]


def begun(start: Any) -> SeveralDevices:
    return SeveralDevices(start, CPU, 2, "float32", torch.nn.Linear(1, 1))


def test_every_process_takes_every_step(start: Any) -> None:
    with begun(start()) as training:
        assert len(children()) == 2
        for step in range(3):
            assert dict(training.step(step)) == {"total": 3.0}
        state = training.state(3)
        assert (state["step"], state["rates"]) == (3, (0.5, 0.9))
        state["number"] = {name: torch.full_like(value, 7) for name, value in state["number"].items()}
        assert training.restore(state) == 3
        training.step(3)
        assert [float(value.detach()) for value in training.sampled_network().parameters()] == [7, 7]
    assert children() == []


@pytest.mark.parametrize(
    ("fault", "error", "said"),
    [
        ("told", HarnessError, r"^It cannot go on\.$"),
        ("killed", HarnessError, "The process of device 2 of 2 was killed by SIGKILL; run the fit again"),
        ("unexpected", RuntimeError, "On device 2 of 2: ValueError: a wrong number"),
        ("memory", MemoryError, "On device 2 of 2: OutOfMemoryError"),
    ],
)
def test_when_one_process_fails_all_end_with_its_message(start: Any, fault: str, error: Any, said: str) -> None:
    with begun(start(fault)) as training:
        training.step(0)
        training.step(1)
        with pytest.raises(error, match=said):
            training.step(2)
        assert children() == []


def test_a_death_is_told_rather_than_the_complaints_of_others() -> None:
    complaints = [_Failure("RuntimeError", f"{i}: connection closed by peer", "") for i in range(2)]
    died = _Failure("HarnessError", "killed", "", died=True)
    assert _cause([*complaints, died]) is died
    assert _cause(complaints) is complaints[0]


def test_a_training_that_cannot_be_built_is_told(start: Any) -> None:
    with pytest.raises(HarnessError, match=r"There is no start\."):
        begun(start("start"))
    assert children() == []


def test_a_process_that_hangs_ends_with_the_fit(start: Any) -> None:
    training = begun(start("hangs"))
    training.step(0)
    for _, pipe in training._ranks:
        pipe.send_bytes(pickle.dumps(("step", 2)))
    training.close()
    assert children() == []


def test_too_little_memory_on_any_device_names_the_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(self: Any, *_: Any, **__: Any) -> Any:
        raise MemoryError("On device 2 of 2: OutOfMemoryError")

    monkeypatch.setattr(SeveralDevices, "step", exhausted)
    with pytest.raises(OutOfMemory, match="a batch of 5 pictures of 16 px with mask-ddpm"):
        fit(MaskDDPM, tmp_path, devices=2)
    assert children() == []


def test_no_process_outlives_a_fit_that_is_killed(start: Any) -> None:
    context = multiprocessing.get_context("forkserver")
    ours, theirs = context.Pipe()
    # It is no daemon: it has processes of its own, from a server of its own.
    fitting = context.Process(target=sys.modules[start.__module__].hang, args=(theirs,))
    fitting.start()
    ranks = [psutil.Process(number) for number in ours.recv()]
    assert len(ranks) == 2
    time.sleep(0.5)
    assert all(process.is_running() for process in ranks)
    fitting.kill()
    fitting.join()
    _, alive = psutil.wait_procs(ranks, timeout=30)
    assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []


# mistakes


def test_more_devices_than_there_are_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(HarnessError, match="devices: 3 asks for more than the 2 there are; set devices to 2"):
        SeveralDevices(lambda fabric: fabric, torch.device("cuda"), 3, "float32", torch.nn.Linear(1, 1))
    with pytest.raises(HarnessError, match="more than the 1 there are"):
        SeveralDevices(lambda fabric: fabric, torch.device("cuda", 1), 2, "float32", torch.nn.Linear(1, 1))


def test_a_study_that_wants_more_accelerators_than_there_are_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = MaskDDPM.create(devices=3)
    assert asked.devices() == 3
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert asked.missing_requirements() == ["devices: 3 asks for more accelerators than the 2 of this machine"]
    assert MaskDDPM.create(devices=2).missing_requirements() == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert asked.missing_requirements() == []


def test_a_batch_has_a_pair_for_each_part_of_each_device() -> None:
    assert MaskDDPM.create(batch_size=6, devices=3, accumulate=2).parameters.devices == 3
    with pytest.raises(ValidationError, match="devices 3 times accumulate 2 is more than batch_size 5"):
        MaskDDPM.create(batch_size=5, devices=3, accumulate=2)


@pytest.mark.parametrize(("count", "parts"), [(5, 2), (6, 3), (7, 7), (16, 5)])
def test_shares_are_all_of_a_batch_and_nearly_equal(count: int, parts: int) -> None:
    from generators.diffusion.training import shares

    cut = shares(count, parts)
    assert [i for share in cut for i in range(share.start, share.stop)] == list(range(count))
    sizes = np.array([share.stop - share.start for share in cut])
    assert len(sizes) == parts
    assert sizes.max() - sizes.min() <= 1

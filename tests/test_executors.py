"""What executors lease: cores, accelerators, memory; and what they refuse."""

from __future__ import annotations

import pytest

from harness.errors import DeclarationError
from harness.executors import make_executor
from harness.executors.in_process import InProcessExecutor
from harness.executors.local import LocalExecutor, _Running, visible_accelerators


def occupied(executor: LocalExecutor, *kinds: str) -> list[str | None]:
    """Lease as if stages of these kinds had been started, and return the accelerators in order."""
    leased = []
    for i, kind in enumerate(kinds):
        accelerator = executor._lease(kind)
        large = kind in ("fit", "select", "sample", "refine", "train")
        executor._running[str(i)] = _Running(None, accelerator, large)  # type: ignore[arg-type]
        leased.append(accelerator)
    return leased


def test_each_large_stage_has_an_accelerator_and_small_ones_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,3")
    executor = LocalExecutor()
    assert (executor.free("train"), executor.free("evaluate")) == (2, 4)
    assert occupied(executor, "train", "fit") == ["0", "3"]
    assert (executor.free("train"), executor.free("evaluate")) == (0, 2)
    executor._running.clear()
    assert occupied(executor, "train", "evaluate", "fit", "evaluate") == ["0", "3", "3", "0"]
    assert executor.free("evaluate") == 0


def test_jobs_on_the_command_line_are_what_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    executor = LocalExecutor(6)
    assert (executor.free("train"), executor.free("evaluate")) == (6, 6)
    assert occupied(executor, *["train"] * 6) == ["0", "1"] * 3


def test_without_accelerators_cores_and_threads_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr("harness.executors.local.available_cores", lambda: 4)
    assert visible_accelerators() == []
    assert LocalExecutor().free("train") == 4
    monkeypatch.setenv("HARNESS_THREADS", "2")
    assert LocalExecutor().free("train") == 2
    assert occupied(LocalExecutor(), "train") == [None]


def test_a_wrong_executor_or_number_of_jobs_is_one_sentence() -> None:
    assert isinstance(make_executor("in-process", None), InProcessExecutor)
    with pytest.raises(DeclarationError, match="no executor 'locale'; did you mean 'local'"):
        make_executor("locale", None)
    with pytest.raises(DeclarationError, match="--jobs must be at least 1"):
        make_executor("local", 0)

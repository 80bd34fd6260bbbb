"""What executors lease: cores, accelerators, memory; and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest

from harness.engine.executors import make_executor
from harness.engine.executors.in_process import InProcessExecutor
from harness.engine.executors.local import LocalExecutor, _Running
from harness.engine.load import load_study
from harness.engine.plan import build_plan
from harness.engine.run import run_plan
from harness.errors import DeclarationError
from harness.learning.devices import visible_accelerators
from harness.store.results import Store


def occupied(executor: LocalExecutor, *kinds: str, devices: int = 1) -> list[str]:
    """Lease as if stages of these kinds had been started, and return the accelerators of each in order."""
    leased = []
    for kind in kinds:
        accelerators = executor._lease(kind, devices)
        large = kind in ("fit", "select", "sample", "refine", "train")
        name = str(len(executor._running))
        executor._running[name] = _Running(None, accelerators, large, devices)  # type: ignore[arg-type]
        leased.append(",".join(accelerators))
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
    monkeypatch.setattr("harness.engine.executors.local.available_cores", lambda: 4)
    assert visible_accelerators() == []
    assert LocalExecutor().free("train") == 4
    monkeypatch.setenv("HARNESS_THREADS", "2")
    assert LocalExecutor().free("train") == 2
    assert occupied(LocalExecutor(), "train") == [""]


def test_a_fit_on_several_devices_waits_for_as_many_and_has_them_to_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,3,5")
    executor = LocalExecutor()
    assert (executor.free("fit", 2), executor.free("fit", 3)) == (1, 1)
    assert occupied(executor, "train") == ["0"]
    assert (executor.free("fit", 2), executor.free("fit", 3), executor.free("train")) == (1, 0, 2)
    assert occupied(executor, "fit", devices=2) == ["3,5"]
    assert (executor.free("fit", 2), executor.free("train")) == (0, 0)
    assert executor.free("evaluate") == 4
    assert occupied(executor, "evaluate", "evaluate", "evaluate") == ["0", "3", "5"]


def test_more_devices_than_there_are_do_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fit starts when nothing else computes, and says itself that there are too few."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    executor = LocalExecutor()
    assert executor.free("fit", 4) == 1
    assert occupied(executor, "fit", devices=4) == ["0,1"]
    assert executor.free("train") < 1


def test_one_job_may_compute_on_several_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    executor = LocalExecutor(1)
    assert executor.free("fit", 2) == 1
    assert occupied(executor, "fit", devices=2) == ["0,1"]
    assert (executor.free("fit", 2), executor.free("evaluate")) == (0, 0)


def test_processes_of_a_fit_without_accelerators_take_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr("harness.engine.executors.local._stages_at_once", lambda: 4)
    executor = LocalExecutor()
    assert occupied(executor, "train") == [""]
    assert (executor.free("fit", 3), executor.free("fit", 4)) == (1, 0)
    assert occupied(executor, "fit", devices=3) == [""]
    assert executor.free("train") == 0


def test_a_wrong_executor_or_number_of_jobs_is_one_sentence() -> None:
    assert isinstance(make_executor("in-process", None), InProcessExecutor)
    with pytest.raises(DeclarationError, match="no executor 'locale'; did you mean 'local'"):
        make_executor("locale", None)
    with pytest.raises(DeclarationError, match="--jobs must be at least 1"):
        make_executor("local", 0)


SPREAD = '''

class Spread(Painter):
    """Paints on as many devices as it is told."""

    name = "spread"

    class Parameters(Painter.Parameters):
        width: int = Field(3, description="devices")

    def devices(self):
        return self.parameters.width
'''


def test_a_fit_is_leased_as_many_devices_as_its_plugin_says(temp_study: Any) -> None:
    class Asked(BaseException):
        pass

    class Leasing(InProcessExecutor):
        def free(self, kind: str, devices: int = 1) -> int:
            if kind == "fit":
                raise Asked(devices)
            assert devices == 1
            return super().free(kind, devices)

    temp_study.plugins.write_text(temp_study.plugins.read_text() + SPREAD)
    use = f'generators={{paint: {{pairs: {{plugin: "{temp_study.plugins}:Spread"}}}}}}'
    plan = build_plan(load_study("twelve", settings=(use, "train=[{synthetic: {paint: 4}}]", "compare.against=null")))
    assert {stage.devices for stage in plan.stages.values() if stage.kind == "fit"} == {3}
    assert {stage.devices for stage in plan.stages.values() if stage.kind != "fit"} == {1}
    with pytest.raises(Asked, match="3"):
        run_plan(plan, Store(), Leasing())

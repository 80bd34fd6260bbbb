"""Executors: found like plugins; what they lease (cores, accelerators, memory), and what they refuse."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.engine.executors import executors, make_executor
from harness.engine.executors.in_process import InProcessExecutor
from harness.engine.executors.local import LocalExecutor, _Running
from harness.engine.load import load_study
from harness.engine.plan import build_plan
from harness.engine.run import run_plan
from harness.errors import DeclarationError
from harness.learning.devices import visible_accelerators
from harness.store.results import Store

LARGE, SMALL = True, False


def occupied(executor: LocalExecutor, *sizes: bool, devices: int = 1) -> list[str]:
    """Lease as if stages of these sizes had been started, and return the accelerators of each in order."""
    leased = []
    for large in sizes:
        accelerators = executor._lease(large, devices)
        name = str(len(executor._running))
        executor._running[name] = _Running(None, accelerators, large, devices)  # type: ignore[arg-type]
        leased.append(",".join(accelerators))
    return leased


def test_each_large_stage_has_an_accelerator_and_small_ones_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,3")
    executor = LocalExecutor()
    assert (executor.free(LARGE), executor.free(SMALL)) == (2, 4)
    assert occupied(executor, LARGE, LARGE) == ["0", "3"]
    assert (executor.free(LARGE), executor.free(SMALL)) == (0, 2)
    executor._running.clear()
    assert occupied(executor, LARGE, SMALL, LARGE, SMALL) == ["0", "3", "3", "0"]
    assert executor.free(SMALL) == 0


def test_jobs_on_the_command_line_are_what_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    executor = LocalExecutor(6)
    assert (executor.free(LARGE), executor.free(SMALL)) == (6, 6)
    assert occupied(executor, *[LARGE] * 6) == ["0", "1"] * 3


def test_without_accelerators_cores_and_threads_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr("harness.engine.executors.local.available_cores", lambda: 4)
    assert visible_accelerators() == []
    assert LocalExecutor().free(LARGE) == 4
    monkeypatch.setenv("HARNESS_THREADS", "2")
    assert LocalExecutor().free(LARGE) == 2
    assert occupied(LocalExecutor(), LARGE) == [""]


def test_a_fit_on_several_devices_waits_for_as_many_and_has_them_to_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,3,5")
    executor = LocalExecutor()
    assert (executor.free(LARGE, 2), executor.free(LARGE, 3)) == (1, 1)
    assert occupied(executor, LARGE) == ["0"]
    assert (executor.free(LARGE, 2), executor.free(LARGE, 3), executor.free(LARGE)) == (1, 0, 2)
    assert occupied(executor, LARGE, devices=2) == ["3,5"]
    assert (executor.free(LARGE, 2), executor.free(LARGE)) == (0, 0)
    assert executor.free(SMALL) == 4
    assert occupied(executor, SMALL, SMALL, SMALL) == ["0", "3", "5"]


def test_more_devices_than_there_are_do_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fit starts when nothing else computes, and says itself that there are too few."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    executor = LocalExecutor()
    assert executor.free(LARGE, 4) == 1
    assert occupied(executor, LARGE, devices=4) == ["0,1"]
    assert executor.free(LARGE) < 1


def test_one_job_may_compute_on_several_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    executor = LocalExecutor(1)
    assert executor.free(LARGE, 2) == 1
    assert occupied(executor, LARGE, devices=2) == ["0,1"]
    assert (executor.free(LARGE, 2), executor.free(SMALL)) == (0, 0)


def test_processes_of_a_fit_without_accelerators_take_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr("harness.engine.executors.local._stages_at_once", lambda: 4)
    executor = LocalExecutor()
    assert occupied(executor, LARGE) == [""]
    assert (executor.free(LARGE, 3), executor.free(LARGE, 4)) == (1, 0)
    assert occupied(executor, LARGE, devices=3) == [""]
    assert executor.free(LARGE) == 0


def test_a_wrong_executor_or_number_of_jobs_is_one_sentence() -> None:
    assert isinstance(make_executor("in-process", None), InProcessExecutor)
    with pytest.raises(DeclarationError, match="no executor 'locale'; did you mean 'local'"):
        make_executor("locale", None)
    with pytest.raises(DeclarationError, match="--jobs must be at least 1"):
        make_executor("local", 0)
    with pytest.raises(DeclarationError, match="in-process runs one stage at a time; leave out --jobs 2"):
        make_executor("in-process", 2)


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
        def free(self, large: bool, devices: int = 1) -> int:
            if devices != 1:
                raise Asked(large, devices)
            return super().free(large, devices)

    temp_study.plugins.write_text(temp_study.plugins.read_text() + SPREAD)
    use = f'generators={{paint: {{pairs: {{plugin: "{temp_study.plugins}:Spread"}}}}}}'
    plan = build_plan(load_study("twelve", settings=(use, "train=[{synthetic: {paint: 4}}]", "compare.against=null")))
    assert {stage.devices for stage in plan.stages.values() if stage.kind == "fit"} == {3}
    assert {stage.devices for stage in plan.stages.values() if stage.kind != "fit"} == {1}
    with pytest.raises(Asked, match="True, 3"):
        run_plan(plan, Store(), Leasing())


# found like plugins


def test_looking_for_executors_neither_imports_torch_nor_starts_a_process() -> None:
    code = (
        "import os, sys; from harness.engine.executors import executors; assert list(executors())[:2] == "
        "['in-process', 'local']; assert not {'torch', 'pytorch_lightning'} & set(sys.modules); import psutil; "
        "assert not psutil.Process().children()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


#: As CONTRIBUTING.md shows it, but for the folder and the variables, which nothing may depend on.
PLAIN = """
import os
import subprocess
import time

from harness.engine.executors.executor import Executor


class Plain(Executor):
    name = "plain"
    summary = "Each stage in a new Python process."

    def __init__(self, jobs):
        self.jobs, self.running = jobs or 2, {}

    def free(self, large, devices=1):
        return self.jobs - len(self.running)

    def start(self, spec):
        with self.log_path(spec).open("w") as log:
            elsewhere = {"cwd": "/", "env": {k: v for k, v in os.environ.items() if not k.startswith("HARNESS_")}}
            self.running[spec["key"]] = subprocess.Popen(self.command(spec), stdout=log, stderr=log, **elsewhere)

    def ended(self, timeout_s):
        time.sleep(timeout_s)
        codes = {key: process.poll() for key, process in self.running.items()}
        return [(key, code) for key, code in codes.items() if code is not None and self.running.pop(key)]

    def close(self):
        for process in self.running.values():
            process.terminate()
"""
CELL = ("--only", "tiny * real=4 * seed=0")


def add_extensions(folder: Path, study: Any) -> None:
    """Let the study use its plugins by their names, from a folder of extensions."""
    folder.mkdir()
    (folder / "small-plugins.py").write_text(study.plugins.read_text())
    text = study.file.read_text()
    for name in ("Painter", "Dimmer", "Tiny"):
        text = text.replace(f"{study.plugins}:{name}", name.lower())
    study.file.write_text(text)
    study.plugins.unlink()


def start_again(study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have an empty store, with the same data."""
    again = study.project / "again"
    again.mkdir()
    (again / "data").symlink_to(study.project / ".harness" / "data")
    monkeypatch.setenv("HARNESS_HOME", str(again))


def test_an_executor_from_one_file_gives_the_same_results(temp_study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its stages run in another folder, with none of this process's settings, and use a plugin from an extension."""
    add_extensions(temp_study.project / "extensions", temp_study)
    assert temp_study.run(*CELL).code == 0
    expected = temp_study.results.read_bytes()
    temp_study.results.unlink()
    start_again(temp_study, monkeypatch)
    path = temp_study.project / "extensions" / "plain.py"
    path.write_text(PLAIN)
    answer = temp_study.run("--executor", "plain", "--json", *CELL)
    assert (answer.code, answer.json["ran"]) == (0, 3), answer.err
    assert temp_study.results.read_bytes() == expected
    assert executors()["plain"].origin == str(path)
    listed = {(row["kind"], row["name"]): row for row in temp_study.command("plugin", "list", "--json").json}
    assert listed["executors", "plain"] == {
        "kind": "executors", "name": "plain", "target": f"{path}:Plain", "origin": str(path),
        "summary": "Each stage in a new Python process.",
    }  # fmt: skip
    assert "did you mean 'plain'" in temp_study.run("--executor", "plane").err


def test_local_stages_find_the_extensions_of_the_plan(temp_study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not those of the folder that they run in, nor of the first study that this process has run."""
    local = ("study", "run", str(temp_study.file), "--executor", "local", "--no-track", "--json", *CELL)
    first = temp_study.command(*local)
    assert (first.code, first.json["ran"]) == (0, 3), first.err
    expected = temp_study.results.read_bytes()
    add_extensions(temp_study.project / "tools", temp_study)
    start_again(temp_study, monkeypatch)
    elsewhere = temp_study.project.parent / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert temp_study.command(*local).code == 2
    monkeypatch.setenv("HARNESS_EXTENSIONS", "../project/tools")
    second = temp_study.command(*local)
    assert (second.code, second.json["ran"]) == (0, 3), second.err
    assert temp_study.results.read_bytes() == expected

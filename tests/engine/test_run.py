"""A declared study from images to a report, through the real command line: holes, refusals, resumption, sharing."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness.engine.load import load_study
from harness.engine.plan import build_plan
from harness.metrics.segmentation.scores import reductions_of
from harness.metrics.spec import segmentation_metrics
from tests.fixtures.temp_study import start_apart


def rows(study: Any) -> pd.DataFrame:
    return pd.read_csv(study.results, keep_default_na=False)


def test_a_study_runs_to_its_report_and_again_runs_nothing(finished_study: Any) -> None:
    table = rows(finished_study)
    segmentation = table[table.kind == "segmentation"]
    # 5 training sets (3 declared, 2 controls), 2 seeds, and of each metric a row for each of its reductions
    reductions = [reduction for metric in segmentation_metrics().values() for reduction in reductions_of(metric)]
    assert len(segmentation) == 5 * 2 * len(reductions)
    assert not segmentation.duplicated(["recipe", "seed", "metric", "reduction"]).any()
    assert set(segmentation.status) == {"done"}
    assert set(segmentation.arm) == {"real", "mixed", "control"}
    assert (finished_study.project / "reports" / "twelve" / "report.html").is_file()
    written = finished_study.results.read_bytes()
    again = finished_study.run("--json")
    assert again.code == 0
    assert again.json["ran"] == 0
    assert finished_study.results.read_bytes() == written


def test_small_sets_nest_and_lineage_reaches_the_training_record(finished_study: Any) -> None:
    store = finished_study.project / ".harness" / "store" / "results"
    pool = next(json.loads(p.read_text()) for p in store.glob("refine/*/pairs/pairs.json"))
    assert len(pool["ids"]) == 8
    trained = {}
    for path in store.glob("train/*/result.json"):
        record = json.loads(path.read_text())
        trained[record["label"]] = json.loads((path.parent / "seen.json").read_text())
    real = {i for i, how in trained["train tiny * real=4 * seed=0"].items() if "trained on it" in how}
    mixed = trained["train tiny * real=4,paint=8 * seed=0"]
    assert len(real) == 4
    assert real <= {i for i, how in mixed.items() if "trained on it" in how}
    assert "the generator of its synthetic images was fitted on it" in mixed.values()


def test_one_failed_stage_leaves_a_marked_hole_a_reason_and_a_non_zero_exit(temp_study: Any) -> None:
    figures = "report.figures=[ratio, comparison]"
    answer = temp_study.run("--set", "generators.paint.pairs.fail=true", "--set", figures)
    assert answer.code == 1
    assert "RuntimeError: the paint is dry" in answer.err
    table = rows(temp_study)
    table = table[table.kind == "segmentation"]
    status = table.groupby("recipe").status.unique().map(list).to_dict()
    assert status["real=4"] == ["done"]
    assert status["real=4,paint=8"] == ["skipped"]
    assert set(table[table.recipe == "real=4,paint=8"].value) == {""}
    page = (temp_study.project / "reports" / "twelve" / "report.md").read_text()
    assert "incomplete" in page
    assert "the paint is dry" in page
    # What did not depend on it is kept, and mending the cause runs only the rest.
    mended = temp_study.run("--json")
    assert mended.code == 0
    assert mended.json["stored"] >= 13


def test_fail_fast_stops(temp_study: Any) -> None:
    answer = temp_study.run("--fail-fast", "--json", "--set", "generators.paint.pairs.fail=true")
    assert answer.code == 1
    assert {"failed", "left"} <= {failure["status"] for failure in answer.json["failures"]}


def test_only_runs_the_named_cells(temp_study: Any) -> None:
    answer = temp_study.run("--json", "--only", "tiny * real=4 * seed=1")
    assert answer.code == 0
    assert answer.json["ran"] == 3
    table = rows(temp_study)
    done = table[(table.kind == "segmentation") & (table.status == "done")]
    assert set(done.recipe) == {"real=4"}
    assert set(done.seed.astype(int)) == {1}
    assert temp_study.run("--only", "tiny * real=5").code == 2


def test_plan_and_status_run_nothing(temp_study: Any) -> None:
    plan = temp_study.command("study", "plan", "twelve", "--json")
    assert plan.code == 0
    assert {stage["state"] for stage in plan.json["stages"]} == {"left"}
    kinds = {stage["kind"] for stage in plan.json["stages"]}
    assert kinds == {"dataset", "fit", "select", "sample", "refine", "train", "evaluate", "trivial", "fidelity"}
    assert not (temp_study.project / ".harness" / "store" / "results").exists()
    assert temp_study.run("--only", "tiny * real=4 * seed=0").code == 0
    status = temp_study.command("study", "status", "twelve", "--json").json
    assert status["done"] == 3
    assert status["failed"] == 0


def test_a_leak_is_refused_under_the_clean_protocol_and_marked_under_the_published_one(temp_study: Any) -> None:
    answer = temp_study.run("--set", "protocol=published", "--set", "seeds=1")
    assert answer.code == 0
    table = rows(temp_study)
    leaks = table[table.kind == "segmentation"].leak
    assert all("the segmenter's checkpoint was selected on it" in leak for leak in leaks)
    assert "†" in (temp_study.project / "reports" / "twelve" / "report.md").read_text()


PLANTED = '''
from harness.learning import Checkpoint
from {module} import Painter

class Thief(Painter):
    """Has looked at an image that it was not given, and says so."""
    name = "thief"
    def fit(self, pairs, context):
        for checkpoint in super().fit(pairs, context):
            yield Checkpoint(checkpoint.step, checkpoint.folder, pairs.seen() | {{"{stolen}"}})
'''


def test_a_generator_that_says_it_saw_more_than_it_was_given_is_stopped(temp_study: Any, monkeypatch: Any) -> None:
    stolen = f"twelve/{build_plan(load_study('twelve')).splits[0].ids('report')[0]}"
    name = f"painters_{os.getpid()}"
    monkeypatch.syspath_prepend(str(temp_study.project))
    (temp_study.project / f"{name}.py").write_text(temp_study.plugins.read_text())
    (temp_study.project / "thief.py").write_text(PLANTED.format(module=name, stolen=stolen))
    thief = f"generators.paint.pairs.plugin={temp_study.project / 'thief.py'}:Thief"
    answer = temp_study.run("--set", thief)
    assert answer.code == 1
    assert f"has seen '{stolen}', which the fit was not given" in answer.err


@pytest.mark.parametrize(("crash", "said"), [("exit", "exit code 7"), ("memory", "out-of-memory")])
def test_a_crash_is_one_failed_stage(temp_study: Any, crash: str, said: str) -> None:
    crashing = ("study", "run", "twelve", "--no-track", "--set", f"segmenters.0.crash={crash}")
    if crash == "exit":
        answer = temp_study.command(*crashing, "--executor", "local", "--only", "tiny * real=4 * seed=0")
    else:
        answer = temp_study.command(*crashing, "--executor", "in-process", "--profile", "short")
    assert answer.code == 1
    assert said in answer.err
    assert "[1/" in answer.err


RUN = ("study", "run", "twelve", "--no-track")


def start_local(said: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """Run the study as users do: in a new Python, whose stages are processes of their own."""
    command = [sys.executable, "-c", "from harness.cli import main; main()", *RUN, "--executor", "local", "--jobs", "2"]
    with said.open("w") as output:
        return subprocess.Popen([*command, *arguments], stderr=output, stdout=output)


def start_run(said: Path, *arguments: str) -> BaseProcess:
    """Run the study in a process of its own that runs the stages too."""
    return start_apart(said, *RUN, "--executor", "in-process", *arguments)


def has_said(said: Path, lines: int) -> bool:
    return said.exists() and said.read_text().count("\n") >= lines


def test_killed_at_any_moment_a_study_resumes_to_the_same_results(finished_study: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("HARNESS_SAVE_EVERY_S", "0")
    expected = finished_study.results.read_bytes()
    monkeypatch.setenv("HARNESS_HOME", str(finished_study.project / "again"))
    finished_study.project.joinpath("again").mkdir()
    (finished_study.project / "again" / "data").symlink_to(finished_study.project / ".harness" / "data")
    finished_study.results.unlink()
    # Amid stages that run beside the harness, and amid ones that run in it.
    for lines, start in ((1, start_run), (6, start_local), (13, start_run)):
        said = finished_study.project / f"said-{lines}"
        process = start(said)
        assert _within(300, partial(has_said, said, lines))
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        (process.wait if isinstance(process, subprocess.Popen) else process.join)()
    store = finished_study.project / "again" / "store" / "results"
    kept = {path: path.stat().st_mtime_ns for path in store.glob("*/*/result.json")}
    assert kept
    # What the kills left is taken up by any executor.
    done = finished_study.run()
    assert done.code == 0, done.err
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert finished_study.results.read_bytes() == expected


def test_two_processes_on_one_study_share_the_work(temp_study: Any) -> None:
    files = [temp_study.project / f"said-{number}" for number in range(2)]
    processes = [start_run(said, "--profile", "short") for said in files]
    for process in processes:
        process.join(300)
    said = [file.read_text() for file in files]
    assert [process.exitcode for process in processes] == [0, 0], said
    ran = [set(re.findall(r"\] (.+): done in", text)) for text in said]
    assert not ran[0] & ran[1]
    assert len(ran[0] | ran[1]) == len(list((temp_study.project / ".harness/store/results").glob("*/*/result.json")))


def test_orphaned_stages_end_with_their_harness(temp_study: Any) -> None:
    said = temp_study.project / "said"
    process = start_local(said, "--only", "tiny * real=4 * seed=0", "--set", "segmenters.0.crash=sleep")
    sleeping = temp_study.project / ".harness" / "sleeping"
    assert _within(300, sleeping.exists)
    assert _stages_of(temp_study.project)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert _within(100, lambda: not _stages_of(temp_study.project))


def test_a_training_killed_in_the_middle_is_taken_up_where_it_was(temp_study: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("HARNESS_SAVE_EVERY_S", "0")
    cell = ("--only", "tiny * real=4 * seed=0", "--set", "budget.steps=40")
    assert temp_study.run(*cell).code == 0
    expected = temp_study.results.read_bytes()
    monkeypatch.setenv("HARNESS_HOME", str(temp_study.project / "again"))
    temp_study.project.joinpath("again").mkdir()
    (temp_study.project / "again" / "data").symlink_to(temp_study.project / ".harness" / "data")
    monkeypatch.setenv("TINY_DIES_AT", "25")
    process = start_run(temp_study.project / "said", *cell)
    process.join(300)
    assert process.exitcode == 9
    state = next((temp_study.project / "again" / "store" / "work").glob("*/state.pt"))
    monkeypatch.setenv("TINY_DIES_AT", "")
    monkeypatch.setenv("TINY_LOG", str(temp_study.project / "steps"))
    done = temp_study.run(*cell)
    assert done.code == 0, done.err
    assert not state.exists()
    assert len((temp_study.project / "steps").read_text()) < 40 - 20
    assert temp_study.results.read_bytes() == expected


def _within(seconds: float, come: Callable[[], bool]) -> bool:
    """Wait for what must come, however busy the machine is; the stage sleeps for longer than any wait here."""
    deadline = time.monotonic() + seconds
    while not come() and time.monotonic() < deadline:
        time.sleep(0.02)
    return come()


def _stages_of(project: Path) -> list[int]:
    """Processes of the harness that have the project as their working folder."""
    import psutil

    found = []
    for process in psutil.process_iter(["pid", "cwd", "cmdline"]):
        line = " ".join(process.info["cmdline"] or [])
        if process.info["cwd"] == str(project) and "forkserver" in line:
            found.append(process.info["pid"])
    return found

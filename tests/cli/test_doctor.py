"""``harness doctor``: what is broken is said, with what to do; a healthy machine passes."""

import json
import os
import shutil

import pytest

from harness.cli import doctor as module
from harness.cli import main


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HARNESS_MLRUNS", str(tmp_path / "mlruns"))
    monkeypatch.setenv("HARNESS_REPORTS", str(tmp_path / "reports"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys, *words: str):
    with pytest.raises(SystemExit) as ended:
        main(["doctor", *words])
    return int(ended.value.code or 0), capsys.readouterr()


def named(checks, name):
    return [check for check in checks if check.name == name]


def test_a_healthy_machine_passes_and_nothing_is_made(place, capsys):
    code, said = run(capsys, "--json")
    told = json.loads(said.out)
    assert (code, told["ok"]) == (0, True), [c for c in told["checks"] if c["status"] == "broken"]
    names = {check["name"] for check in told["checks"]}
    assert {
        "python",
        "libraries",
        "cores",
        "memory",
        "disk",
        "home",
        "dataset",
        "weights",
        "plugins",
        "mlflow",
    } <= names
    assert {check["status"] for check in told["checks"]} <= {"ok", "note", "broken"}
    assert not (place / "mlruns").exists()


def test_what_is_broken_makes_the_exit_code_1_and_says_what_to_do(place, capsys):
    (place / "mlruns").mkdir()
    (place / "mlruns" / "mlflow.db").write_bytes(b"not a database at all" * 50)
    code, said = run(capsys)
    assert code == 1
    line = next(line for line in said.out.splitlines() if line.startswith("broken"))
    assert "mlflow" in line
    assert "move it away" in line
    assert said.out.splitlines()[-1] == "1 broken: mlflow."


def test_a_folder_that_cannot_be_made_is_broken(place, monkeypatch):
    (place / "file").write_text("not a folder")
    monkeypatch.setenv("HARNESS_HOME", str(place / "file" / "home"))
    (check,) = named(module._folders(), "home")
    assert check.status == "broken"
    assert "HARNESS_HOME" in check.advice


def test_a_full_disk_is_broken_and_a_small_one_noted(place, monkeypatch):
    for free, status in ((0.1e9, "broken"), (5e9, "note"), (500e9, "ok")):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: shutil._ntuple_diskusage(10**12, 0, int(free)))
        assert module._disk(place).status == status


def test_a_library_outside_its_range_is_named_with_the_command_that_mends_it(monkeypatch):
    import importlib.metadata

    true = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "9999.0" if name == "pillow" else true(name))
    (check,) = named(module._libraries(), "libraries")
    assert check.status == "broken"
    assert "pillow is 9999.0" in check.found
    assert check.advice.startswith("run pip install 'pillow")


def test_a_server_that_is_not_there_is_broken(place, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    (check,) = module._mlflow()
    assert check.status == "broken"
    assert "http://127.0.0.1:9" in check.found


def test_weights_that_changed_are_broken(place):
    folder = place / "home" / "weights" / "fid-inception"
    folder.mkdir(parents=True)
    (folder / "weights.json").write_text(json.dumps({"file": "gone.pth", "sha256": "0" * 64, "origin": "a test"}))
    assert any(check.status == "broken" for check in module.run_checks(False) if check.name == "weights")


def test_offline_proves_it_and_catches_what_reaches_for_the_network(place, monkeypatch):
    (check,) = module._offline(("pandas",))
    assert check.status == "ok", check.found
    (place / "gossip.py").write_text(
        "import socket\ntry:\n    socket.create_connection(('127.0.0.1', 9), timeout=1)\nexcept OSError:\n    pass\n"
        "try:\n    socket.socket().connect(('127.0.0.1', 9))\nexcept OSError:\n    pass\n"
        "try:\n    socket.getaddrinfo('example.invalid', 80)\nexcept OSError:\n    pass\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(place), os.environ.get("PYTHONPATH", "")]))
    checks = list(module._offline(("gossip",), packages=()))
    assert {check.status for check in checks} == {"broken"}
    told = " ".join(check.found for check in checks)
    assert all(word in told for word in ("create_connection", "connect ", "getaddrinfo", "gossip.py"))

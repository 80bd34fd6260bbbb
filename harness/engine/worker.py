"""Run one stage: ``python -m harness.engine.worker SPEC.json`` is all that an engine has to ship.

The specification names the stage, the keys it reads and where the store is. The result is committed by one rename, or
the failure recorded;
the exit code is 0, or 1 when there is no result.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from harness.engine.stages import kinds, read
from harness.engine.stages.running import RunningStage
from harness.errors import HarnessError, LeakError, OutOfMemory
from harness.home import threads
from harness.learning.devices import choose_device
from harness.store.results import Store

_LIBRARIES = ("torch", "numpy", "segmentation-models-pytorch", "kornia", "pillow", "timm")


def environment(device: Any) -> dict[str, Any]:
    """Return what is recorded beside a result: host, device, library versions, git commit."""
    from importlib.metadata import PackageNotFoundError, version

    versions = {"python": platform.python_version()}
    for library in _LIBRARIES:
        try:
            versions[library] = version(library)
        except PackageNotFoundError:
            continue
    return {
        "host": socket.gethostname(),
        "device": _device_name(device),
        "versions": versions,
        "commit": os.environ.get("HARNESS_COMMIT") or git_commit(),
    }


def _device_name(device: Any) -> str:
    import torch

    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"{platform.machine()} CPU"


def git_commit() -> str:
    """Return the commit of the current checkout, with ``-dirty`` when files differ; empty outside git."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def status_of(error: BaseException) -> str:
    """Return the status that a failure has in the results table."""
    if isinstance(error, LeakError):
        return "refused"
    memory = isinstance(error, OutOfMemory | MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return "out-of-memory" if memory else "failed"


def run_stage(spec: dict[str, Any], on_progress: Any = None) -> bool:
    """Run a stage to its commit, or record why it failed.

    Args:
        spec: the stage as the plan wrote it, with ``store`` and ``device``.
        on_progress: receives done, total and unit.

    Returns:
        Whether there is a result.
    """
    store = Store(Path(spec["store"]))
    folder = store.work_folder(spec["key"])
    try:
        # One process at a time in a work folder, even while an orphan of a killed harness is still dying.
        with store.working_on(spec["key"]):
            if store.find(spec["kind"], spec["key"]) is not None:
                return True
            if not kinds()[spec["kind"]].thing.resumable:
                shutil.rmtree(folder, ignore_errors=True)
            _compute(spec, store, folder, on_progress)
    except Exception as error:
        reason = str(error) if isinstance(error, HarnessError) else f"{type(error).__name__}: {error}"
        trace = "" if isinstance(error, HarnessError) else traceback.format_exc()
        failure = {"label": spec["label"], "kind": spec["kind"], "status": status_of(error), "time": time.time()}
        store.record_failure(spec["key"], {**failure, "reason": " ".join(reason.split()), "traceback": trace})
        return False
    return True


def _compute(spec: dict[str, Any], store: Store, folder: Path, on_progress: Any) -> None:
    import torch

    from harness.learning.work_folder import WorkFolder

    torch.set_num_threads(threads())
    device = choose_device(spec.get("device", "auto"))
    save_every = float(os.environ.get("HARNESS_SAVE_EVERY_S", "30"))
    context = WorkFolder(folder, device, int(spec["parts"]["seed"]), save_every_s=save_every, on_progress=on_progress)
    values = kinds()[spec["kind"]].thing.run(RunningStage(spec, store, context, device, read))
    context.flush()
    seconds = context.seconds()
    record = {name: spec[name] for name in ("kind", "label", "key", "key_without_code", "parts", "inputs", "runtime")}
    record |= {"values": values, "notes": context.notes(), "seconds": seconds, "finished": time.time()}
    record |= environment(device)
    committed = store.commit(spec["kind"], spec["key"], record)
    # Only now: a kill before the commit must find the state that it takes up.
    for state in (committed.folder / "state.pt", *committed.folder.glob(".state.pt.*")):
        state.unlink(missing_ok=True)
    store.record_duration(spec["kind"], spec["work"], spec["amount"], seconds)


def main(arguments: list[str] | None = None) -> int:
    """Run the specification named on the command line."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if len(arguments) != 1:
        print("usage: python -m harness.engine.worker SPEC.json", file=sys.stderr)
        return 2
    spec = json.loads(Path(arguments[0]).read_text())
    # Data, weights and extensions are those of whoever made the plan, whatever the folder this process was started in.
    os.environ |= {"HARNESS_HOME": spec["home"], "HARNESS_EXTENSIONS": spec["extensions"]}
    with Store(Path(spec["store"])).showing_progress(spec["key"]) as report:
        return 0 if run_stage(spec, report) else 1


if __name__ == "__main__":
    sys.exit(main())

"""``harness doctor``: check this machine and this installation, and say what to do about what is broken."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from harness.errors import HarnessError

app = typer.Typer(invoke_without_command=True)

_DISTRIBUTION = "synthetic-segmentation-harness"
_LITTLE_DISK_GB = 10.0
_NO_DISK_GB = 0.5
_LITTLE_MEMORY_GB = 4.0
_OFFLINE_TAKES_AT_MOST_S = 600


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: of what.
        status: ``ok``; ``note``, which stops nothing; or ``broken``.
        found: what was found.
        advice: what to do about it; empty when there is nothing to do.
    """

    name: str
    status: Literal["ok", "note", "broken"]
    found: str
    advice: str = ""


@app.callback(invoke_without_command=True)
def doctor(
    offline: Annotated[
        bool, typer.Option("--offline", help="Also prove that imports and planning use no network (a minute).")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Check versions, devices, disk, folders, datasets, weights, plugins and MLflow. Exit code 1 if one is broken."""
    checks = list(run_checks(offline))
    broken = [check for check in checks if check.status == "broken"]
    if as_json:
        print(json.dumps({"ok": not broken, "checks": [asdict(check) for check in checks]}, indent=2))
    else:
        width = max(len(check.name) for check in checks)
        for check in checks:
            advice = f"; {check.advice}" if check.advice else ""
            print(f"{check.status:6}  {check.name:{width}}  {check.found}{advice}")
        print("Nothing is broken." if not broken else f"{len(broken)} broken: {', '.join(c.name for c in broken)}.")
    if broken:
        raise typer.Exit(1)


def run_checks(offline: bool) -> Iterator[Check]:
    """Yield one check after the other; one that cannot be made is itself broken."""
    steps: list[tuple[str, Callable[[], Iterator[Check]]]] = [
        ("libraries", _libraries),
        ("devices", _devices),
        ("machine", _machine),
        ("folders", _folders),
        ("datasets", _datasets),
        ("weights", _weights),
        ("plugins", _plugins),
        ("mlflow", _mlflow),
    ]
    if offline:
        steps.append(("offline", _offline))
    for name, step in steps:
        try:
            yield from step()
        except HarnessError as error:
            yield Check(name, "broken", str(error).partition("\n")[0])
        except Exception as error:
            # A doctor reports every kind of illness, also those it does not know.
            yield Check(name, "broken", f"{type(error).__name__}: {' '.join(str(error).split())}")


def _libraries() -> Iterator[Check]:
    """Compare Python and the installed libraries with what this distribution asks for."""
    from importlib.metadata import PackageNotFoundError, metadata, version

    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    try:
        declared = metadata(_DISTRIBUTION)
    except PackageNotFoundError:
        yield Check("harness", "broken", "it is not installed", "run pip install -e . in its folder")
        return
    allowed = SpecifierSet(declared["Requires-Python"])
    found = platform.python_version()
    fits = allowed.contains(found, prereleases=True)
    yield Check("python", "ok" if fits else "broken", found, "" if fits else f"use a Python {allowed}")
    wrong = []
    count = 0
    for text in declared.get_all("Requires-Dist") or []:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        count += 1
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            wrong.append((requirement, "missing"))
            continue
        if not requirement.specifier.contains(installed, prereleases=True):
            wrong.append((requirement, installed))
    for requirement, installed in wrong:
        yield Check("libraries", "broken", f"{requirement.name} is {installed}", f"run pip install '{requirement}'")
    if not wrong:
        yield Check("libraries", "ok", f"all {count} within the allowed versions")


def _devices() -> Iterator[Check]:
    """Say what stages will compute on."""
    import torch

    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            facts = torch.cuda.get_device_properties(number)
            yield Check("device", "ok", f"cuda:{number} {facts.name}, {facts.total_memory / 2**30:.0f} GiB")
    elif Path("/proc/driver/nvidia/gpus").is_dir():
        yield Check(
            "device",
            "broken",
            f"there is an NVIDIA GPU, but torch {torch.__version__} cannot use it",
            "install a driver or a torch build that fit each other (nvidia-smi names the driver's CUDA version)",
        )
    else:
        yield Check("device", "note", "no accelerator; everything runs on the CPU")


def _machine() -> Iterator[Check]:
    import psutil

    from harness.learning.devices import available_cores

    memory = psutil.virtual_memory()
    total, free = memory.total / 2**30, memory.available / 2**30
    yield Check("cores", "ok", str(available_cores()))
    little = free < _LITTLE_MEMORY_GB
    advice = "close other programs, or run with --jobs 1" if little else ""
    yield Check("memory", "note" if little else "ok", f"{free:.1f} of {total:.1f} GiB free", advice)


def _folders() -> Iterator[Check]:
    """See whether results, reports and MLflow's files can be written, and for how long."""
    from harness.home import home, reports_folder, tracking_folder

    for name, folder, variable in (
        ("home", home(), "HARNESS_HOME"),
        ("reports", reports_folder(), "HARNESS_REPORTS"),
        ("mlruns", tracking_folder(), "HARNESS_MLRUNS"),
    ):
        there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            yield Check(name, "broken", f"{folder} cannot be written", f"set {variable} to a folder that can")
        else:
            yield Check(name, "ok", str(folder))
    yield _disk(home())


def _disk(folder: Path) -> Check:
    import shutil

    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(there).free / 1e9
    found = f"{free:.1f} GB free for {folder}"
    if free < _NO_DISK_GB:
        return Check("disk", "broken", found, "free some, such as by harness store gc --yes, or move HARNESS_HOME")
    if free < _LITTLE_DISK_GB:
        return Check("disk", "note", found, "a large study may need more; harness store du shows what is used")
    return Check("disk", "ok", found)


def _datasets() -> Iterator[Check]:
    from harness.data.datasets import available

    for summary in available():
        if summary.imported:
            pairs = f"{summary.pairs} pairs" if summary.pairs is not None else "made on the fly"
            yield Check("dataset", "ok", f"{summary.name}: {pairs}")
        else:
            yield Check("dataset", "note", f"{summary.name} is not imported", summary.how)


def _weights() -> Iterator[Check]:
    from harness.weights import locate

    rows = locate.listing()
    here = [row["name"] for row in rows if row["present"]]
    absent = [row["name"] for row in rows if not row["present"]]
    if here:
        yield Check("weights", "ok", f"here: {', '.join(here)}")
    if absent:
        yield Check("weights", "note", f"not here: {', '.join(absent)}", "get one by harness weights fetch NAME")
    for check in locate.verify():
        if not check["ok"]:
            yield Check("weights", "broken", f"{check['name']}: {check['message']}", "fetch or add it again")


def _plugins() -> Iterator[Check]:
    """Import every plugin that is installed, and find all else that one file can add."""
    from harness.cli.plugin import also_listed
    from harness.home import extensions_folder
    from harness.plugins.discovery import extension_files
    from harness.plugins.registry import load_plugin, registry

    entries = sorted(registry())
    wrong = []
    for kind, name in entries:
        try:
            load_plugin(kind, name)
        except HarnessError as error:
            wrong.append(Check("plugins", "broken", str(error), "mend or uninstall it"))
    yield from wrong
    if not wrong:
        yield Check("plugins", "ok", f"all {len(entries)} can be imported, and {len(list(also_listed()))} other things")
    files = extension_files()
    if files:
        yield Check("extensions", "ok", f"{', '.join(file.name for file in files)} in {extensions_folder()}")


def _mlflow() -> Iterator[Check]:
    """See whether runs can be mirrored; nothing is created."""
    from harness.tracking.connection import check_database, connect, database_file, one_line, tracking_uri

    uri = tracking_uri()
    file = database_file(uri)
    try:
        if file is not None and not check_database(file):
            yield Check("mlflow", "ok", f"{uri}, made by the first run")
            return
        connect(uri)
    except HarnessError as error:
        yield Check("mlflow", "broken", str(error))
    except Exception as error:
        advice = (
            "start the server or mend MLFLOW_TRACKING_URI; runs go on without it, and harness track sync catches up"
        )
        yield Check("mlflow", "broken", f"{uri} cannot be reached: {one_line(error)}", advice)
    else:
        yield Check("mlflow", "ok", uri)


#: Run in a process of its own, with every way to a network closed and noted: imports everything, then plans a study.
_OFFLINE = """
import importlib, json, pkgutil, socket, sys, traceback, warnings
warnings.simplefilter("ignore")
attempts = []

def refuse(what):
    def refused(*arguments, **_):
        address = arguments[1] if what.startswith("connect") and len(arguments) > 1 else (arguments or ("",))[0]
        own = arguments[0] if arguments else None
        if isinstance(own, socket.socket) and own.family == getattr(socket, "AF_UNIX", None):
            return originals[what](*arguments)
        where = next((f"{f.filename}:{f.lineno}" for f in reversed(traceback.extract_stack()[:-1])
                      if "socket.py" not in f.filename), "")
        attempts.append(f"{what} {address!r} from {where}")
        raise OSError("the network is closed by harness doctor --offline")
    return refused

originals = {"connect": socket.socket.connect, "connect_ex": socket.socket.connect_ex}
socket.socket.connect = refuse("connect")
socket.socket.connect_ex = refuse("connect_ex")
socket.socket.sendto = refuse("sendto")
for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex", "create_connection"):
    setattr(socket, name, refuse(name))

failed = []
import harness
for package in json.loads(sys.argv[2]):
    found = importlib.import_module(package)
    for module in pkgutil.walk_packages(found.__path__, f"{package}."):
        if module.name.endswith(("__main__", "generator_model")):
            continue
        try:
            importlib.import_module(module.name)
        except ImportError as error:
            failed.append(f"{module.name}: {error}")
for library in json.loads(sys.argv[1]):
    try:
        importlib.import_module(library)
    except ImportError as error:
        failed.append(f"{library}: {error}")
planned = 0
from harness.plugins.registry import load_plugin, registry
for kind, name in registry():
    load_plugin(kind, name)
from harness.engine.load import load_study
from harness.study.find import list_studies
if "quickstart" in list_studies():
    from harness.engine.plan import build_plan
    planned = len(build_plan(load_study("quickstart")).stages)
print(json.dumps({"attempts": attempts, "failed": failed, "planned": planned}))
"""
_OWN = ("harness", "generators", "segmenters")
_HEAVY = (
    "torch",
    "torchvision",
    "pytorch_lightning",
    "torchmetrics",
    "segmentation_models_pytorch",
    "kornia",
    "diffusers",
    "mlflow",
    "optuna",
    "pandas",
    "matplotlib.pyplot",
    "scipy.linalg",
)


def _offline(libraries: tuple[str, ...] = _HEAVY, packages: tuple[str, ...] = _OWN) -> Iterator[Check]:
    """Import everything and plan the quickstart study in a process that cannot reach a network."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", _OFFLINE, json.dumps(libraries), json.dumps(packages)],
            capture_output=True,
            text=True,
            timeout=_OFFLINE_TAKES_AT_MOST_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        yield Check("offline", "broken", f"took more than {_OFFLINE_TAKES_AT_MOST_S} s", "see which import hangs")
        return
    last = done.stdout.strip().splitlines()[-1:] if done.returncode == 0 else []
    if not last:
        words = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        yield Check("offline", "broken", f"importing and planning without a network failed: {words[0]}")
        return
    told = json.loads(last[0])
    for attempt in dict.fromkeys(told["attempts"]):
        yield Check("offline", "broken", f"something reached for the network: {attempt}", "report it as a bug")
    for failure in told["failed"]:
        yield Check("offline", "broken", f"cannot be imported without a network: {failure}")
    if not told["attempts"] and not told["failed"]:
        planned = f", and a plan of {told['planned']} stages" if told["planned"] else ""
        yield Check("offline", "ok", f"importing everything{planned} opened no socket")

"""Runs each stage in a process of its own on this machine, several at once.

The processes are forked from a server that has torch imported and no device touched, so that a stage costs
milliseconds to start and a crash is one failed stage. Cores and accelerators are leased out: each job has its threads,
and one accelerator, or as many as its fit computes on.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import sys
import threading
import time
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from typing import Any

from harness.engine.executors.executor import Executor
from harness.home import threads
from harness.learning.devices import available_cores, visible_accelerators

#: Bytes that a small training takes on the CPU, libraries that its process does not share included.
_MEMORY_OF_A_STAGE = 1.5 * 2**30


def _stages_at_once() -> int:
    """Return how many stages the cores have threads for and the memory has room for."""
    import psutil

    room = int(psutil.virtual_memory().available // _MEMORY_OF_A_STAGE)
    return max(1, min(available_cores() // threads(), room))


@dataclass
class _Running:
    process: BaseProcess
    accelerators: tuple[str, ...]
    large: bool
    devices: int = 1


class LocalExecutor(Executor):
    """A process a stage.

    Args:
        jobs: stages at once; by default one large and one small an accelerator, or, without any, as many as cores and
            memory allow.
    """

    name = "local"
    summary = "Each stage in a process of its own on this machine, several at once."

    def __init__(self, jobs: int | None = None) -> None:
        self._accelerators = visible_accelerators()
        self._large = jobs or len(self._accelerators) or _stages_at_once()
        self.jobs = jobs or 2 * len(self._accelerators) or self._large
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["harness.engine.preload"])
        self._running: dict[str, _Running] = {}

    def free(self, large: bool, devices: int = 1) -> int:
        """Return how many more stages of one sort can be started now; a large one needs its devices to itself.

        One that computes on more devices than there are can be started alone, and will say that there are too few.
        """
        free = self.jobs - len(self._running)
        if not large:
            return free
        held = sum(running.devices for running in self._running.values() if running.large)
        if devices == 1:
            return min(free, self._large - held)
        if not held:
            return min(free, 1)
        idle = len(self._idle()) if self._accelerators else self._large - held
        return min(free, idle // devices)

    def _idle(self) -> list[str]:
        """Return the accelerators on which no large stage computes."""
        held = {name for running in self._running.values() if running.large for name in running.accelerators}
        return [name for name in self._accelerators if name not in held]

    def start(self, spec: dict[str, Any]) -> None:
        """Fork a process for the stage and lease it its share of the machine."""
        accelerators = self._lease(spec["large"], spec["devices"])
        arguments = (str(self.written(spec)), str(self.log_path(spec)), accelerators)
        process = self._context.Process(target=_run, args=arguments, name=spec["label"])
        process.start()
        self._running[spec["key"]] = _Running(process, accelerators, spec["large"], spec["devices"])

    def _lease(self, large: bool, devices: int = 1) -> tuple[str, ...]:
        """Return the accelerators with the fewest stages of the same memory class, then with the fewest in all."""
        held = [(name, running.large) for running in self._running.values() for name in running.accelerators]

        def load(name: str) -> tuple[int, int]:
            return held.count((name, large)), held.count((name, not large))

        return tuple(sorted(self._accelerators, key=load)[:devices])

    def ended(self, timeout_s: float) -> list[tuple[str, int]]:
        """Wait for stages to end; return their keys with exit codes."""
        sentinels = [running.process.sentinel for running in self._running.values()]
        if sentinels:
            multiprocessing.connection.wait(sentinels, timeout_s)
        else:
            time.sleep(timeout_s)
        ended = []
        for key, running in list(self._running.items()):
            if not running.process.is_alive():
                running.process.join()
                ended.append((key, running.process.exitcode or 0))
                del self._running[key]
        return ended

    def close(self) -> None:
        """Stop the stages that still run; their saved states stay."""
        for running in self._running.values():
            running.process.terminate()
        for running in self._running.values():
            running.process.join(5)
            if running.process.is_alive():
                running.process.kill()
        self._running.clear()


def _die_with(parent: BaseProcess) -> None:
    """End this process as soon as the harness that started it has died."""
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


def _run(specification: str, log: str, accelerators: tuple[str, ...]) -> None:
    """Body of a stage's process: output goes to the stage's log."""
    from harness.engine.worker import main

    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_die_with, args=(parent,), daemon=True).start()
    if accelerators:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(accelerators)
    printed = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(printed, 1)
    os.dup2(printed, 2)
    code = main([specification])
    sys.stdout.flush()
    sys.stderr.flush()
    # Interpreter shutdown of torch and its threads costs time and can hang; everything is on disk already.
    os._exit(code)

"""A training whose batches are shared by several devices of one machine, each in a process of its own.

The fit's own process conducts: it computes nothing of a step, tells every process to take it, and waits until all have.
So it never waits inside a collective operation, sees at once when a process fails or dies, and then ends the others;
between steps it logs, samples and saves as with one device. A process ends as soon as the fit's does.
"""

from __future__ import annotations

import logging
import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.distributed import TCPStore, init_process_group  # type: ignore[attr-defined]

from generators.stepped_fit import SteppedTraining
from harness.learning import HarnessError
from harness.learning.precision import precision_of, without_remarks

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_ADDRESS = "127.0.0.1"
#: What every process needs and takes seconds to import; torch._dynamo is what the first optimiser imports.
_PRELOADED = [__name__, "lightning_fabric", "torch._dynamo"]
#: Seconds that other processes have to fail too, once one has: one that died says nothing, and others say it first.
_LAST_WORDS_S = 2.0
#: Seconds for a process to end before it is killed.
_END_S = 2.0


class SharedTraining(SteppedTraining, Protocol):
    """A training that takes its share of each batch, and has the same state in every process after each step."""

    def sampled_network(self) -> Any:
        """Return the network that is sampled from."""
        ...


class SeveralDevices:
    """Conducts a training on several devices; to a fit it looks like a training on one.

    It is a context manager: at its end all processes have ended.
    """

    def __init__(
        self,
        start: Callable[[Fabric], SharedTraining],
        device: torch.device,
        devices: int,
        precision: str,
        network: nn.Module,
    ) -> None:
        """Start the processes and their trainings.

        Args:
            start: builds the training on the device of a Fabric that shares gradients; it is pickled, so it holds
                no tensors on devices.
            device: the first one; the others are those after it. On a CPU each process is one.
            devices: how many.
            precision: ``auto``, ``float32`` or ``bfloat16``.
            network: for :meth:`sampled_network` to load weights into, on the device to sample on.

        Raises:
            HarnessError: there are not so many devices.
            RuntimeError: a training cannot be built.
        """
        there = torch.cuda.device_count() - (device.index or 0) if device.type == "cuda" else devices
        if there < devices:
            raise HarnessError(
                f"devices: {devices} asks for more than the {there} there are; set devices to {max(there, 1)}."
            )
        if device.type == "cuda":
            torch.cuda.empty_cache()  # what the fit did before is not needed any more
        self.network = network
        # A server that has torch loaded and no device touched; processes that are forked from it start at once.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(_PRELOADED)
        # The place where the processes find each other. The system chooses its port, so that none is taken.
        self._meeting = TCPStore(_ADDRESS, 0, is_master=True, wait_for_workers=False)
        self._ranks: list[tuple[BaseProcess, Connection]] = []
        try:
            for rank in range(devices):
                ours, theirs = context.Pipe()
                place = _Place(rank, devices, device.type, device.index or 0, self._meeting.port, precision)
                process = context.Process(target=_serve, args=(theirs, place, torch.get_num_threads()), daemon=True)
                process.start()
                theirs.close()
                self._ranks.append((process, ours))
            self._ask(start)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> SeveralDevices:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def step(self, step: int) -> Mapping[str, float]:
        """Have every process take the step; what the first told is fetched when it is read."""
        self._ask(("step", step))
        return _Told(self)

    def told(self) -> dict[str, float]:
        """Return what the last step told."""
        return dict(self._ask(("told",), first_only=True))

    def state(self, step: int) -> dict[str, Any]:
        """Return the state, which is that of every process, on the CPU."""
        return dict(self._ask(("state", step), first_only=True))

    def restore(self, state: dict[str, Any]) -> int:
        """Have every process take up a state, and return its step."""
        return int(self._ask(("restore", state)))

    def sampled_network(self) -> Any:
        """Return the network that is sampled from, as it is now."""
        self.network.load_state_dict(self._ask(("weights",), first_only=True))
        return self.network

    def close(self) -> None:
        """End the processes."""
        for process, pipe in self._ranks:
            pipe.close()
            process.terminate()
        for process, _ in self._ranks:
            process.join(_END_S)
            if process.is_alive():
                process.kill()
                process.join()
        self._ranks.clear()

    def _ask(self, request: Any, *, first_only: bool = False) -> Any:
        """Send something to all processes, or to the first, wait for their answers, and return the first's."""
        asked = self._ranks[:1] if first_only else self._ranks
        content = pickle.dumps(request)
        failures: dict[int, _Failure] = {}
        for rank, (process, pipe) in enumerate(asked):
            try:
                pipe.send_bytes(content)
            except OSError:
                failures[rank] = self._death(rank, process)
        answers: dict[int, Any] = {}
        while len(answers) + len(failures) < len(asked):
            waiting = [rank for rank in range(len(asked)) if rank not in answers and rank not in failures]
            found = multiprocessing.connection.wait(
                [asked[rank][1] for rank in waiting], _LAST_WORDS_S if failures else None
            )
            if not found:
                break
            for rank in waiting:
                process, pipe = asked[rank]
                if pipe in found:
                    try:
                        answer = pickle.loads(pipe.recv_bytes())
                    except (EOFError, OSError):
                        answer = self._death(rank, process)
                    (failures if isinstance(answer, _Failure) else answers)[rank] = answer
        if failures:
            self.close()
            raise _cause(list(failures.values())).error()
        return answers[0]

    def _death(self, rank: int, process: BaseProcess) -> _Failure:
        process.join(_END_S)
        code = process.exitcode or 0
        known = {number.value: number.name for number in signal.Signals}
        how = f"was killed by {known.get(-code, f'signal {-code}')}" if code < 0 else f"ended with exit code {code}"
        what = f"The process of device {rank + 1} of {len(self._ranks)} {how}; run the fit again to go on from its "
        return _Failure("HarnessError", what + "last saved state, or set devices to 1.", "", died=True)


class _Told(Mapping[str, float]):
    """What a step told. It is on a device, and most steps are not logged, so it is fetched when it is read."""

    def __init__(self, training: SeveralDevices) -> None:
        self._training = training
        self._values: dict[str, float] | None = None

    def _fetched(self) -> dict[str, float]:
        if self._values is None:
            self._values = self._training.told()
        return self._values

    def __getitem__(self, name: str) -> float:
        return self._fetched()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fetched())

    def __len__(self) -> int:
        return len(self._fetched())


@dataclass(frozen=True)
class _Failure:
    """How a process failed, as the fit's own tells it."""

    kind: str
    message: str
    trace: str
    died: bool = False

    def error(self) -> Exception:
        """Return what to raise."""
        kinds: dict[str, type[Exception]] = {"HarnessError": HarnessError, "MemoryError": MemoryError}
        error = kinds.get(self.kind, RuntimeError)(self.message)
        if self.trace:
            error.add_note(self.trace)
        return error


def _cause(failures: list[_Failure]) -> _Failure:
    """Return which failure came first: a process that died takes others with it, which complain of the connection."""
    return next((failure for failure in failures if failure.died), failures[0])


# what runs in each process


@dataclass(frozen=True)
class _Place:
    """Which of the processes this is."""

    rank: int
    devices: int
    kind: str
    first: int
    port: int
    precision: str

    def fabric(self) -> Fabric:
        """Meet the other processes, and return the Fabric that averages gradients with them."""
        from lightning_fabric import Fabric
        from lightning_fabric.plugins.environments.lightning import LightningEnvironment
        from lightning_fabric.strategies.ddp import DDPStrategy

        device = torch.device("cuda", self.first + self.rank) if self.kind == "cuda" else torch.device(self.kind)
        if self.kind == "cuda":
            torch.cuda.set_device(device)
            torch.set_float32_matmul_precision("high")
            torch.backends.cudnn.allow_tf32 = True
        # By this, Fabric knows that the processes are started already.
        os.environ["LOCAL_RANK"] = str(self.rank)
        init_process_group(
            "nccl" if self.kind == "cuda" else "gloo",
            store=TCPStore(_ADDRESS, self.port, is_master=False),
            rank=self.rank,
            world_size=self.devices,
            device_id=device if self.kind == "cuda" else None,
        )
        logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
        with without_remarks():
            fabric = Fabric(
                accelerator=self.kind,
                devices=list(range(self.first, self.first + self.devices)) if self.kind == "cuda" else self.devices,
                strategy=DDPStrategy(cluster_environment=LightningEnvironment()),
                precision=precision_of(self.precision, device),  # type: ignore[arg-type]
            )
            fabric.launch()
        return fabric


class _Server:
    """Answers the conductor's requests by one training."""

    def __init__(self, training: SharedTraining) -> None:
        self.training = training
        self.last: Mapping[str, Any] = {}

    def step(self, step: int) -> None:
        self.last = self.training.step(step)

    def told(self) -> dict[str, float]:
        return {name: float(value) for name, value in self.last.items()}

    def state(self, step: int) -> dict[str, Any]:
        made: dict[str, Any] = _on_cpu(self.training.state(step))
        return made

    def restore(self, state: dict[str, Any]) -> int:
        return self.training.restore(state)

    def weights(self) -> dict[str, Tensor]:
        made: dict[str, Tensor] = _on_cpu(self.training.sampled_network().state_dict())
        return made


def _on_cpu(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _on_cpu(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_on_cpu(item) for item in value)
    return value.detach().cpu() if isinstance(value, Tensor) else value


def _die_with(parent: BaseProcess) -> None:
    """End this process, wherever it waits, as soon as the fit's own has ended."""
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


def _serve(pipe: Connection, place: _Place, threads: int) -> None:
    """Body of a process: build the training, then do what the conductor asks for, until it ends."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_die_with, args=(parent,), daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal's Ctrl-C; the conductor ends this process
    torch.set_num_threads(threads)
    try:
        start = pickle.loads(pipe.recv_bytes())
        server = _Server(start(place.fabric()))
        pipe.send_bytes(pickle.dumps(None))
        while True:
            name, *arguments = pickle.loads(pipe.recv_bytes())
            answer = getattr(server, name)(*arguments)
            pipe.send_bytes(pickle.dumps(answer if place.rank == 0 else None))
    except EOFError:
        pass  # the conductor has closed its end
    except Exception as error:
        pipe.send_bytes(pickle.dumps(_failure_of(error, place)))
    finally:
        # Without the clean-up of torch's distributed part, which waits for processes that are no more.
        os._exit(0)


def _failure_of(error: Exception, place: _Place) -> _Failure:
    from harness.learning.memory import is_out_of_memory

    if isinstance(error, HarnessError):
        return _Failure("HarnessError", str(error), "")
    kind = "MemoryError" if is_out_of_memory(error) else "RuntimeError"
    message = f"On device {place.rank + 1} of {place.devices}: {type(error).__name__}: {error}"
    return _Failure(kind, message, traceback.format_exc())

"""Work that a GPU does again and again: recorded once and replayed, so that starting its kernels takes no time."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

#: Calls before the recording, in which libraries choose their algorithms and optimisers build their state.
_WARM_UP = 3


class CapturedStep:
    """A function that is called with tensors of always the same shapes, as a CUDA graph after its first calls.

    The function's work on the GPU is recorded, so it must not depend on anything else that changes: what changes are
    the tensors it is given, and those it updates in place, such as weights and the state of optimisers that are
    capturable and whose learning rate is a tensor. It must not ask the GPU for a value. On a CPU it is just called.
    """

    def __init__(self, function: Callable[..., Tensor], pool: Any = None) -> None:
        """Wrap a function of tensors that returns one tensor.

        Args:
            function: to call.
            pool: of GPU memory (``torch.cuda.graph_pool_handle``), to share with other steps that never run at once.
        """
        self.function = function
        self.pool = pool
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: tuple[Tensor, ...] = ()
        self._output: Tensor | None = None
        self._stream: torch.cuda.Stream | None = None

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Do the step and return its tensor, which later steps do not change."""
        if not inputs[0].is_cuda:
            return self.function(*inputs)
        with torch.cuda.device(inputs[0].device):
            self._calls += 1
            if self._calls <= _WARM_UP:
                return self._beside(inputs)
            if self._graph is None:
                self._record(inputs)
            return self._replay(inputs)

    def _beside(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Call the function on a stream of its own, as recording will."""
        if self._stream is None:
            self._stream = torch.cuda.Stream()
        own = torch.cuda.current_stream()
        self._stream.wait_stream(own)
        with torch.cuda.stream(self._stream), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*capturable=True")
            made = self.function(*inputs)
        own.wait_stream(self._stream)
        return made

    def _record(self, inputs: tuple[Tensor, ...]) -> None:
        self._inputs = tuple(tensor.clone() for tensor in inputs)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool):
            self._output = self.function(*self._inputs)
        self._graph = graph

    def _replay(self, inputs: tuple[Tensor, ...]) -> Tensor:
        assert self._graph is not None
        assert self._output is not None
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given)
        self._graph.replay()
        return self._output.clone()


def set_capturable(optimiser: torch.optim.Optimizer, device: torch.device, *, wanted: bool = True) -> None:
    """Let an Adam's step be recorded where it is on a GPU: the rate is then a tensor, which :func:`set_rate` fills.

    Also to be called after a state is loaded, which may have been saved on another device.
    """
    capturable = wanted and device.type == "cuda"
    for group in optimiser.param_groups:
        group["capturable"] = capturable
        rate = float(group["lr"])
        group["lr"] = torch.tensor(rate, dtype=torch.float32, device=device) if capturable else rate


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate."""
    for group in optimiser.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate

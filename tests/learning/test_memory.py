"""Which errors mean that memory ran out."""

import numpy as np
import pytest
import torch

from harness.learning.memory import is_out_of_memory


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] data. DefaultCPUAllocator: not enough memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4503599627370496 bytes."),
    ],
)
def test_memory_that_ran_out_is_known(error):
    assert is_out_of_memory(error)


@pytest.mark.parametrize("allocate", [lambda: torch.empty(2**50), lambda: np.empty(2**60, np.uint8)])
def test_this_machines_own_words_are_known(allocate):
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        allocate()
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize("error", [RuntimeError("CUDA error: invalid argument"), ValueError("out of memory")])
def test_other_errors_are_others(error):
    assert not is_out_of_memory(error)

"""Tells errors that mean that memory ran out from all others."""

from __future__ import annotations

#: It decides what an error says.
CHANGES_NO_RESULT = True


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error of torch or numpy means that memory ran out, on a GPU or the machine."""
    import torch

    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    # torch raises a plain RuntimeError when the machine's own memory runs out, worded differently on each platform.
    said = ("out of memory", "not enough memory", "can't allocate memory")
    return isinstance(error, RuntimeError) and any(words in str(error) for words in said)

"""Which cores and accelerators this process may compute on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def visible_accelerators() -> list[str]:
    """Return the names of the accelerators this process may use, without touching them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for one in named.split(",") if (name := one.strip()) not in ("", "-1")]
    return [str(i) for i in range(len(list(Path("/proc/driver/nvidia/gpus").glob("*"))))]


def choose_device(wanted: str) -> torch.device:
    """Return a torch device: ``auto`` is the first accelerator, else the CPU; TF32 is allowed where there is one."""
    import torch

    name = wanted if wanted != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda"):
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
    return torch.device(name)

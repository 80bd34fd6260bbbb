"""Which number formats a device computes with, and Lightning's Fabric that makes networks use them."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from lightning_fabric import Fabric


def computes_in_bfloat16(device: torch.device) -> bool:
    """Say whether a device has instructions for bfloat16: GPUs from Ampere on, and CPUs with AVX512-BF16."""
    import torch

    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and bool(torch.cpu.get_capabilities().get("avx512_bf16"))


def precision_of(asked: str, device: torch.device) -> str:
    """Return the precision of Fabric: mixed bfloat16 where the device has instructions for it, else float32.

    Args:
        asked: ``auto``, ``float32`` or ``bfloat16``.
        device: to compute on.
    """
    if asked == "auto":
        asked = "bfloat16" if computes_in_bfloat16(device) else "float32"
    return "bf16-mixed" if asked == "bfloat16" else "32-true"


@contextlib.contextmanager
def without_remarks() -> Iterator[None]:
    """Silence Fabric's remarks on the choice of precision."""
    log = logging.getLogger("lightning_fabric")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def fabric_on(device: torch.device, asked: str) -> Fabric:
    """Return the Fabric of one device in the precision that was asked for (:func:`precision_of`)."""
    from lightning_fabric import Fabric

    with without_remarks():
        return Fabric(
            accelerator=device.type,
            devices=[device.index or 0] if device.type == "cuda" else 1,
            precision=precision_of(asked, device),  # type: ignore[arg-type]
        )

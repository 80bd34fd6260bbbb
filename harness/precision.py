"""Which number formats a device computes with."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def computes_in_bfloat16(device: torch.device) -> bool:
    """Say whether a device has instructions for bfloat16: GPUs from Ampere on, and CPUs with AVX512-BF16."""
    import torch

    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and bool(torch.cpu.get_capabilities().get("avx512_bf16"))

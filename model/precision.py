"""The number format in which a device runs networks fastest. Knows nothing of images."""

from __future__ import annotations

import torch

MIN_COSINE = 0.999  # between a descriptor and the same in float32


def fast_formats(device: torch.device) -> tuple[torch.dtype, ...]:
    """Formats faster than float32 on this device, the most exact first; empty when none is.

    A CPU gains from bfloat16 only where it multiplies it in hardware (AMX or AVX512-BF16).
    """
    if device.type == "cuda":
        return torch.float16, torch.bfloat16
    can = torch.cpu.get_capabilities()
    return (torch.bfloat16,) if can.get("amx_bf16") or can.get("avx512_bf16") else ()

"""The number formats in which a device may run networks faster. Knows nothing of images."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

MIN_COSINE = 0.999  # between a descriptor and the same in float32


def fast_formats(device: torch.device) -> tuple[torch.dtype, ...]:
    """Formats that may be faster than float32 on this device, the most exact first.

    A CPU can gain from bfloat16 only where it multiplies it in hardware: AMX does, by much;
    AVX512-BF16 without AMX halves the time on some processors and doubles it on others.
    """
    if device.type == "cuda":
        return torch.float16, torch.bfloat16
    can = torch.cpu.get_capabilities()
    return (torch.bfloat16,) if can.get("amx_bf16") or can.get("avx512_bf16") else ()


def fastest_of(work: Callable[[], object], times: int = 3, enough_s: float = 1.0) -> float:
    """Seconds of the fastest of some runs: what else the machine does only adds to the others.

    enough_s: no run begins after so long.
    """
    runs: list[float] = []
    while len(runs) < times and sum(runs) < enough_s:
        begun = time.perf_counter()
        work()
        runs.append(time.perf_counter() - begun)
    return min(runs)

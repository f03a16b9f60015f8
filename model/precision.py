"""The number formats in which a device may run networks faster. Knows nothing of images."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

import torch

K = TypeVar("K", bound=Hashable)

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


def fastest_runs(
    works: Sequence[K],
    run: Callable[[K], object],
    clock: Callable[[], float] = time.perf_counter,
    *,
    rounds: int = 3,
    enough_s: float = 2.0,
) -> dict[K, float]:
    """Seconds of the fastest run of each: what else the machine does only adds to the others.

    They take turns, so that a machine which becomes busy becomes so for all; no round begins after
    `enough_s`.
    """
    seconds: dict[K, list[float]] = {work: [] for work in works}
    begun = clock()
    for _ in range(rounds):
        for work in works:
            started = clock()
            run(work)
            seconds[work].append(clock() - started)
        if clock() - begun >= enough_s:
            break
    return {work: min(spent) for work, spent in seconds.items()}

"""The ways in which a device may run a network faster. Knows nothing of images."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from typing import Literal, NamedTuple, TypeVar

import torch

from model.compiled import is_installed

K = TypeVar("K", bound=Hashable)

MIN_COSINE = 0.999  # between a descriptor and the same in float32


class Way(NamedTuple):
    """Who runs the network, and in which number format."""

    engine: Literal["torch", "openvino"]
    dtype: torch.dtype

    def __str__(self) -> str:
        return f"{self.engine} {str(self.dtype).removeprefix('torch.')}"


EXACT = Way("torch", torch.float32)


def fast_ways(device: torch.device) -> tuple[Way, ...]:
    """Those that may be faster than EXACT on this device, the most exact first.

    A CPU can gain from bfloat16 only where it multiplies it in hardware: AMX does, by much;
    AVX512-BF16 without AMX halves the time on some processors and doubles it on others.
    """
    if device.type == "cuda":
        return Way("torch", torch.float16), Way("torch", torch.bfloat16)
    can = torch.cpu.get_capabilities()
    ways = []
    if is_installed():
        ways.append(Way("openvino", torch.float32))
        if can.get("amx_bf16"):
            ways.append(Way("openvino", torch.bfloat16))
    if can.get("amx_bf16") or can.get("avx512_bf16"):
        ways.append(Way("torch", torch.bfloat16))
    return tuple(ways)


def exact_ways(device: torch.device) -> tuple[Way, ...]:
    """Those of `fast_ways` that calculate in float32: what is measured in one is so in all."""
    return tuple(way for way in fast_ways(device) if way.dtype == torch.float32)


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

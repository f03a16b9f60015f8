"""How a network is run: by which library, in which number format. Knows nothing of images."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Literal, NamedTuple, TypeVar

import torch
from torch import Tensor

from model.network import SiameseNetwork
from model.openvino_network import CompiledNetwork, is_installed

K = TypeVar("K", bound=Hashable)

MIN_COSINE = 0.999  # between a descriptor and the same descriptor in float32
TORCH_BATCH = 64


class Backend(NamedTuple):
    """The library that runs a network, and its number format."""

    library: Literal["torch", "openvino"]
    dtype: torch.dtype

    def __str__(self) -> str:
        return f"{self.library} {str(self.dtype).removeprefix('torch.')}"


EXACT = Backend("torch", torch.float32)


class TorchNetwork:
    """A Siamese network of weights in `dtype`, run by torch."""

    batch = TORCH_BATCH

    def __init__(self, network: SiameseNetwork, dtype: torch.dtype) -> None:
        self._network, self._dtype = network, dtype

    def street(self, images: Tensor) -> Tensor:
        descriptors: Tensor = self._network.street(self._input(images))
        return descriptors

    def aerial(self, images: Tensor) -> Tensor:
        descriptors: Tensor = self._network.aerial(self._input(images))
        return descriptors

    def _input(self, images: Tensor) -> Tensor:
        return images.to(self._dtype).contiguous(memory_format=torch.channels_last)


# Both: normalised images, float32 (N, 3, S, S), N up to `batch`, by a branch to (N, D).
Runner = TorchNetwork | CompiledNetwork


def run_network(network: SiameseNetwork, backend: Backend, size: int) -> Runner:
    """The network run by a backend, on images of side `size`.

    Raises:
        CompileError: OpenVINO cannot run this network.
    """
    if backend.library == "openvino":
        return CompiledNetwork(network, size, backend.dtype)
    network = copy.deepcopy(network).to(backend.dtype)
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return TorchNetwork(network, backend.dtype)


def fast_backends(device: torch.device) -> tuple[Backend, ...]:
    """Backends that may be faster than EXACT on this device, the most exact first.

    A CPU gains from bfloat16 only where it multiplies bfloat16 in hardware. AMX gains much;
    AVX512-BF16 without AMX halves the time on some processors and doubles it on others.
    """
    if device.type == "cuda":
        return Backend("torch", torch.float16), Backend("torch", torch.bfloat16)
    can = torch.cpu.get_capabilities()
    backends = []
    if is_installed():
        backends.append(Backend("openvino", torch.float32))
        if can.get("amx_bf16"):
            backends.append(Backend("openvino", torch.bfloat16))
    if can.get("amx_bf16") or can.get("avx512_bf16"):
        backends.append(Backend("torch", torch.bfloat16))
    return tuple(backends)


def exact_backends(device: torch.device) -> tuple[Backend, ...]:
    """The fast backends that compute in float32: figures measured with one hold for all."""
    return tuple(backend for backend in fast_backends(device) if backend.dtype == torch.float32)


def fastest_runs(
    works: Sequence[K],
    run: Callable[[K], object],
    clock: Callable[[], float] = time.perf_counter,
    *,
    rounds: int = 3,
    enough_s: float = 2.0,
) -> dict[K, float]:
    """Seconds of the fastest run of each work: other programs only add to the slower runs.

    The works alternate, so that a machine which becomes busy slows all of them. No round begins
    after `enough_s`.
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

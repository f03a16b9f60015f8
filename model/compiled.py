"""A network compiled for the processor at hand by OpenVINO: torch launches its operations one by
one, and a small network spends half of its time between them."""

from __future__ import annotations

import functools
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from model.errors import SkyfixError
from model.network import SiameseNetwork

TOGETHER = 8  # more at once gain nothing


class CompileError(SkyfixError):
    """OpenVINO is not installed, or cannot run this network."""


def is_installed() -> bool:
    """Whether OpenVINO is (the extra `cpu` brings it along)."""
    return find_spec("openvino") is not None


class CompiledNetwork:
    """A Siamese network that any number of threads may call.

    size: side of its inputs in pixels. threads: how many calls it works on at the same time, each
    on one core.

    Raises:
        CompileError: see there.
    """

    batch = 16  # images handed over at a time

    def __init__(
        self, network: SiameseNetwork, size: int, threads: int, dtype: torch.dtype = torch.float32
    ) -> None:
        self.street = _Branch(network.street, size, threads, dtype)
        self.aerial = _Branch(network.aerial, size, threads, dtype)


class _Branch:
    """Normalised images, float32 (N, 3, S, S), to descriptors (N, D)."""

    def __init__(self, branch: nn.Module, size: int, threads: int, dtype: torch.dtype) -> None:
        settings = {
            "NUM_STREAMS": threads,
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": {torch.float32: "f32", torch.bfloat16: "bf16"}[dtype],
            "ENABLE_CPU_PINNING": False,  # decoding wants the same cores
        }
        if not is_installed():
            raise CompileError("OpenVINO is not installed: pip install 'skyfix[cpu]'")
        with _told():
            self._model = _core().compile_model(_read(branch, size), "CPU", settings)
        self._own = threading.local()

    def __call__(self, images: Tensor) -> Tensor:
        if not hasattr(self._own, "request"):
            self._own.request = _request(self._model)
        pixels = np.ascontiguousarray(images.numpy())
        infer = self._own.request.infer
        few = [pixels[start : start + TOGETHER] for start in range(0, len(pixels), TOGETHER)]
        with _told():
            described = [infer({0: one}, share_inputs=True)[0] for one in few]
        return torch.from_numpy(np.concatenate(described))


def _request(model: Any) -> Any:
    return model.create_infer_request()


@contextmanager
def _told() -> Iterator[None]:
    """OpenVINO's own errors, and whatever tracing the network raised, as CompileError."""
    try:
        yield
    except Exception as error:
        raise CompileError(f"OpenVINO cannot run this network: {error}") from error


def _read(branch: nn.Module, size: int) -> Any:
    """The branch as OpenVINO's model.

    Not by its convert_model, which sets up the root logger anew.
    """
    from openvino import Dimension
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    example = torch.zeros(2, 3, size, size)
    with warnings.catch_warnings():
        # Of torch.jit.trace, which is deprecated (torch.export's graphs OpenVINO reads less well),
        # and of checks of shapes, which here are always the same.
        warnings.simplefilter("ignore")
        # Its weights are copied: shared ones would have to outlive the compiled model.
        traced = TorchScriptPythonDecoder(branch, example_input=example, shared_memory=False)
    frontend = FrontEndManager().load_by_framework("pytorch")
    model = frontend.convert(frontend.load(traced))
    # Left open: with a number there, OpenVINO 2026.4 crashes on the small trunk.
    model.reshape([Dimension(1, TOGETHER), *example.shape[1:]])
    return model


@functools.cache
def _core() -> Any:
    """One for the process, for good: where a processor has AMX each new one gives this thread
    another stack for signals, and with two that go the next signal is handled on one that went."""
    return _openvino().Core()


def _openvino() -> Any:
    """The package, without the companion that would tell its maker of every start."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino

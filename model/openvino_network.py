"""A network compiled for the processor at hand by OpenVINO.

Torch launches operations one by one, and a small network spends half of its time between them.
"""

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
from numpy.typing import NDArray
from torch import Tensor

from model.bfloat16_split import COARSE_BATCH, FINE_BATCH, WithFinestMap, cut_at_finest_map
from model.errors import SkyfixError
from model.network import Branch, SiameseNetwork

_compiling = threading.Lock()


class CompileError(SkyfixError):
    """OpenVINO is not installed, or cannot run this network."""


def is_installed() -> bool:
    """Whether OpenVINO is installed (it belongs to the extra `cpu`)."""
    return find_spec("openvino") is not None


class CompiledNetwork:
    """A Siamese network that any number of threads may call; each call runs in its own thread.

    size: side of the input images in pixels. dtype: float32 or bfloat16, for the layers behind
    the trunk's finest map; the others always compute in float32 (model/bfloat16_split.py).

    Raises:
        CompileError: see there. Calls raise it as well: a thread compiles at its first call.
    """

    batch = 32  # images handed over at a time

    def __init__(
        self, network: SiameseNetwork, size: int, dtype: torch.dtype = torch.float32
    ) -> None:
        self.street = _CompiledBranch(network.street, size, dtype)
        self.aerial = _CompiledBranch(network.aerial, size, dtype)


class _CompiledBranch:
    """Normalised images, float32 (N, 3, S, S), to descriptors (N, D)."""

    def __init__(self, branch: Branch, size: int, dtype: torch.dtype) -> None:
        if not is_installed():
            raise CompileError("OpenVINO is not installed: pip install 'skyfix[cpu]'")
        with _compile_errors():
            fine, coarse = map(_channels_last, cut_at_finest_map(_openvino(), _read(branch, size)))
        self._parts = (
            _Part(fine, torch.float32, FINE_BATCH),
            _Part(coarse, dtype, COARSE_BATCH),
        )

    def __call__(self, images: Tensor) -> Tensor:
        values = images.permute(0, 2, 3, 1).contiguous().numpy()
        with _compile_errors():
            for part in self._parts:
                values = part(values)
        return torch.from_numpy(values)


class _Part:
    """A model that is given `batch` images at a time.

    Compiled for each thread anew: a model that threads share travels between their cores' caches.
    """

    def __init__(self, model: Any, dtype: torch.dtype, batch: int) -> None:
        self._model, self._dtype, self._batch = model, dtype, batch
        self._thread = threading.local()

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        if not hasattr(self._thread, "request"):
            self._thread.request = _request(self._model, self._dtype)
        infer = self._thread.request.infer
        starts = range(0, len(images), self._batch)
        batches = (images[start : start + self._batch] for start in starts)
        return np.concatenate([infer({0: batch}, share_inputs=True)[0] for batch in batches])


def _request(model: Any, dtype: torch.dtype) -> Any:
    settings = {
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": 1,
        "INFERENCE_PRECISION_HINT": {torch.float32: "f32", torch.bfloat16: "bf16"}[dtype],
        "ENABLE_CPU_PINNING": False,  # decoding wants the same cores
    }
    with _compiling:
        return _core().compile_model(model, "CPU", settings).create_infer_request()


@contextmanager
def _compile_errors() -> Iterator[None]:
    """Raise OpenVINO's errors, and errors of tracing the network, as CompileError."""
    try:
        yield
    except Exception as error:
        raise CompileError(f"OpenVINO cannot run this network: {error}") from error


def _read(branch: Branch, size: int) -> Any:
    """`WithFinestMap` as an OpenVINO model.

    OpenVINO's convert_model would set up the root logger anew, so it is not used.
    """
    openvino = _openvino()
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    example = torch.zeros(2, 3, size, size)
    with warnings.catch_warnings():
        # torch.jit.trace is deprecated, but OpenVINO reads torch.export's graphs less well. Its
        # other warnings are of checks of shapes, which here are always the same.
        warnings.simplefilter("ignore")
        # The weights are copied: shared weights would have to outlive the compiled model.
        traced = TorchScriptPythonDecoder(
            WithFinestMap(branch), example_input=example, shared_memory=False
        )
    frontend = FrontEndManager().load_by_framework("pytorch")
    model = frontend.convert(frontend.load(traced))
    # The batch stays open: with a number there, OpenVINO 2026.4 crashes on the small trunk.
    model.reshape([openvino.Dimension(1, COARSE_BATCH), *example.shape[1:]])
    return model


def _channels_last(model: Any) -> Any:
    """The model with images (N, H, W, C) as input, and as output where that holds images.

    Its convolutions would reorder the values otherwise.
    """
    from openvino import Layout
    from openvino.preprocess import PrePostProcessor

    processor = PrePostProcessor(model)
    ports = [processor.input()]
    if len(model.output(0).partial_shape) == 4:
        ports.append(processor.output())
    for port in ports:
        port.tensor().set_layout(Layout("NHWC"))
        port.model().set_layout(Layout("NCHW"))
    return processor.build()


@functools.cache
def _core() -> Any:
    """One Core for the process, kept for good.

    On processors with AMX each new Core gives this thread another stack for signals. Once two
    Cores are gone, the next signal would be handled on a stack that is gone as well.
    """
    return _openvino().Core()


def _openvino() -> Any:
    """The package, without the companion that would report every start to its maker."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino

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
from numpy.typing import NDArray
from torch import Tensor, nn

from model.errors import SkyfixError
from model.network import Branch, SiameseNetwork

# Images at once: fewer where maps are large, so that they stay in a core's cache.
FINE, COARSE = 2, 16

_compiling = threading.Lock()


class CompileError(SkyfixError):
    """OpenVINO is not installed, or cannot run this network."""


def is_installed() -> bool:
    """Whether OpenVINO is (the extra `cpu` brings it along)."""
    return find_spec("openvino") is not None


class CompiledNetwork:
    """A Siamese network that any number of threads may call, each of which works alone.

    size: side of its inputs in pixels. dtype: float32 or bfloat16; up to the trunk's finest map it
    is float32 always, where rounding does the most harm (docs/decisions.md).

    Raises:
        CompileError: see there; also by calls, for each thread's first compiles.
    """

    batch = 32  # images handed over at a time

    def __init__(
        self, network: SiameseNetwork, size: int, dtype: torch.dtype = torch.float32
    ) -> None:
        self.street = _Branch(network.street, size, dtype)
        self.aerial = _Branch(network.aerial, size, dtype)


class _Branch:
    """Normalised images, float32 (N, 3, S, S), to descriptors (N, D)."""

    def __init__(self, branch: Branch, size: int, dtype: torch.dtype) -> None:
        if not is_installed():
            raise CompileError("OpenVINO is not installed: pip install 'skyfix[cpu]'")
        with _told():
            fine, coarse = _cut(_read(branch, size))
        self._parts = _Part(fine, torch.float32, FINE), _Part(coarse, dtype, COARSE)

    def __call__(self, images: Tensor) -> Tensor:
        passed = images.permute(0, 2, 3, 1).contiguous().numpy()
        with _told():
            for part in self._parts:
                passed = part(passed)
        return torch.from_numpy(passed)


class _Part:
    """A model given few images at a time, compiled for each thread anew: what several share goes
    from core to core, and is in no core's cache."""

    def __init__(self, model: Any, dtype: torch.dtype, few: int) -> None:
        self._model, self._dtype, self._few = model, dtype, few
        self._own = threading.local()

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        if not hasattr(self._own, "request"):
            self._own.request = _request(self._model, self._dtype)
        infer = self._own.request.infer
        starts = range(0, len(images), self._few)
        few = (images[start : start + self._few] for start in starts)
        return np.concatenate([infer({0: one}, share_inputs=True)[0] for one in few])


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
def _told() -> Iterator[None]:
    """OpenVINO's own errors, and whatever tracing the network raised, as CompileError."""
    try:
        yield
    except Exception as error:
        raise CompileError(f"OpenVINO cannot run this network: {error}") from error


class _WithFinest(nn.Module):
    """A branch's descriptors, and the trunk's finest map."""

    def __init__(self, branch: Branch) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.branch.trunk(images)
        return self.branch.describe_maps(maps), maps[0]


def _read(branch: Branch, size: int) -> Any:
    """`_WithFinest` as OpenVINO's model.

    Not by its convert_model, which sets up the root logger anew.
    """
    openvino = _openvino()
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    example = torch.zeros(2, 3, size, size)
    with warnings.catch_warnings():
        # Of torch.jit.trace, which is deprecated (torch.export's graphs OpenVINO reads less well),
        # and of checks of shapes, which here are always the same.
        warnings.simplefilter("ignore")
        # Its weights are copied: shared ones would have to outlive the compiled model.
        traced = TorchScriptPythonDecoder(
            _WithFinest(branch), example_input=example, shared_memory=False
        )
    frontend = FrontEndManager().load_by_framework("pytorch")
    model = frontend.convert(frontend.load(traced))
    # Left open: with a number there, OpenVINO 2026.4 crashes on the small trunk.
    model.reshape([openvino.Dimension(1, COARSE), *example.shape[1:]])
    return model


def _cut(model: Any) -> tuple[Any, Any]:
    """A model of `_read`'s as two: images to the finest map, and that to descriptors."""
    openvino = _openvino()
    from openvino import opset13

    finest = model.output(1).get_node().input_value(0)
    handed = opset13.parameter(finest.partial_shape, openvino.Type.f32)
    finest.replace(handed.output(0))  # for all that read it
    fine = openvino.Model([finest], model.get_parameters())
    coarse = openvino.Model(model.get_results()[:1], [handed])
    return _channels_last(fine), _channels_last(coarse)


def _channels_last(model: Any) -> Any:
    """The model for images (N, H, W, C), and so what it gives if that are images, too: else they
    would be reordered for its convolutions."""
    from openvino import Layout
    from openvino.preprocess import PrePostProcessor

    handed = PrePostProcessor(model)
    ports = [handed.input()]
    if len(model.output(0).partial_shape) == 4:
        ports.append(handed.output())
    for port in ports:
        port.tensor().set_layout(Layout("NHWC"))
        port.model().set_layout(Layout("NCHW"))
    return handed.build()


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

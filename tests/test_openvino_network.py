"""A network compiled by OpenVINO against the same network in torch."""

import dataclasses
import logging
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from pair_samples import tiny
from torch import nn

from model import openvino_network
from model.backend import EXACT, Backend, exact_backends, fast_backends
from model.bfloat16_split import COARSE_BATCH
from model.checkpoint import Checkpoint
from model.encoder import Encoder
from model.network import SiameseNetwork
from model.openvino_network import CompiledNetwork, CompileError

CONFIG = tiny("encoder.preprocessing.projection=polar").encoder
OPENVINO = Backend("openvino", torch.float32)
WEIGHTS = Path(openvino_network.__file__).parent / "weights"


@pytest.fixture(autouse=True)
def installed():
    """pytest.importorskip would report the import to OpenVINO's maker (see `_openvino`)."""
    if not openvino_network.is_installed():
        pytest.skip("needs the extra `cpu`")


def network_of(trunk: str = "small") -> SiameseNetwork:
    torch.manual_seed(0)
    wanted = dataclasses.replace(CONFIG.network, trunk=trunk)
    return dataclasses.replace(CONFIG, network=wanted).build().eval().requires_grad_(False)


def images(count: int) -> torch.Tensor:
    side = CONFIG.preprocessing.input_size
    return torch.from_numpy(
        np.random.default_rng(count).normal(size=(count, 3, side, side))
    ).float()


@pytest.mark.parametrize(
    "trunk", ["small", "efficientnet_lite0", "vgg16", "resnet18", "convnext_tiny"]
)
def test_descriptors_are_torch_s(trunk: str) -> None:
    network = network_of(trunk)
    fast = CompiledNetwork(network, CONFIG.preprocessing.input_size)
    views = images(COARSE_BATCH + 5)
    for branch in ("street", "aerial"):
        expected = getattr(network, branch)(views)
        found = getattr(fast, branch)(views)
        assert found.dtype == torch.float32
        np.testing.assert_allclose(found, expected, atol=2e-5)


def test_many_threads_may_call_and_keep_their_results() -> None:
    network = network_of()
    fast = CompiledNetwork(network, CONFIG.preprocessing.input_size)
    batches = [images(1 + number % 3) for number in range(40)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(fast.street, batches))
    for descriptors, views in zip(found, batches, strict=True):
        np.testing.assert_allclose(descriptors, network.street(views), atol=2e-5)


def test_the_log_s_configuration_is_unchanged() -> None:
    root = logging.getLogger()
    before = root.level, list(root.handlers), list(root.filters)
    CompiledNetwork(network_of(), CONFIG.preprocessing.input_size).street(images(1))
    assert (root.level, list(root.handlers), list(root.filters)) == before


def alone(code: str) -> subprocess.CompletedProcess[str]:
    """Run the code in a separate process, which can import this module."""
    tests = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": f"{tests}:{tests.parent}"}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


REPORTED = """
import sys
from test_openvino_network import CONFIG, images, network_of
from model.openvino_network import CompiledNetwork

CompiledNetwork(network_of(), CONFIG.preprocessing.input_size).street(images(1))
print([name for name, module in sys.modules.items() if "openvino_telemetry" in name and module])
"""


def test_openvino_reports_no_start_to_its_maker() -> None:
    """In a separate process: an earlier import of the telemetry package would hide the fault."""
    ended = alone(REPORTED)
    assert (ended.returncode, ended.stdout.strip()) == (0, "[]"), ended.stderr


SIGNALLED = """
import gc, signal
from test_openvino_network import CONFIG, images, network_of
from model.openvino_network import CompiledNetwork

signal.signal(signal.SIGUSR1, lambda number, frame: print("handled"))
networks = [CompiledNetwork(network_of(), CONFIG.preprocessing.input_size) for _ in range(2)]
for network in networks:
    network.street(images(1))
del network
while networks:
    del networks[0]
    gc.collect()
signal.raise_signal(signal.SIGUSR1)
"""


def test_signals_are_handled_once_networks_are_gone() -> None:
    """On processors with AMX, the first signal once ended the process."""
    ended = alone(SIGNALLED)
    assert (ended.returncode, ended.stdout.strip()) == (0, "handled"), ended.stderr


class Untraceable(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("not on this branch")


def test_a_network_that_does_not_compile_is_refused() -> None:
    network = network_of()
    network.aerial.trunk = Untraceable()
    with pytest.raises(CompileError, match="not on this branch"):
        CompiledNetwork(network, CONFIG.preprocessing.input_size)


def test_torch_replaces_a_compiled_network_that_fails(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    encoder = Encoder(Checkpoint(CONFIG, network_of().state_dict()))
    strips = list(np.random.default_rng(0).integers(0, 256, (3, *strip_size(), 3), np.uint8))
    expected = encoder.encode_strips(strips, [0.5] * 3)
    fails = SimpleNamespace(infer=Mock(side_effect=RuntimeError("no such instruction")))
    monkeypatch.setattr(openvino_network, "_request", lambda *model: fails)
    encoder.accelerate([OPENVINO])
    assert encoder.backend == EXACT
    assert "openvino float32 is not used" in caplog.text
    assert "no such instruction" in caplog.text
    np.testing.assert_allclose(encoder.encode_strips(strips, [0.5] * 3), expected, atol=2e-5)


def test_without_openvino_torch_is_used_and_the_log_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(openvino_network, "find_spec", lambda name: None)
    assert all(backend.library == "torch" for backend in fast_backends(torch.device("cpu")))
    encoder = Encoder(Checkpoint(CONFIG, network_of().state_dict()))
    encoder.accelerate([OPENVINO])
    assert encoder.backend == EXACT
    assert "openvino float32 is not used: OpenVINO is not installed" in caplog.text


def test_openvino_encodes_and_explains_like_torch() -> None:
    checkpoint = Checkpoint(CONFIG, network_of().state_dict())
    plain, fast = Encoder(checkpoint), Encoder(checkpoint)
    fast.accelerate([OPENVINO], clock_of(fast, openvino=1.0, torch=2.0))
    assert fast.backend == OPENVINO
    strips = list(np.random.default_rng(0).integers(0, 256, (5, *strip_size(), 3), np.uint8))
    norths = [0.0, 0.1, 0.5, 0.77, 0.99]
    found, expected = (encoder.encode_strips(strips, norths) for encoder in (fast, plain))
    np.testing.assert_allclose(found, expected, atol=2e-5)
    found, expected = (encoder.encode_aerials(strips) for encoder in (fast, plain))
    np.testing.assert_allclose(found, expected, atol=2e-5)
    (view, mask), (same, its) = (encoder.explain_strip(strips[0], 0.3) for encoder in (fast, plain))
    assert (view == same).all()
    np.testing.assert_allclose(mask, its, atol=1e-5)


@pytest.mark.parametrize("name", ["skyfix-modern", "msae-demo"])
def test_the_shipped_weights_may_use_bfloat16(name: str) -> None:
    """With the finest maps in bfloat16 as well, the cosine is 0.995."""
    if not torch.cpu.get_capabilities().get(
        "avx512_bf16"
    ):  # processors with AMX have bfloat16, too
        pytest.skip("needs a processor with bfloat16")
    encoder = Encoder.load(WEIGHTS / f"{name}.safetensors")
    bfloat16 = Backend("openvino", torch.bfloat16)
    encoder.accelerate([bfloat16], clock_of(encoder, openvino=1.0, torch=2.0))
    assert encoder.backend == bfloat16


def strip_size() -> tuple[int, int]:
    return CONFIG.preprocessing.strip_size


def clock_of(encoder: Encoder, **seconds: float):
    now = [0.0]

    def clock() -> float:
        now[0] += seconds[encoder.backend.library]
        return now[0]

    return clock


def test_exact_backends_compute_in_float32() -> None:
    backends = exact_backends(torch.device("cpu"))
    assert OPENVINO in backends
    assert {backend.dtype for backend in backends} == {torch.float32}

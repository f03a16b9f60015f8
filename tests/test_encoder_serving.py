"""Serving adds to the encoder: a faster number format that must prove itself, explanations."""

import dataclasses

import numpy as np
import pytest
import torch
from pair_samples import World, tiny

from model.backend import EXACT, Backend, fast_backends, fastest_runs
from model.checkpoint import Checkpoint
from model.encoder import Encoder
from model.network import NetworkConfig
from model.panorama import PanoramaGeometry

CONFIG = tiny("encoder.preprocessing.projection=polar").encoder


def encoder_of(network: NetworkConfig = CONFIG.network, gain: float = 1.0) -> Encoder:
    torch.manual_seed(0)
    config = dataclasses.replace(CONFIG, network=network)
    weights = {
        name: value * gain if name.endswith("head.weight") else value
        for name, value in config.build().state_dict().items()
    }
    return Encoder(Checkpoint(config, weights))


def streets(count: int) -> list[np.ndarray]:
    return [World(seed).panorama(64, 128) for seed in range(count)]


def test_the_fastest_backend_gives_nearly_the_same_descriptors() -> None:
    exact, fast = encoder_of(), encoder_of()
    fast.accelerate()
    assert fast.backend in (*fast_backends(fast.device), EXACT)
    images = streets(4)
    for encode in ("encode_streets", "encode_aerials"):
        descriptors = getattr(fast, encode)(images)
        assert descriptors.dtype == np.float32
        assert (descriptors * getattr(exact, encode)(images)).sum(1).min() >= 0.999
    assert fast.fingerprint == exact.fingerprint
    assert (fast.encode_streets(images) == fast.encode_streets(images)).all()


def test_a_backend_that_disagrees_is_not_used(
    caplog: pytest.LogCaptureFixture,
) -> None:
    encoder = encoder_of(gain=1e6)  # overflows float16
    expected = encoder.encode_streets(streets(2))
    with caplog.at_level("INFO"):
        encoder.accelerate([Backend("torch", torch.float16)])
    assert encoder.backend == EXACT
    assert "float16 is not used" in caplog.text
    np.testing.assert_allclose(encoder.encode_streets(streets(2)), expected, atol=1e-5)


class Clock:
    """A clock by which each number format takes its stated seconds."""

    def __init__(self, encoder: Encoder, **seconds: float) -> None:
        self.encoder, self.seconds, self.now = encoder, seconds, 0.0

    def __call__(self) -> float:
        self.now += self.seconds[str(self.encoder.backend.dtype).removeprefix("torch.")]
        return self.now


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [(2.0, torch.float32), (1.0, torch.float32), (0.95, torch.float32), (0.5, torch.bfloat16)],
)
def test_a_backend_must_be_faster_by_more_than_noise(seconds: float, chosen: torch.dtype) -> None:
    encoder = encoder_of()
    bfloat16 = Backend("torch", torch.bfloat16)
    encoder.accelerate([bfloat16], Clock(encoder, bfloat16=seconds, float32=1.0))
    assert encoder.backend.dtype == chosen
    assert (encoder.encode_streets(streets(2)) == encoder.encode_streets(streets(2))).all()


def test_backends_alternate_and_the_fastest_run_counts() -> None:
    now, order = [0.0], []
    took = {"a": iter((3.0, 1.0, 5.0)), "b": iter((2.0, 2.0, 2.0))}

    def run(name: str) -> None:
        order.append(name)
        now[0] += next(took[name])

    assert fastest_runs("ab", run, lambda: now[0], enough_s=99.0) == {"a": 1.0, "b": 2.0}
    assert order == list("ababab")
    took |= {"a": iter((3.0,)), "b": iter((2.0,))}
    assert fastest_runs("ab", run, lambda: now[0], enough_s=4.0) == {"a": 3.0, "b": 2.0}


def test_an_explanation_is_the_view_and_the_mask() -> None:
    encoder = encoder_of()
    strip = encoder.prepare_street(streets(1)[0], PanoramaGeometry())
    view, mask = encoder.explain_strip(strip, 0.5)
    side = CONFIG.preprocessing.input_size
    assert (view.shape, view.dtype, mask.shape) == ((side, side, 3), np.uint8, (side, side))
    assert 0.0 <= mask.min() <= mask.max() <= 1.0
    turned, _ = encoder.explain_strip(strip, 0.75)
    np.testing.assert_allclose(np.rot90(view).astype(int), turned, atol=2)


def test_a_network_without_attention_has_no_mask() -> None:
    encoder = encoder_of(dataclasses.replace(CONFIG.network, attention=False))
    strip = encoder.prepare_street(streets(1)[0], PanoramaGeometry())
    assert encoder.explain_strip(strip, 0.5)[1] is None

"""What serving adds to the encoder: a faster number format that must prove itself, explanations."""

import dataclasses
import time

import numpy as np
import pytest
import torch
from pair_samples import World, tiny

from model.checkpoint import Checkpoint
from model.encoder import Encoder
from model.network import NetworkConfig
from model.panorama import PanoramaGeometry
from model.precision import fast_formats, fastest_of

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


def test_the_fastest_format_gives_nearly_the_same_descriptors() -> None:
    exact, fast = encoder_of(), encoder_of()
    fast.accelerate()
    assert fast.dtype in (*fast_formats(fast.device), torch.float32)
    images = streets(4)
    for encode in ("encode_streets", "encode_aerials"):
        described = getattr(fast, encode)(images)
        assert described.dtype == np.float32
        assert (described * getattr(exact, encode)(images)).sum(1).min() >= 0.999
    assert fast.fingerprint == exact.fingerprint
    assert (fast.encode_streets(images) == fast.encode_streets(images)).all()


def test_a_format_that_does_not_agree_is_not_used(
    caplog: pytest.LogCaptureFixture,
) -> None:
    encoder = encoder_of(gain=1e6)  # overflows float16
    expected = encoder.encode_streets(streets(2))
    encoder.accelerate([torch.float16])
    assert encoder.dtype == torch.float32
    assert "float16 is not used" in caplog.text
    np.testing.assert_allclose(encoder.encode_streets(streets(2)), expected, atol=1e-5)


def test_a_format_that_is_slower_is_not_used() -> None:
    seconds = {torch.bfloat16: 2.0, torch.float32: 1.0}
    encoder = encoder_of()
    encoder.accelerate([torch.bfloat16], lambda work: seconds[encoder.dtype])
    assert encoder.dtype == torch.float32
    seconds[torch.float32] = 3.0
    encoder.accelerate([torch.bfloat16], lambda work: seconds[encoder.dtype])
    assert encoder.dtype == torch.bfloat16
    assert (encoder.encode_streets(streets(2)) == encoder.encode_streets(streets(2))).all()


def test_the_fastest_run_counts() -> None:
    naps = iter((0.03, 0.0, 0.03))
    assert fastest_of(lambda: time.sleep(next(naps))) < 0.02
    assert list(naps) == []
    naps = iter((0.03, 0.0))
    assert fastest_of(lambda: time.sleep(next(naps)), enough_s=0.01) >= 0.03


def test_an_explanation_is_the_view_and_where_the_network_looks() -> None:
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

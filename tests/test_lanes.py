import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.checkpoint import Checkpoint, EncoderConfig
from model.encoder import Encoder
from model.lanes import Lanes
from model.network import NetworkConfig
from model.preprocessing import Preprocessing


@settings(max_examples=50)
@given(cores=st.integers(1, 9), count=st.integers(0, 300), most=st.integers(1, 64))
def test_every_item_is_worked_on_once_in_slices_that_are_not_too_long(cores, count, most):
    times, lengths, lock = np.zeros(count, int), [], threading.Lock()

    def work(part):
        with lock:
            times[part] += 1
            lengths.append(part.stop - part.start)

    Lanes(cores).run(work, count, most)
    assert (times == 1).all()
    assert all(0 < length <= most for length in lengths)


def test_lanes_work_at_the_same_time():
    together = threading.Barrier(3)
    Lanes(3).run(lambda part: together.wait(timeout=10), 12, 64)
    assert not together.broken


def test_what_a_lane_raises_is_raised():
    def work(part):
        if part.start:
            raise ValueError(f"no {part.start}")

    with pytest.raises(ValueError, match="no 4"):
        Lanes(2).run(work, 8, 64)


@pytest.mark.parametrize(("count", "threads"), [(1, 4), (2, 4), (4, 2), (8, 1), (100, 1)])
def test_a_lane_has_its_share_of_half_the_cores_and_the_caller_keeps_all(count, threads):
    before, seen = torch.get_num_threads(), set()
    Lanes(8).run(lambda part: seen.add(torch.get_num_threads()), count, 64)
    assert seen == {threads}
    assert torch.get_num_threads() == before


def test_descriptors_are_those_of_one_lane():
    config = EncoderConfig(NetworkConfig(), Preprocessing(), 64.0)
    encoder = Encoder(Checkpoint(config, config.build().state_dict()))
    random = np.random.default_rng(0)
    tiles = list(random.integers(0, 256, (9, 128, 128, 3), np.uint8))
    expected = encoder.encode_aerials(tiles)
    encoder._lanes = Lanes(3)
    assert encoder.encode_aerials(tiles) == pytest.approx(expected, abs=1e-5)

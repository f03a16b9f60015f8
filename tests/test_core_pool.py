import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.checkpoint import Checkpoint, EncoderConfig
from model.core_pool import CorePool
from model.encoder import Encoder
from model.network import NetworkConfig
from model.preprocessing import Preprocessing


@settings(max_examples=50)
@given(cores=st.integers(1, 9), count=st.integers(0, 300), most=st.integers(1, 64))
def test_every_item_is_processed_once_in_slices_within_the_limit(cores, count, most):
    times, lengths, lock = np.zeros(count, int), [], threading.Lock()

    def work(part):
        with lock:
            times[part] += 1
            lengths.append(part.stop - part.start)

    CorePool(cores).run(work, count, most)
    assert (times == 1).all()
    assert all(0 < length <= most for length in lengths)


def test_cores_work_at_the_same_time():
    together = threading.Barrier(3)
    CorePool(3).run(lambda part: together.wait(timeout=10), 12, 64)
    assert not together.broken


def test_the_error_of_a_core_is_raised():
    def work(part):
        if part.start:
            raise ValueError(f"no {part.start}")

    with pytest.raises(ValueError, match="no 4"):
        CorePool(2).run(work, 8, 64)


@pytest.mark.parametrize(
    ("cores", "count", "threads"), [(8, 1, 4), (8, 4, 1), (64, 1, 8), (2, 1, 1)]
)
def test_a_single_slice_gets_half_the_cores_but_at_most_eight(cores, count, threads):
    seen = set()
    CorePool(cores).run(lambda part: seen.add(torch.get_num_threads()), count, 64)
    assert seen == {threads}


@pytest.mark.usefixtures("three_threads")
def test_later_threads_see_torch_s_own_number_of_threads():
    CorePool(2).run(lambda part: None, 8, 64)
    with ThreadPoolExecutor(1) as fresh:
        assert fresh.submit(torch.get_num_threads).result() == 3
    assert torch.get_num_threads() == 3


@pytest.mark.usefixtures("three_threads")
def test_simultaneous_runs_restore_torch_s_number_of_threads():
    """The second run begins after the first has changed the number, and ends last."""
    pool = CorePool(2)
    begun, go = ([threading.Event(), threading.Event()] for _ in range(2))

    def run(number):
        def work(part):
            if part.start == 0:
                begun[number].set()
                assert go[number].wait(timeout=10)

        pool.run(work, 4, 64)

    with ThreadPoolExecutor(2) as callers, ThreadPoolExecutor(1) as fresh:
        works = []
        for number in range(2):
            works.append(callers.submit(run, number))
            assert begun[number].wait(timeout=10)
        for number in range(2):
            go[number].set()
            works[number].result()
        assert fresh.submit(torch.get_num_threads).result() == 3


def test_several_cores_take_two_callers():
    assert [CorePool(cores).at_once for cores in (1, 2, 16)] == [1, 2, 2]


def test_an_error_waits_for_the_other_cores():
    first, done = threading.Event(), []

    def work(part):
        if part.start == 0:
            first.set()
            raise ValueError("at once")
        first.wait(timeout=10)
        time.sleep(0.05)
        done.append(part)

    with pytest.raises(ValueError, match="at once"):
        CorePool(2).run(work, 8, 64)
    assert len(done) == 1


def test_descriptors_do_not_depend_on_the_cores():
    config = EncoderConfig(NetworkConfig(), Preprocessing(), 64.0)
    encoder = Encoder(Checkpoint(config, config.build().state_dict()))
    random = np.random.default_rng(0)
    tiles = list(random.integers(0, 256, (9, 128, 128, 3), np.uint8))
    expected = encoder.encode_aerials(tiles)
    encoder._pool = CorePool(3)
    assert encoder.encode_aerials(tiles) == pytest.approx(expected, abs=1e-5)

"""One owner thread: order, isolation of failures, nothing dropped silently, nothing done twice."""

import threading
import time
from collections.abc import Iterator, Sequence

import pytest

from service.api.admission import OverloadedError
from service.api.batching import Batcher, DeadlineExceededError, OwnerDiedError


class Doubler:
    """Work that can be held up, and fails for negative numbers."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.go = threading.Event()
        self.go.set()
        self.entered = threading.Event()

    def __call__(self, numbers: Sequence[int]) -> list[int]:
        self.entered.set()
        assert self.go.wait(10.0)
        self.batches.append(list(numbers))
        if any(number < 0 for number in numbers):
            raise ValueError("negative")
        if 13 in numbers:
            raise SystemExit
        return [2 * number for number in numbers]


@pytest.fixture
def work() -> Doubler:
    return Doubler()


@pytest.fixture
def batcher(work: Doubler) -> Iterator[Batcher[int, int]]:
    made = Batcher(work, max_batch=4, max_waiting=8)
    yield made
    work.go.set()
    made.stop()


def later() -> float:
    return time.monotonic() + 10.0


def hold(work: Doubler, batcher: Batcher[int, int]) -> None:
    """Make the owner busy with a first query."""
    work.go.clear()
    batcher.submit(0, later())
    assert work.entered.wait(5.0)


def test_what_waits_is_answered_together(work: Doubler, batcher: Batcher[int, int]) -> None:
    hold(work, batcher)
    futures = [batcher.submit(number, later()) for number in range(1, 7)]
    work.go.set()
    assert [future.result(5.0) for future in futures] == [2, 4, 6, 8, 10, 12]
    assert work.batches == [[0], [1, 2, 3, 4], [5, 6]]


def test_one_bad_query_fails_alone(work: Doubler, batcher: Batcher[int, int]) -> None:
    hold(work, batcher)
    good, bad, other = (batcher.submit(number, later()) for number in (1, -1, 2))
    work.go.set()
    assert (good.result(5.0), other.result(5.0)) == (2, 4)
    with pytest.raises(ValueError, match="negative"):
        bad.result(5.0)


def test_cancelled_and_expired_queries_are_never_worked(
    work: Doubler, batcher: Batcher[int, int]
) -> None:
    hold(work, batcher)
    cancelled, expired = batcher.submit(1, later()), batcher.submit(2, time.monotonic() - 1.0)
    wanted = batcher.submit(3, later())
    assert cancelled.cancel()
    work.go.set()
    assert wanted.result(5.0) == 6
    with pytest.raises(DeadlineExceededError):
        expired.result(5.0)
    assert work.batches == [[0], [3]]


def test_a_full_queue_refuses(work: Doubler, batcher: Batcher[int, int]) -> None:
    hold(work, batcher)
    for number in range(8):
        batcher.submit(number, later())
    with pytest.raises(OverloadedError, match="8 requests"):
        batcher.submit(9, later())


def test_stopping_answers_what_waits(work: Doubler, batcher: Batcher[int, int]) -> None:
    hold(work, batcher)
    waiting = batcher.submit(1, later())
    work.go.set()
    batcher.stop()
    assert waiting.result(0.0) == 2
    with pytest.raises(OwnerDiedError):
        batcher.submit(2, later())


def test_a_dead_owner_is_noticed_by_everybody(work: Doubler, batcher: Batcher[int, int]) -> None:
    hold(work, batcher)
    fatal, waiting = batcher.submit(13, later()), None
    for number in range(4):
        waiting = batcher.submit(number, later())
    work.go.set()
    for future in (fatal, waiting):
        assert future is not None
        with pytest.raises(OwnerDiedError):
            future.result(5.0)
    assert not batcher.alive

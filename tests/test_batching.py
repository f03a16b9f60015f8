"""Threads share the model. Order is kept, and no query is lost, repeated or failed by another."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from service.runtime.admission import OverloadedError
from service.runtime.batching import Batcher, DeadlineExceededError, ModelStoppedError


class Doubler:
    """Doubles numbers. Waits for `go`, fails for negative numbers; 13 ends the thread."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.go, self.entered = threading.Event(), threading.Event()
        self.go.set()
        self.lock, self.at_once, self.most_at_once = threading.Lock(), 0, 0

    def __call__(self, numbers: Sequence[int]) -> list[int]:
        self._count(1)
        self.entered.set()
        assert self.go.wait(10.0)
        self.batches.append(list(numbers))
        self._count(-1)
        if min(numbers) < 0:
            raise ValueError("negative")
        if 13 in numbers:
            raise SystemExit
        return [2 * number for number in numbers]

    def _count(self, change: int) -> None:
        with self.lock:
            self.at_once += change
            self.most_at_once = max(self.most_at_once, self.at_once)


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
    """Make the thread busy with a first query."""
    work.go.clear()
    batcher.submit(0, later())
    assert work.entered.wait(5.0)


def test_waiting_queries_are_answered_together(work: Doubler, batcher: Batcher[int, int]) -> None:
    hold(work, batcher)
    futures = [batcher.submit(number, later()) for number in range(1, 7)]
    work.go.set()
    assert [future.result(5.0) for future in futures] == [2, 4, 6, 8, 10, 12]
    assert work.batches == [[0], [1, 2, 3, 4], [5, 6]]


def test_a_bad_query_fails_alone(work: Doubler, batcher: Batcher[int, int]) -> None:
    hold(work, batcher)
    good, bad, other = (batcher.submit(number, later()) for number in (1, -1, 2))
    work.go.set()
    assert (good.result(5.0), other.result(5.0)) == (2, 4)
    with pytest.raises(ValueError, match="negative"):
        bad.result(5.0)


def wait_until(true: Callable[[], bool]) -> None:
    until = time.monotonic() + 5.0
    while not true():
        assert time.monotonic() < until
        time.sleep(0.001)


@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_as_many_batches_as_allowed_use_the_model_at_once(work: Doubler, at_once: int) -> None:
    batcher = Batcher(work, max_batch=4, max_waiting=8, at_once=at_once)
    work.go.clear()
    futures = []
    for number in range(1, 9):
        futures.append(batcher.submit(-number if number == 4 else number, later()))
        wait_until(lambda: work.at_once >= min(number, at_once))  # noqa: B023
    assert work.at_once == at_once
    work.go.set()
    batcher.stop()  # waiting queries are answered, except the failing query
    assert isinstance(futures.pop(3).exception(0.0), ValueError)
    assert [future.result(0.0) for future in futures] == [2, 4, 6, 10, 12, 14, 16]
    assert work.most_at_once == at_once


def test_cancelled_and_expired_queries_never_reach_the_model(
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


def test_stopping_answers_waiting_queries(work: Doubler, batcher: Batcher[int, int]) -> None:
    hold(work, batcher)
    waiting = batcher.submit(1, later())
    work.go.set()
    batcher.stop()
    assert waiting.result(0.0) == 2
    with pytest.raises(ModelStoppedError):
        batcher.submit(2, later())


def test_every_caller_notices_a_dead_thread(work: Doubler, batcher: Batcher[int, int]) -> None:
    hold(work, batcher)
    fatal = batcher.submit(13, later())
    waiting = [batcher.submit(number, later()) for number in range(4)]
    work.go.set()
    for future in (fatal, *waiting):
        with pytest.raises(ModelStoppedError):
            future.result(5.0)
    assert not batcher.alive
    with pytest.raises(ModelStoppedError):
        batcher.submit(1, later())

"""Queries wait in a bounded queue for the few threads that use the model.

A free thread takes everything that waits, up to `max_batch`. So batches grow with load, and a lone
query never waits for company. Knows nothing of HTTP, images or tiles.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from asyncio import timeout
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from model.errors import SkyfixError
from service.runtime.admission import OverloadedError

logger = logging.getLogger(__name__)

POLL_S = 0.1  # how often an idle thread looks whether it should end

Q = TypeVar("Q")
A = TypeVar("A")


class DeadlineExceededError(SkyfixError):
    """The answer was not ready in time; the work was dropped."""


class ModelStoppedError(SkyfixError):
    """A thread that uses the model has died: the process must be restarted."""

    def __init__(self) -> None:
        super().__init__("the model's thread has stopped: restart the service")


@contextlib.asynccontextmanager
async def awaited(what: str, seconds: float) -> AsyncIterator[None]:
    """Bounds the wait for `what`. Raises DeadlineExceededError after `seconds`."""
    try:
        async with timeout(seconds):
            yield
    except TimeoutError:
        raise DeadlineExceededError(f"no {what} within {seconds:g} s: try again later") from None


@dataclass
class _Waiting(Generic[Q, A]):
    """A query in the queue."""

    query: Q
    deadline: float  # time.monotonic()
    future: Future[A] = field(default_factory=Future)

    def claim(self) -> bool:
        """Whether a caller still waits for the answer. An expired query fails here."""
        if not self.future.set_running_or_notify_cancel():
            return False
        if time.monotonic() > self.deadline:
            self.future.set_exception(DeadlineExceededError("expired while waiting for the model"))
            return False
        return True


class Batcher(Generic[Q, A]):
    """Answers batches of queries in `at_once` threads of its own.

    answer: from queries to as many answers, in order. When a batch of several fails, each query is
        tried alone, so that a bad query does not fail the others.
    on_batch: called with the size of each batch before the batch is answered.
    """

    def __init__(
        self,
        answer: Callable[[Sequence[Q]], Sequence[A]],
        *,
        max_batch: int,
        max_waiting: int,
        at_once: int = 1,
        on_batch: Callable[[int], None] = lambda size: None,
    ) -> None:
        self._answer = answer
        self._on_batch = on_batch
        self._max_batch = max_batch
        self._queue: queue.Queue[_Waiting[Q, A]] = queue.Queue(max_waiting)
        self._lock = threading.Lock()  # no query may enter once a thread has ended
        self._open = True
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, name=f"model-{number}", daemon=True)
            for number in range(at_once)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def alive(self) -> bool:
        """Whether all threads still take work."""
        return self._open and all(thread.is_alive() for thread in self._threads)

    @property
    def waiting(self) -> int:
        """How many queries wait for a thread now."""
        return self._queue.qsize()

    def submit(self, query: Q, deadline: float) -> Future[A]:
        """Queue a query. Cancelling the future before its batch starts drops the query.

        Args:
            deadline: in `time.monotonic()` seconds; past it the query is dropped.

        Raises:
            OverloadedError: the queue is full. ModelStoppedError: no thread will answer.
        """
        entry: _Waiting[Q, A] = _Waiting(query, deadline)
        with self._lock:
            if not self.alive:
                raise ModelStoppedError
            try:
                self._queue.put_nowait(entry)
            except queue.Full:
                raise OverloadedError(
                    f"{self._queue.maxsize} requests already wait for the model: try again later"
                ) from None
        return entry.future

    def stop(self, timeout_s: float = 30.0) -> None:
        """Answer what waits, then end the threads."""
        self._stopping.set()
        until = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def _run(self) -> None:
        batch: list[_Waiting[Q, A]] = []
        try:
            while self._open and not (self._stopping.is_set() and self._queue.empty()):
                if batch := self._take():
                    self._on_batch(len(batch))
                    self._work(batch)
        except BaseException:
            logger.critical("a model thread died: nothing can be located", exc_info=True)
        finally:
            self._close(batch)

    def _take(self) -> list[_Waiting[Q, A]]:
        taken: list[_Waiting[Q, A]] = []
        with contextlib.suppress(queue.Empty):
            taken.append(self._queue.get(timeout=POLL_S))
            while len(taken) < self._max_batch:
                taken.append(self._queue.get_nowait())
        return [entry for entry in taken if entry.claim()]

    def _work(self, batch: Sequence[_Waiting[Q, A]]) -> None:
        try:
            answers = self._answer([entry.query for entry in batch])
        except Exception as error:
            if len(batch) == 1:
                batch[0].future.set_exception(error)
                return
            logger.warning("a batch of %d failed (%s): trying each alone", len(batch), error)
            for entry in batch:
                self._work([entry])
            return
        for entry, answer in zip(batch, answers, strict=True):
            entry.future.set_result(answer)

    def _close(self, in_hand: Sequence[_Waiting[Q, A]]) -> None:
        with self._lock:
            self._open = False
        for entry in in_hand:
            if not entry.future.done():
                entry.future.set_exception(ModelStoppedError())
        with contextlib.suppress(queue.Empty):  # another thread may empty the queue meanwhile
            while True:
                entry = self._queue.get_nowait()
                if entry.future.set_running_or_notify_cancel():
                    entry.future.set_exception(ModelStoppedError())

"""A few threads have the model at a time; requests wait for them in a bounded queue.

Whatever waits when the model becomes free is taken together (up to `max_batch`), so batches grow
with load and a lone request never waits for company. There is a thread more than may have the
model: it finishes what it has encoded. Knows nothing of HTTP, images or tiles.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from model.errors import SkyfixError
from service.runtime.admission import OverloadedError

logger = logging.getLogger(__name__)

Q = TypeVar("Q")
A = TypeVar("A")


class DeadlineExceededError(SkyfixError):
    """The answer was not ready in time; the work was dropped."""


@contextlib.asynccontextmanager
async def awaited(what: str, seconds: float) -> AsyncIterator[None]:
    """Around the wait for `what`; raises DeadlineExceededError when that takes longer."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise DeadlineExceededError(f"no {what} within {seconds:g} s: try again later") from None


class OwnerDiedError(SkyfixError):
    """The thread that owns the model is gone: the process must be restarted."""


@dataclass
class _Job(Generic[Q, A]):
    query: Q
    deadline: float  # time.monotonic()
    future: Future[A] = field(default_factory=Future)

    def claim(self) -> bool:
        """True when somebody still waits for it; cancelled and expired jobs end here."""
        if not self.future.set_running_or_notify_cancel():
            return False
        if time.monotonic() > self.deadline:
            self.future.set_exception(DeadlineExceededError("expired while waiting for the model"))
            return False
        return True


class Batcher(Generic[Q, A]):
    """Runs `begin` on batches of queries, `at_once` at a time, in threads of its own.

    begin: from queries to what finishes them, which gives as many answers, in order; any number
        may be finished at the same time. When a batch of several fails, each query is tried alone,
        so one bad query cannot take the others down.
    on_batch: told the size of each batch before its work begins.
    """

    def __init__(
        self,
        begin: Callable[[Sequence[Q]], Callable[[], Sequence[A]]],
        *,
        max_batch: int,
        max_waiting: int,
        at_once: int = 1,
        on_batch: Callable[[int], None] = lambda size: None,
    ) -> None:
        self._begin = begin
        self._on_batch = on_batch
        self._max_batch = max_batch
        self._waiting: queue.Queue[_Job[Q, A]] = queue.Queue(max_waiting)
        self._arrivals = threading.Semaphore(0)  # at least one for each job that waits
        self._lock = threading.Lock()  # no job may enter once an owner has gone
        self._turn = threading.Semaphore(at_once)  # held by the threads that have the model
        self._open = True
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, name=f"model-owner-{number}", daemon=True)
            for number in range(at_once + 1)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def alive(self) -> bool:
        """Whether the owners still take work."""
        return self._open and all(thread.is_alive() for thread in self._threads)

    @property
    def waiting(self) -> int:
        """How many queries wait for the owner now."""
        return self._waiting.qsize()

    def submit(self, query: Q, deadline: float) -> Future[A]:
        """Queue one query; cancelling the future before its batch starts drops it.

        Args:
            deadline: in `time.monotonic()` seconds; past it the query is dropped.

        Raises:
            OverloadedError: the queue is full. OwnerDiedError: nobody will answer.
        """
        job: _Job[Q, A] = _Job(query, deadline)
        with self._lock:
            if not self.alive:
                raise OwnerDiedError("the model's thread has stopped: restart the service")
            try:
                self._waiting.put_nowait(job)
            except queue.Full:
                raise OverloadedError(
                    f"{self._waiting.maxsize} requests already wait for the model: try again later"
                ) from None
        self._arrivals.release()
        return job.future

    def stop(self, timeout_s: float = 30.0) -> None:
        """Answer what waits, then end the threads."""
        self._stopping.set()
        until = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def _run(self) -> None:
        jobs: list[_Job[Q, A]] = []
        try:
            while self._open and not (self._stopping.is_set() and self._waiting.empty()):
                # Not in the turn: whoever tries a batch's queries alone would wait for idle owners.
                if not self._arrivals.acquire(timeout=0.1):
                    continue
                with self._turn:
                    jobs = [job for job in self._take() if job.claim()]
                    if not jobs:
                        continue
                    self._on_batch(len(jobs))
                    finish = self._begun(jobs)
                self._finish(jobs, finish)
        except BaseException:
            logger.critical("the model's thread died; nothing can be located", exc_info=True)
        finally:
            self._close(jobs)

    def _take(self) -> list[_Job[Q, A]]:
        jobs: list[_Job[Q, A]] = []
        with contextlib.suppress(queue.Empty):
            while len(jobs) < self._max_batch:
                jobs.append(self._waiting.get_nowait())
                if len(jobs) > 1:  # the first one's arrival has been waited for
                    self._arrivals.acquire(blocking=False)
        return jobs

    def _begun(self, jobs: Sequence[_Job[Q, A]]) -> Callable[[], Sequence[A]]:
        """What finishes the jobs; it raises what beginning them has raised."""
        try:
            return self._begin([job.query for job in jobs])
        except Exception as error:
            failure = error

        def fail() -> Sequence[A]:
            raise failure

        return fail

    def _finish(self, jobs: Sequence[_Job[Q, A]], finish: Callable[[], Sequence[A]]) -> None:
        try:
            answers = finish()
        except Exception as error:
            if len(jobs) == 1:
                jobs[0].future.set_exception(error)
                return
            logger.warning("a batch of %d failed (%s); trying each alone", len(jobs), error)
            with self._turn:
                alone = [self._begun([job]) for job in jobs]
            for job, rest in zip(jobs, alone, strict=True):
                self._finish([job], rest)
            return
        for job, answer in zip(jobs, answers, strict=True):
            job.future.set_result(answer)

    def _close(self, in_hand: Sequence[_Job[Q, A]]) -> None:
        with self._lock:
            self._open = False
        gone = OwnerDiedError("the model's thread has stopped: restart the service")
        for job in in_hand:
            if not job.future.done():
                job.future.set_exception(gone)
        with contextlib.suppress(queue.Empty):  # which another owner may have made it
            while True:
                job = self._waiting.get_nowait()
                if job.future.set_running_or_notify_cancel():
                    job.future.set_exception(gone)

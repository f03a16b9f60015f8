"""A request's way through decoding threads and the model's owner, with bounds and a deadline."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from model.errors import SkyfixError
from service.api.batching import Batcher, DeadlineExceededError, OverloadedError
from service.api.canary import canary_panorama
from service.fix import Fix
from service.hints import Hints
from service.localizer import Localizer, Query
from service.settings import Settings

T = TypeVar("T")


class CanaryError(SkyfixError):
    """The service answers, but not sensibly."""


class Pipeline:
    """Decodes in a small thread pool, answers in the thread that owns model and index.

    A cancelled or expired request never reaches the encoder.
    """

    def __init__(self, localizer: Localizer, settings: Settings) -> None:
        self._localizer = localizer
        self._deadline_s = settings.request_deadline_s
        self._max_in_flight = settings.max_in_flight
        self._in_flight = 0
        self._decoders = ThreadPoolExecutor(settings.decode_threads, "decode")
        # The canary comes on top of the admitted requests, hence one more place.
        self._owner: Batcher[Query, Fix] = Batcher(
            localizer.answer, max_batch=settings.max_batch, max_waiting=settings.max_in_flight + 1
        )

    @property
    def alive(self) -> bool:
        """Whether the model's owner still answers."""
        return self._owner.alive

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Holds one of the places for uploads in flight, from the first byte to the answer.

        Raises:
            OverloadedError: all places are taken.
        """
        if self._in_flight >= self._max_in_flight:
            raise OverloadedError(
                f"{self._in_flight} requests are in flight, which is the limit: try again later"
            )
        self._in_flight += 1
        try:
            yield
        finally:
            self._in_flight -= 1

    async def locate(self, data: bytes, hints: Hints, top_k: int) -> Fix:
        """See `Localizer.locate`.

        Raises:
            DeadlineExceededError: not answered in time. OwnerDiedError: nobody will answer.
        """
        deadline = time.monotonic() + self._deadline_s
        try:
            async with asyncio.timeout(self._deadline_s):
                query = await self._prepare(data, hints, top_k)
                return await asyncio.wrap_future(self._owner.submit(query, deadline))
        except TimeoutError:
            raise DeadlineExceededError(
                f"no answer within {self._deadline_s:g} s: try again later"
            ) from None

    async def canary(self) -> Fix:
        """Locate the made-up panorama.

        Raises:
            CanaryError: the answer is not one. Else like `locate`.
        """
        fix = await self.locate(canary_panorama(), Hints(heading_deg=0.0), 1)
        if not fix.matches or not math.isfinite(fix.matches[0].distance):
            raise CanaryError(f"index version {fix.index_version} gave the canary no match")
        return fix

    async def _prepare(self, data: bytes, hints: Hints, top_k: int) -> Query:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._decoders, self._localizer.prepare, data, hints, top_k
        )

    async def stop(self) -> None:
        """Answer what waits, then end the threads."""
        await asyncio.to_thread(self._owner.stop)
        self._decoders.shutdown(wait=False, cancel_futures=True)


async def unless_gone(gone: Awaitable[None], work: Awaitable[T]) -> T | None:
    """The result of `work`; None, with `work` cancelled, when `gone` finishes first."""
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(gone)
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        working.cancel()
        leaving.cancel()

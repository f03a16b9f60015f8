"""A request's way through decoding and model threads, with bounds and a deadline."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import math
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from model.errors import SkyfixError
from service.locate.fix import Fix
from service.locate.hints import Hints
from service.locate.localizer import Query
from service.runtime.admission import Admission
from service.runtime.batching import Batcher, awaited
from service.runtime.canary import canary_panorama
from service.runtime.live_localizer import LiveLocalizer, Prepared, answer
from service.runtime.metrics import Metrics
from service.settings import Settings

DECODER_NICENESS = 5  # from 0 to 19


class CanaryError(SkyfixError):
    """The service answers, but finds no match for the canary."""


class Pipeline:
    """Decodes in a small thread pool, then encodes and searches in the model's threads.

    A cancelled or expired request never reaches the encoder.
    """

    def __init__(self, live: LiveLocalizer, settings: Settings, metrics: Metrics) -> None:
        self._live = live
        self._metrics = metrics
        self._deadline_s = settings.request_deadline_s
        self.admission = Admission(
            settings.max_in_flight,
            settings.max_in_flight_bytes,
            settings.max_arriving,
            settings.max_stretch,
        )
        self._decoders = ThreadPoolExecutor(settings.decode_threads, "decode", _give_way)
        self._batcher: Batcher[Prepared, Fix] = Batcher(
            answer,
            max_batch=settings.max_batch,
            max_waiting=settings.max_in_flight + 1,  # the canary is not admitted
            at_once=live.localizer.encoder.at_once,
            on_batch=metrics.batches.observe,
        )
        self._canary: asyncio.Task[Fix] | None = None

    @property
    def alive(self) -> bool:
        """Whether the model's threads still answer."""
        return self._batcher.alive

    @property
    def waiting(self) -> int:
        """How many panoramas are decoded and wait for the model."""
        return self._batcher.waiting

    async def locate(
        self, data: bytes, hints: Hints, top_k: int = 10, explain: bool = False
    ) -> Fix:
        """See `Localizer.locate`.

        Raises:
            DeadlineExceededError: not answered in time. ModelStoppedError: no thread will answer.
        """
        deadline = time.monotonic() + self._deadline_s
        async with awaited("answer", self._deadline_s):
            prepared = await self._prepare(data, hints, top_k, explain)
            fix = await asyncio.wrap_future(self._batcher.submit(prepared, deadline))
        self._metrics.observe_stages(fix.timings_ms)
        return fix

    async def canary(self) -> Fix:
        """Locate the made-up panorama. Callers at the same time share an answer.

        Raises:
            CanaryError: no match was found. Else see `locate`.
        """
        if self._canary is None or self._canary.done():
            self._canary = asyncio.create_task(self._locate_canary())
        return await asyncio.shield(self._canary)

    async def _locate_canary(self) -> Fix:
        answered = False
        try:
            fix = await self.locate(canary_panorama(), Hints(heading_deg=0.0), 1)
            if not fix.matches or not math.isfinite(fix.matches[0].distance):
                raise CanaryError(f"index version {fix.index_version} gave the canary no match")
            answered = True
            return fix
        finally:
            self._metrics.observe_canary(answered=answered)

    async def _prepare(self, data: bytes, hints: Hints, top_k: int, explain: bool) -> Prepared:
        localizer = self._live.localizer
        upload = [data]

        def prepare() -> Query:
            return localizer.prepare(upload.pop(), hints, top_k, explain)

        run = contextvars.copy_context().run  # log lines get the request's id
        loop = asyncio.get_running_loop()
        try:
            return localizer, await loop.run_in_executor(self._decoders, run, prepare)
        finally:
            upload.clear()  # cancelled work stays queued until a decoder is free, without its bytes

    async def stop(self) -> None:
        """Answer what waits, then end the threads."""
        await asyncio.to_thread(self._batcher.stop)
        self._decoders.shutdown(wait=False, cancel_futures=True)


def _give_way() -> None:
    """Let the event loop and the encoder come first: they finish requests, and refuse quickly while
    large uploads are decoded. On Linux each thread has its own priority."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), DECODER_NICENESS)

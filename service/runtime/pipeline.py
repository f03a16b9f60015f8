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
from typing import TYPE_CHECKING

from model.errors import SkyfixError
from service.locate.drive_path import Frame
from service.locate.drive_times import Driven, Taken
from service.locate.fix import Fix
from service.locate.hints import Hints
from service.locate.localizer import Localizer, Query
from service.runtime.admission import Admission
from service.runtime.batching import Batcher, awaited
from service.runtime.canary import canary_panorama
from service.runtime.drives import HeldDrive, Shot, locate
from service.runtime.live_localizer import LiveLocalizer, Prepared, answer
from service.runtime.metrics import Metrics
from service.settings import Settings

if TYPE_CHECKING:
    from service.index.search import TileIndex

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
        self._followers = ThreadPoolExecutor(1, "drive", _give_way)  # a long drive takes memory
        self._batcher: Batcher[Prepared, Fix | Frame] = Batcher(
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
        _, fix = await self._answer(self._live.localizer, None, data, hints, top_k, explain)
        assert isinstance(fix, Fix)
        self._metrics.observe_stages(fix.timings_ms)
        return fix

    async def new_drive(self) -> HeldDrive:
        """A drive without frames, for the live index. Raises the errors of `LiveIndex.get`."""
        localizer = self._live.localizer
        return HeldDrive(localizer, await asyncio.to_thread(localizer.live.get))

    async def shot(self, drive: HeldDrive, data: bytes, hints: Hints, taken: Taken | None) -> Shot:
        """An image's candidates in the drive's index version. Raises the errors of `locate`.

        Args:
            taken: when the image was taken; None: as its EXIF says.
        """
        query, frame = await self._answer(drive.localizer, drive.index, data, hints)
        assert isinstance(frame, Frame)
        return Shot.of(frame, taken or (Taken.at(query.time) if query.time else None))

    async def locate_drive(self, drive: HeldDrive) -> Driven:
        """The drives that the images up to now make. Callers at the same time share the work.

        Raises:
            DeadlineExceededError: the work goes on, and a later call gets its result.
        """
        images = len(drive.shots)
        async with awaited("answer", self._deadline_s):
            while len(drive.located.places) < images:
                if drive.locating is None or drive.locating.done():
                    drive.locating = asyncio.create_task(self._locate_drive(drive))
                await asyncio.shield(drive.locating)
        return drive.located

    async def _locate_drive(self, drive: HeldDrive) -> None:
        work, shots = asyncio.get_running_loop().run_in_executor, tuple(drive.shots)
        drive.located = await work(self._followers, locate, drive.index, shots)

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

    async def _answer(
        self,
        localizer: Localizer,
        index: TileIndex | None,
        data: bytes,
        hints: Hints,
        top_k: int = 1,
        explain: bool = False,
    ) -> tuple[Query, Fix | Frame]:
        deadline = time.monotonic() + self._deadline_s
        async with awaited("answer", self._deadline_s):
            query = await self._prepare(localizer, data, hints, top_k, explain)
            work = self._batcher.submit(Prepared(localizer, query, index), deadline)
            return query, await asyncio.wrap_future(work)

    async def _prepare(
        self, localizer: Localizer, data: bytes, hints: Hints, top_k: int, explain: bool
    ) -> Query:
        upload = [data]

        def prepare() -> Query:
            return localizer.prepare(upload.pop(), hints, top_k, explain)

        run = contextvars.copy_context().run  # log lines get the request's id
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._decoders, run, prepare)
        finally:
            upload.clear()  # cancelled work stays queued until a decoder is free, without its bytes

    async def stop(self) -> None:
        """Answer what waits, then end the threads."""
        await asyncio.to_thread(self._batcher.stop)
        for threads in (self._decoders, self._followers):
            threads.shutdown(wait=False, cancel_futures=True)


def _give_way() -> None:
    """Let the event loop and the encoder come first: they finish requests, and refuse quickly while
    large uploads are decoded. On Linux each thread has its own priority."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), DECODER_NICENESS)

"""Locates many images at the service's rate: decoded in threads, encoded in batches."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice

from model.errors import SkyfixError
from service.locate.fix import Fix
from service.locate.localizer import Localizer, Query
from service.runtime.batching import Batcher
from service.survey.images import SurveyError, SurveyImage
from service.survey.outcome import Outcome

Finish = Callable[[SurveyImage, bytes, Outcome], Outcome]  # image, file's content, outcome


MAX_FILE_BYTES = 512 * 1024 * 1024  # more than an image of as many pixels as can be decoded


def locate_images(
    localizer: Localizer,
    images: Sequence[SurveyImage],
    finish: Finish | None,
    *,
    decode_threads: int,
    max_batch: int,
) -> Iterator[tuple[SurveyImage, Outcome]]:
    """Images and outcomes, as they get done. A bounded number of images is in memory.

    Args:
        finish: the last step of a located image, in a thread of its own.
        decode_threads, max_batch: see the settings of these names.

    Raises:
        IndexMissing, EncoderMismatch, VersionCorrupt: from the live index; they concern all images.
    """
    at_once = localizer.encoder.at_once
    # One batch is encoded while the next is decoded, so that the encoder never waits.
    width = decode_threads + 2 * max_batch * at_once
    batcher: Batcher[Query, Fix] = Batcher(
        localizer.answer, max_batch=max_batch, max_waiting=width, at_once=at_once
    )
    decoding = threading.Semaphore(decode_threads)

    def locate(image: SurveyImage) -> Outcome:
        try:
            if image.problem is not None:
                return Outcome(image.file, problem=image.problem)
            data = read_file(image)
            with decoding:
                query = localizer.prepare(data, image.hints, top_k=1)
                time = image.time or query.time
        except SkyfixError as error:
            return Outcome(image.file, problem=str(error))
        fix = batcher.submit(query, math.inf).result()
        outcome = Outcome.of(image.file, fix, time.isoformat() if time else None)
        return finish(image, data, outcome) if finish else outcome

    threads = ThreadPoolExecutor(width, "survey")
    try:
        yield from _as_completed(threads, locate, images, width)
    finally:
        threads.shutdown(cancel_futures=True)
        batcher.stop()


def _as_completed(
    threads: ThreadPoolExecutor,
    locate: Callable[[SurveyImage], Outcome],
    images: Sequence[SurveyImage],
    width: int,
) -> Iterator[tuple[SurveyImage, Outcome]]:
    """Few are submitted ahead, so that an error or an interruption ends the survey soon."""
    rest = iter(images)
    running: dict[Future[Outcome], SurveyImage] = {}
    while True:
        for image in islice(rest, 2 * width - len(running)):
            running[threads.submit(locate, image)] = image
        if not running:
            return
        for done in wait(running, return_when=FIRST_COMPLETED).done:
            yield running.pop(done), done.result()


def read_file(image: SurveyImage) -> bytes:
    """The image's file. Raises SurveyError."""
    try:
        if (size := image.path.stat().st_size) > MAX_FILE_BYTES:
            raise SurveyError(f"the file has {size} bytes; the limit is {MAX_FILE_BYTES}")
        return image.path.read_bytes()
    except OSError as error:
        raise SurveyError(f"the file cannot be read: {error.strerror}") from error

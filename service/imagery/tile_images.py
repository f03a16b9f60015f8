"""The images of catalogued tiles, cut anew from their imagery."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, groupby, islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.errors import SkyfixError
from model.images import Rgb
from service.imagery.grid import GridPlace
from service.imagery.gridded_source import runs
from service.imagery.reading import Reading
from service.imagery.source import Cut, Source, SourceError, SourceMissing
from service.imagery.source_kinds import open_again
from service.index.catalogue import Catalogue, SourceRecord, Tile

MAX_READERS = 8  # threads; more would wait for the interpreter's lock


class ImageryChanged(SkyfixError):
    """A source's files are not those that were ingested."""


def tile_image(catalogue: Catalogue, tile_id: str, pixels: int) -> Rgb:
    """A tile's aerial image, uint8 (pixels, pixels, 3), cut anew from its imagery.

    Raises:
        TileUnknown: no such tile.
        SourceMissing, SourceError: the imagery is gone or damaged.
    """
    tile = catalogue.tile(tile_id)
    record = catalogue.source(tile.source)
    with contextlib.closing(reopen(record)) as source:
        return source.read(cut_of(tile, record), pixels).pixels


def reopen(record: SourceRecord) -> Source:
    """The imagery behind a catalogue entry.

    Raises:
        SourceMissing: the imagery is no longer where it was ingested from.
    """
    try:
        reading = Reading.stored(record.reading)
        where = Path(record.path)
        return open_again(record.kind, where, record.name, record.signature, reading)
    except SourceMissing as error:
        remedy = "put it back, or ingest it from where it is now under the same name"
        raise SourceMissing(
            f"the imagery of source {record.name!r} is gone from {record.path}: {remedy}",
            public=f"the imagery of source {record.name!r} is gone: {remedy}",
        ) from error


def cut_of(tile: Tile, record: SourceRecord) -> Cut:
    """The cut that a catalogued tile was made from; `record` is its source's."""
    place = None if record.stride_m is None else GridPlace.nearest(tile.centre, record.stride_m)
    return Cut(tile.tile_id, tile.centre, tile.size_m, place)


class TileImages:
    """Reads tiles' images two batches ahead, so that the encoder need not wait.

    A core cuts about a thousand tiles a second; a GPU or many cores encode more. So every core
    cuts, in a thread with sources of its own: a source serves one thread.
    """

    def __init__(self, records: dict[str, SourceRecord], tiles: list[Tile], pixels: int) -> None:
        self._records, self._tiles, self._pixels = records, tiles, pixels
        self._opened: dict[tuple[int, str], Source] = {}  # by thread and name
        threads = min(MAX_READERS, len(os.sched_getaffinity(0)))
        self._readers = ThreadPoolExecutor(threads, thread_name_prefix="imagery")

    def __enter__(self) -> TileImages:
        return self

    def __exit__(self, *_: object) -> None:
        self._readers.shutdown(cancel_futures=True)
        for source in self._opened.values():
            source.close()

    def batches(
        self, rows: NDArray[np.intp], size: int
    ) -> Iterator[tuple[NDArray[np.intp], list[Rgb]]]:
        """(rows, their images), `size` at a time.

        Raises:
            ImageryChanged, SourceError: an image is not as ingested, or is gone. Raised after the
                last batch, too: images of earlier batches may be of changed files.
        """
        images = chain.from_iterable(self._read_ahead(rows, 2 * size))
        try:
            for start in range(0, len(rows), size):
                part = rows[start : start + size]
                yield part, list(islice(images, len(part)))
        except SourceError:
            self.check()  # a file that is being written looks damaged
            raise
        self.check()

    def check(self) -> None:
        """To be called in the thread that takes the batches, before their descriptors are kept.

        Raises:
            ImageryChanged: files are not those that were ingested, so images read since the last
                check may show either.
        """
        for thread, name in list(self._opened):
            if thread == threading.get_ident():
                self._check(name)

    def _read_ahead(self, rows: NDArray[np.intp], tiles: int) -> Iterator[list[Rgb]]:
        """The images of every run, while up to `tiles` more tiles are being read."""
        waiting: deque[tuple[int, Future[list[Rgb]]]] = deque()
        for name, group in groupby((self._tiles[row] for row in rows), lambda tile: tile.source):
            self._source(name)  # opened in this thread too, for `check`
            cuts = (cut_of(tile, self._records[name]) for tile in group)
            for run in runs(cuts, self._pixels):
                waiting.append((len(run), self._readers.submit(self._read, name, run)))
                while sum(count for count, _ in waiting) > tiles:
                    yield waiting.popleft()[1].result()
        for _, images in waiting:
            yield images.result()

    def _read(self, name: str, run: list[Cut]) -> list[Rgb]:
        return [image.pixels for image in self._source(name).read_run(run, self._pixels)]

    def _source(self, name: str) -> Source:
        """This thread's source of that name."""
        own = threading.get_ident(), name
        if own not in self._opened:
            self._opened[own] = reopen(self._records[name])
            self._check(name)
        return self._opened[own]

    def _check(self, name: str) -> None:
        record = self._records[name]
        with contextlib.suppress(OSError):  # a file is gone
            if self._source(name).signature() == record.signature:
                return
        raise ImageryChanged(
            f"the imagery of source {name!r} at {record.path} has changed since it was "
            f"ingested on {record.ingested_at}: ingest it again"
        )

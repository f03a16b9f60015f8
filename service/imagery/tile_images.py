"""The pictures of catalogued tiles, cut anew from their imagery."""

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
from service.imagery.source import Cut, Source, SourceError, SourceMissing
from service.imagery.source_kinds import open_source
from service.index.catalogue import Catalogue, SourceRecord, Tile

MAX_READERS = 8  # threads; past that the interpreter's lock holds them up


class ImageryChanged(SkyfixError):
    """A source's files are not those that were ingested."""


def tile_image(catalogue: Catalogue, tile_id: str, pixels: int) -> Rgb:
    """The aerial picture of a tile, uint8 (pixels, pixels, 3), cut from its imagery anew.

    Raises:
        TileUnknown: no such tile.
        SourceMissing, SourceError: its imagery is gone or damaged.
    """
    tile = catalogue.tile(tile_id)
    source = reopen(catalogue.source(tile.source))
    try:
        return source.read(_cut(tile), pixels).pixels
    finally:
        source.close()


def reopen(record: SourceRecord) -> Source:
    """The imagery behind a catalogue entry.

    Raises:
        SourceMissing: it is no longer where it was ingested from.
    """
    try:
        return open_source(Path(record.path), record.name, record.signature)
    except SourceMissing as error:
        remedy = "put it back, or ingest it from where it is now under the same name"
        raise SourceMissing(
            f"the imagery of source {record.name!r} is gone from {record.path}: {remedy}",
            public=f"the imagery of source {record.name!r} is gone: {remedy}",
        ) from error


def _cut(tile: Tile) -> Cut:
    return Cut(tile.tile_id, tile.centre, tile.size_m)


class TilePictures:
    """Reads tiles' pictures, two batches ahead of whoever encodes them.

    A core cuts about a thousand tiles a second, fewer than a GPU or many cores encode: so every
    core cuts, each thread from rasters of its own, which bear no second one.
    """

    def __init__(self, records: dict[str, SourceRecord], tiles: list[Tile], pixels: int) -> None:
        self._records, self._tiles, self._pixels = records, tiles, pixels
        self._mine = threading.local()
        self._open: list[Source] = []
        threads = min(MAX_READERS, len(os.sched_getaffinity(0)))
        self._readers = ThreadPoolExecutor(threads, thread_name_prefix="imagery")

    def __enter__(self) -> TilePictures:
        return self

    def __exit__(self, *_: object) -> None:
        self._readers.shutdown(cancel_futures=True)
        for source in self._open:
            source.close()

    def batches(
        self, rows: NDArray[np.intp], size: int
    ) -> Iterator[tuple[NDArray[np.intp], list[Rgb]]]:
        """(rows, their pictures), `size` at a time.

        Raises:
            ImageryChanged, SourceError: a picture is not what was ingested, or is gone; after the
                last batch, one of those before may have been.
        """
        pictures = chain.from_iterable(self._read_ahead(rows, 2 * size))
        try:
            for start in range(0, len(rows), size):
                part = rows[start : start + size]
                yield part, list(islice(pictures, len(part)))
        except SourceError:
            self.check()  # a file that is being written looks damaged
            raise
        self.check()

    def check(self) -> None:
        """To be asked in the thread that takes the batches, before what they gave is kept.

        Raises:
            ImageryChanged: files are not those that were ingested, so pictures read since the last
                check may show either.
        """
        for name, source in self._sources().items():
            _check(source, self._records[name])

    def _read_ahead(self, rows: NDArray[np.intp], tiles: int) -> Iterator[list[Rgb]]:
        """The pictures of every run, with up to `tiles` tiles more being read."""
        waiting: deque[tuple[int, Future[list[Rgb]]]] = deque()
        for name, run in self._runs(rows):
            waiting.append((len(run), self._readers.submit(self._pictures, name, run)))
            while sum(count for count, _ in waiting) > tiles:
                yield waiting.popleft()[1].result()
        for _, pictures in waiting:
            yield pictures.result()

    def _runs(self, rows: NDArray[np.intp]) -> Iterator[tuple[str, list[Cut]]]:
        """What is read together, each with its source's name."""
        for name, tiles in groupby((self._tiles[row] for row in rows), lambda tile: tile.source):
            for run in self._source(name).runs(map(_cut, tiles), self._pixels):
                yield name, run

    def _pictures(self, name: str, run: list[Cut]) -> list[Rgb]:
        return [one.pixels for one in self._source(name).read_run(run, self._pixels)]

    def _source(self, name: str) -> Source:
        """This thread's own."""
        opened = self._sources()
        if name not in opened:
            opened[name] = _unchanged(self._records[name])
            self._open.append(opened[name])
        return opened[name]

    def _sources(self) -> dict[str, Source]:
        """Those that this thread has opened."""
        if not hasattr(self._mine, "sources"):
            self._mine.sources = {}
        opened: dict[str, Source] = self._mine.sources
        return opened


def _unchanged(record: SourceRecord) -> Source:
    source = reopen(record)
    try:
        _check(source, record)
    except BaseException:
        source.close()
        raise
    return source


def _check(source: Source, record: SourceRecord) -> None:
    with contextlib.suppress(OSError):  # one of its files is gone
        if source.signature() == record.signature:
            return
    raise ImageryChanged(
        f"the imagery of source {record.name!r} at {record.path} has changed since it was "
        f"ingested on {record.ingested_at}: ingest it again"
    )

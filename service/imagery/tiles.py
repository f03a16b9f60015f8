"""The pictures of catalogued tiles, cut anew from their imagery."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.errors import SkyfixError
from model.images import Rgb
from service.imagery.source import Cut, Source, SourceMissing
from service.imagery.sources import open_source
from service.index.catalogue import Catalogue, SourceRecord, Tile


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
        return source.read(Cut(tile.tile_id, tile.centre, tile.size_m), pixels).pixels
    finally:
        source.close()


def reopen(record: SourceRecord) -> Source:
    """The imagery behind a catalogue entry.

    Raises:
        SourceMissing: it is no longer where it was ingested from.
    """
    try:
        return open_source(Path(record.path), record.name)
    except SourceMissing as error:
        raise SourceMissing(
            f"the imagery of source {record.name!r} is gone from {record.path}: put it back, or "
            "ingest it from where it is now under the same name"
        ) from error


class TilePictures:
    """Reads tiles' pictures, one batch ahead of whoever encodes them."""

    def __init__(self, records: dict[str, SourceRecord], tiles: list[Tile], pixels: int) -> None:
        self._records, self._tiles, self._pixels = records, tiles, pixels
        self._open: dict[str, Source] = {}
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="imagery")

    def __enter__(self) -> TilePictures:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.shutdown(cancel_futures=True)
        for source in self._open.values():
            source.close()

    def batches(
        self, rows: NDArray[np.intp], size: int
    ) -> Iterator[tuple[NDArray[np.intp], list[Rgb]]]:
        """(rows, their pictures), `size` at a time.

        Raises:
            ImageryChanged, SourceError: a picture is not what was ingested, or is gone.
        """
        ahead: tuple[NDArray[np.intp], Future[list[Rgb]]] | None = None
        for start in range(0, len(rows) + size, size):
            part = rows[start : start + size]
            ready, ahead = ahead, (part, self._reader.submit(self._read, part))
            if ready is not None:
                yield ready[0], ready[1].result()

    def _read(self, rows: NDArray[np.intp]) -> list[Rgb]:
        return [self._picture(self._tiles[row]) for row in rows]

    def _picture(self, tile: Tile) -> Rgb:
        if tile.source not in self._open:
            self._open[tile.source] = _unchanged(self._records[tile.source])
        cut = Cut(tile.tile_id, tile.centre, tile.size_m)
        return self._open[tile.source].read(cut, self._pixels).pixels


def _unchanged(record: SourceRecord) -> Source:
    source = reopen(record)
    if source.signature() != record.signature:
        source.close()
        raise ImageryChanged(
            f"the imagery of source {record.name!r} at {record.path} has changed since it was "
            f"ingested on {record.ingested_at}: ingest it again"
        )
    return source

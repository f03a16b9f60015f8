"""Map tiles in a PMTiles archive: one file, whose directories lead from z/x/y to a picture."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from pmtiles.reader import Reader as Archive
from pmtiles.tile import (
    MagicNumberNotFound,
    SpecVersionUnsupported,
    TileType,
    deserialize_directory,
    tileid_to_zxy,
)

from model.file_kind import kind_of_file
from service.imagery.grid import Extent
from service.imagery.map_tile_levels import MAX_ZOOM
from service.imagery.map_tiles import MapTileSource
from service.imagery.reading import AS_STATED, Reading
from service.imagery.source import SourceError
from service.imagery.tile_scheme import Decision, only_xyz

PICTURES = (TileType.PNG, TileType.JPEG, TileType.WEBP, TileType.UNKNOWN)
MAX_DEPTH = 3  # directories below the root, as the format says
DAMAGE = (EOFError, IndexError, OSError, ValueError, zlib.error)


class Span(NamedTuple):
    """A picture's bytes in an archive."""

    archive: Path
    offset: int
    length: int

    def __str__(self) -> str:
        """For messages."""
        return f"{self.archive}: the picture of {self.length} bytes at {self.offset}"


Levels = Mapping[int, Mapping[int, Mapping[int, Span]]]


class PmtilesSource(MapTileSource):
    """The map tiles of an archive, which count their rows from the north."""

    kind = "pmtiles"

    def __init__(
        self,
        path: Path,
        name: str | None = None,
        reading: Reading = AS_STATED,
        ingested: str | None = None,
    ) -> None:
        """See MapTileSource."""
        super().__init__(path, name, reading, ingested)
        self.attribution = str(Archive(_reader(path)).metadata().get("attribution") or "")

    def _files(self) -> Levels:
        stat = self.path.stat()
        return _levels(self.path, stat.st_size, stat.st_mtime_ns)

    def _bytes(self, file: Any) -> bytes:
        return _reader(file.archive)(file.offset, file.length)

    def _size(self, file: Any) -> int:
        return int(file.length)

    def _stamp(self) -> str:
        stat = self.path.stat()
        return f"{stat.st_size}-{stat.st_mtime_ns}"

    def _scheme(self, xyz: Extent, reading: Reading) -> Decision:
        return only_xyz("PMTiles archives", reading.scheme)


def _reader(path: Path) -> Callable[[int, int], bytes]:
    """A function of offset and length that reads the archive."""

    def read(offset: int, length: int) -> bytes:
        with path.open("rb") as archive:
            archive.seek(offset)
            return archive.read(length)

    return read


@lru_cache(2)
def _levels(path: Path, size: int, changed_ns: int) -> Levels:
    """The pictures by zoom, column and row. Kept: a service opens a source for each tile it shows.

    Raises:
        SourceError: no archive of version 3, damaged, or of other contents than pictures.
    """
    found: dict[int, dict[int, dict[int, Span]]] = {}
    try:
        header = Archive(_reader(path)).header()
        if header["tile_type"] not in PICTURES:
            kind = header["tile_type"].name
            raise SourceError(
                f"{path} holds {kind} map tiles: pictures are needed: PNG, JPEG, WebP"
            )
        for (zoom, column, row), span in _entries(path, header):
            found.setdefault(zoom, {}).setdefault(column, {})[row] = span
    except (MagicNumberNotFound, SpecVersionUnsupported, *DAMAGE) as error:
        kind = kind_of_file(path)
        raise SourceError(
            f"{path} is no PMTiles archive of version 3, or damaged: copy it again, or write it "
            f"again by `pmtiles convert`{f'. It is {kind}' if kind else ''}"
        ) from error
    return {zoom: found[zoom] for zoom in sorted(found) if zoom <= MAX_ZOOM}


def _entries(path: Path, header: Mapping[str, Any]) -> Iterator[tuple[tuple[int, int, int], Span]]:
    waiting = [(header["root_offset"], header["root_length"], MAX_DEPTH)]
    while waiting:
        offset, length, depth = waiting.pop()
        for entry in deserialize_directory(_reader(path)(offset, length)):
            if entry.run_length:
                span = Span(path, header["tile_data_offset"] + entry.offset, entry.length)
                for number in range(entry.tile_id, entry.tile_id + entry.run_length):
                    yield tileid_to_zxy(number), span
            elif depth:
                leaf = header["leaf_directory_offset"] + entry.offset
                waiting.append((leaf, entry.length, depth - 1))

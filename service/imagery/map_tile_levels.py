"""The map tiles of each zoom level, as files: z/x/y.png and its like, or quadkeys.

Columns count eastward from 180 degrees west, rows southward from 85.05 degrees north ("XYZ").
Knows nothing of pixels.
"""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from model.geo import EQUATORIAL_RADIUS_M
from service.imagery.grid import Extent
from service.imagery.source import SourceError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
MAX_ZOOM = 24
MAX_DEPTH = 4  # folders between the folder that a user gives and its levels

NUMBER = re.compile("0|[1-9][0-9]{0,8}")
TILE = re.compile(f"({NUMBER.pattern})(?:@[1-9]x)?")  # y, or y@2x for twice as many pixels
# Shorter names of these digits may be plain numbers, and such levels are too coarse for a tile.
QUADKEY = re.compile(r"[a-z]?([0-3]{12,24})")

LOW = 0xFFFFFFFF  # bits of a row in a place's key
Scheme = Literal["xyz", "tms"]
Places = NDArray[np.int64]  # sorted; see `key`


def key(columns: NDArray[np.int64] | int, rows: NDArray[np.int64] | int) -> Places:
    """A column and a row as one number, which sorts by column."""
    return np.asarray(columns << 32 | rows)


@dataclass(frozen=True)
class Level:
    """One zoom level: map tiles of `side` pixels, 2**zoom around the Earth.

    files: the map tiles by column and by the row's number in the file's name.
    scheme: tms: the names count their rows from the south.
    """

    zoom: int
    side: int
    files: Mapping[int, Mapping[int, Any]]
    scheme: Scheme = "xyz"

    def counted(self, scheme: Scheme) -> Level:
        """The same files, their rows counted in this scheme."""
        return replace(self, scheme=scheme)

    def find(self, column: int, row: int) -> Any:
        """The map tile at a place, or None."""
        named = row if self.scheme == "xyz" else self.tiles_around - 1 - row
        return self.files.get(column % self.tiles_around, {}).get(named)

    def listed(self) -> Iterator[tuple[tuple[int, int], Any]]:
        """((column, row in the name), file), sorted."""
        for column in sorted(self.files):
            yield from (((column, row), file) for row, file in sorted(self.files[column].items()))

    @cached_property
    def places(self) -> Places:
        """Where there are map tiles."""
        found = [
            key(column, np.fromiter(rows, np.int64, len(rows)))
            for column, rows in self.files.items()
        ]
        keys = np.concatenate(found) if found else np.zeros(0, np.int64)
        columns, rows = keys >> 32, keys & LOW
        return np.sort(keys if self.scheme == "xyz" else key(columns, self.tiles_around - 1 - rows))

    @property
    def tiles_around(self) -> int:
        return 1 << self.zoom

    @property
    def around(self) -> int:
        return self.side << self.zoom

    def pixel_m(self, latitude: float) -> float:
        """Ground metres per pixel (on Mercator's sphere: within 0.7 % of the ellipsoid)."""
        circumference = 2.0 * math.pi * EQUATORIAL_RADIUS_M
        return circumference * math.cos(math.radians(latitude)) / self.around

    def check(self, path: Path) -> None:
        """Raises SourceError where numbers lie outside a level of Web Mercator."""
        largest = int(max((self.places >> 32).max(initial=0), (self.places & LOW).max(initial=0)))
        if largest >= self.tiles_around:
            raise SourceError(
                f"{path}: a map tile of level {self.zoom} has the number {largest}, Web Mercator "
                f"ends at {self.tiles_around - 1}: the map tiles are of another projection, such "
                "as geodetic (EPSG:4326): write them again in Web Mercator"
            )

    def holds(self, longitudes: NDArray[np.float64], latitude: float) -> NDArray[np.bool_]:
        """Which points of a parallel lie on a map tile."""
        columns = np.floor((longitudes + 180.0) / 360.0 * self.tiles_around).astype(np.int64)
        row = math.floor(mercator_y(latitude) * self.tiles_around)
        wanted = key(columns % self.tiles_around, row)
        nearest = np.searchsorted(self.places, wanted).clip(max=len(self.places) - 1)
        return np.asarray(self.places[nearest] == wanted)

    def extent(self, places: Places) -> Extent:
        """A box around places; it begins east of the widest gap around the Earth."""
        tiles = self.tiles_around
        columns, rows = np.unique(places >> 32), places & LOW
        gaps = np.diff(columns, append=columns[0] + tiles)
        widest = int(np.argmax(gaps))
        first = int(columns[(widest + 1) % len(columns)])
        last = first + tiles - int(gaps[widest])
        west, east = (x / tiles * 360.0 - 180.0 for x in (first, last + 1))
        south, north = (mercator_latitude(int(y) / tiles) for y in (rows.max() + 1, rows.min()))
        return Extent(west, south, east, north)


def covering(levels: Sequence[Level]) -> list[Level]:
    """Finest first: the finest level, and coarser ones that show ground which no finer one holds.

    A pyramid's coarser levels are left out: they show more ground only where they are padded.
    """
    found, below, finer = [], np.zeros(0, np.int64), levels[-1]
    for level in reversed(levels):
        below = _parents(below, finer.zoom - level.zoom)
        if not np.isin(level.places, below, assume_unique=True).all():
            found.append(level)
        finer, below = level, np.union1d(below, level.places)
    return found


def extent_of(levels: Sequence[Level]) -> Extent:
    """A box around levels' map tiles, as whole map tiles of the last, which is the coarsest."""
    coarsest = levels[-1]
    places = [_parents(level.places, level.zoom - coarsest.zoom) for level in levels]
    return coarsest.extent(np.concatenate(places))


def _parents(places: Places, levels: int) -> Places:
    return np.unique(key(places >> 32 >> levels, (places & LOW) >> levels))


class ColumnFolder(Mapping[int, str]):
    """{row: path} of a column's folder, at 100 bytes a file: each thread may list millions."""

    def __init__(self, folder: str) -> None:
        """Of a row's several files the one of most pixels counts, then the first by suffix."""
        self._folder = folder
        self._endings: dict[int, str] = {}
        with os.scandir(folder) as entries:
            for entry in entries:
                stem, suffix = os.path.splitext(entry.name)
                named = TILE.fullmatch(stem)
                if named and suffix.lower() in SUFFIXES:
                    row, ending = int(named[1]), sys.intern(entry.name[named.end(1) :])
                    known = self._endings.setdefault(row, ending)
                    self._endings[row] = min(known, ending, key=_rank)

    def __getitem__(self, row: int) -> str:
        return f"{self._folder}/{row}{self._endings[row]}"

    def __iter__(self) -> Iterator[int]:
        return iter(self._endings)

    def __len__(self) -> int:
        return len(self._endings)


def _rank(ending: str) -> tuple[int, int]:
    scale, _, suffix = ending.rpartition(".")
    return -int(scale[1:-1] or 1), SUFFIXES.index(f".{suffix.lower()}")


class ColumnFolders(Mapping[int, Mapping[int, str]]):
    """{column: {row: path}} of a level's folder. A column is listed when it is asked for."""

    def __init__(self, level: str) -> None:
        self._folders = dict(numbered_folders(level))
        self._listed: dict[int, ColumnFolder] = {}

    def __getitem__(self, column: int) -> ColumnFolder:
        if column not in self._listed:
            self._listed[column] = ColumnFolder(self._folders[column])
        return self._listed[column]

    def __iter__(self) -> Iterator[int]:
        return iter(self._folders)

    def __len__(self) -> int:
        return len(self._folders)


def numbered_folders(folder: Path | str) -> Iterator[tuple[int, str]]:
    """(number, path) of the folders that are named by a number."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if NUMBER.fullmatch(entry.name) and entry.is_dir():
                yield int(entry.name), entry.path


def levels_root(folder: Path, depth: int = MAX_DEPTH) -> Path | None:
    """The folder of z/x/y: this one, or the first in it, some folders deep."""
    for zoom, level in numbered_folders(folder):
        if zoom <= MAX_ZOOM and next(numbered_folders(level), None):
            return folder
    for inner in sorted(folder.iterdir()) if depth else ():
        if inner.is_dir() and not inner.name.startswith("."):
            found = levels_root(inner, depth - 1)
            if found:
                return found
    return None


def file_levels(folder: Path) -> dict[int, Mapping[int, Mapping[int, str]]]:
    """The files by zoom, coarsest first, by column and by row; empty: there are no map tiles."""
    root = levels_root(folder)
    if root is None:
        return quadkey_levels(folder)
    levels = sorted(numbered_folders(root))
    return {zoom: ColumnFolders(path) for zoom, path in levels if zoom <= MAX_ZOOM}


def quadkey_levels(folder: Path) -> dict[int, Mapping[int, Mapping[int, str]]]:
    """The files that are named by quadkeys, in the folder and below."""
    levels: dict[int, dict[int, dict[int, str]]] = {}
    for here, _, names in os.walk(folder):
        for name in sorted(names):
            stem, suffix = os.path.splitext(name)
            named = QUADKEY.fullmatch(stem)
            if named and suffix.lower() in SUFFIXES:
                digits = list(enumerate(map(int, reversed(named[1]))))
                column, row = (sum((d >> bit & 1) << i for i, d in digits) for bit in (0, 1))
                columns = levels.setdefault(len(digits), {})
                columns.setdefault(column, {}).setdefault(row, os.path.join(here, name))
    return dict(sorted(levels.items()))


def mercator_latitude(y: float) -> float:
    """Degrees at y in Web Mercator's square world: 85.05 north at 0, 85.05 south at 1."""
    return math.degrees(math.atan(math.sinh(math.pi * (1.0 - 2.0 * y))))


def mercator_y(latitude: float) -> float:
    """The inverse of `mercator_latitude`."""
    return (1.0 - math.asinh(math.tan(math.radians(latitude))) / math.pi) / 2.0

"""A folder of map tiles, z/x/y.png (or jpg, webp): Web Mercator, row 0 in the north ("XYZ").

The deepest level says where there is imagery. A tile is sampled from the coarsest level that is
fine enough for it, and from the deepest level where the coarser level has a hole.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rasterio import Affine

from model.geo import EQUATORIAL_RADIUS_M, wrap_longitude
from service.imagery.grid import Extent
from service.imagery.gridded_source import GriddedSource
from service.imagery.layer import Layer, Points, map_to, window_of
from service.imagery.reading import AS_STATED, Reading
from service.imagery.source import Ground, SourceError, source_name

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
MAX_ZOOM = 24
MAX_SIDE = 1024  # pixels of a map tile
CACHED_TILES = 64  # decoded: 16 MiB at 256 pixels

Rgba = NDArray[np.uint8]


class Level(NamedTuple):
    """One zoom level: map tiles by column and row, `side` pixels each, 2**zoom around the Earth."""

    zoom: int
    side: int
    files: dict[tuple[int, int], Path]

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

    def extent(self) -> Extent:
        """A box around all map tiles; it begins east of the widest gap around the Earth."""
        tiles = self.tiles_around
        places = np.array(list(self.files))
        columns, lines = np.unique(places[:, 0]), places[:, 1].tolist()
        gaps = np.diff(columns, append=columns[0] + tiles)
        widest = int(np.argmax(gaps))
        first = int(columns[(widest + 1) % len(columns)])
        last = first + tiles - int(gaps[widest])
        west, east = (x / tiles * 360.0 - 180.0 for x in (first, last + 1))
        south, north = (mercator_latitude(y / tiles) for y in (max(lines) + 1, min(lines)))
        return Extent(west, south, east, north)


class MapTileSource(GriddedSource):
    """Map tiles on disk. Pixels without a file, or transparent ones, hold no imagery."""

    kind = "xyz"

    def __init__(self, path: Path, name: str | None = None, reading: Reading = AS_STATED) -> None:
        """Lists every file; decodes one of each level.

        Raises:
            SourceError: no map tile, tiles that are not square, or rows counted from the south.
        """
        self.path = path
        self.name = source_name(path, name)
        self._scheme = reading.scheme
        if (path / "tilemapresource.xml").exists():
            raise SourceError(
                f"{path} counts its rows from the south (TMS): write it again as XYZ, for example "
                "with gdal2tiles.py --xyz"
            )
        self._levels = [_level(folder) for folder in level_folders(path)]
        self._deepest = self._levels[-1]
        self.extent = self._deepest.extent()
        side_m = self._deepest.side * self._deepest.pixel_m(self.extent.south)
        self.area_m2 = len(self._deepest.files) * side_m**2
        self._decoded = lru_cache(CACHED_TILES)(_decode)

    def signature(self) -> str:
        """A digest of all files' places, sizes and modification times."""
        digest = hashlib.sha256()
        for level in self._levels:
            for place, file in sorted(level.files.items()):
                stat = file.stat()
                digest.update(f"{level.zoom} {place} {stat.st_size} {stat.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    def resolution_m(self) -> float:
        """Ground metres per pixel of the deepest level, halfway between south and north."""
        return self._deepest.pixel_m(self.extent.middle.latitude)

    def contains(self, longitudes: NDArray[np.float64], latitude: float) -> NDArray[np.bool_]:
        tiles = self._deepest.tiles_around
        columns = np.floor((longitudes + 180.0) / 360.0 * tiles).astype(np.int64) % tiles
        row = math.floor(mercator_y(latitude) * tiles)
        present = [(column, row) in self._deepest.files for column in columns.tolist()]
        return np.array(present, dtype=bool)

    def sample(self, ground: Ground, shape: tuple[int, int]) -> Layer:
        wanted_m, latitude = ground.height_m / shape[0], ground.centre.latitude
        fine = (level for level in self._levels if level.pixel_m(latitude) <= wanted_m)
        level = next(fine, self._deepest)
        layer = self._layer(level, ground, shape)
        if level is not self._deepest and layer.weight.min() < 1.0:
            layer = layer.over(self._layer(self._deepest, ground, shape))
        return layer

    def _layer(self, level: Level, ground: Ground, shape: tuple[int, int]) -> Layer:
        whole = map_to(_corners(ground, level.around))
        window = window_of(whole, (2 * level.around, level.around))
        if window is None:
            return Layer.empty(shape)
        left, top, width, height = window.flatten()
        pasted = self._paste(level, left, top, width, height)
        opaque = np.where(pasted[..., 3] > 127, np.uint8(255), np.uint8(0))
        return Layer.sampled(
            pasted[..., :3], opaque, Affine.translation(-left, -top) @ whole, shape
        )

    def _paste(self, level: Level, left: int, top: int, width: int, height: int) -> Rgba:
        """The map tiles' pixels in a window of the level; transparent where no file is."""
        side = level.side
        pasted = np.zeros((height, width, 4), np.uint8)
        for row in range(top // side, (top + height - 1) // side + 1):
            for column in range(left // side, (left + width - 1) // side + 1):
                file = level.files.get((column % level.tiles_around, row))
                if file is None:
                    continue
                decoded = self._decoded(file)
                if len(decoded) != side:
                    raise SourceError(
                        f"{file} is {len(decoded)} pixels wide, its level's are {side}"
                    )
                y, x = row * side - top, column * side - left  # the map tile's corner
                part = pasted[max(0, y) : y + side, max(0, x) : x + side]
                part[:] = decoded[max(0, -y) :, max(0, -x) :][: part.shape[0], : part.shape[1]]
        return pasted


def level_folders(path: Path) -> list[Path]:
    """The zoom levels' folders, coarsest first; empty where the folder holds no map tiles."""
    found = (folder for folder in path.iterdir() if folder.name.isdigit() and folder.is_dir())
    levels = (folder for folder in found if int(folder.name) <= MAX_ZOOM)
    return sorted(levels, key=lambda folder: int(folder.name))


def _level(folder: Path) -> Level:
    zoom = int(folder.name)
    files = {place: file for place, file in _files(folder) if max(place) < 1 << zoom}
    if not files:
        raise SourceError(f"{folder} holds no map tile: expected {folder.name}/x/y.png or .jpg")
    return Level(zoom, len(_decode(next(iter(files.values())))), files)


def _files(folder: Path) -> Iterator[tuple[tuple[int, int], Path]]:
    """((column, row), file) of every map tile of a level."""
    for column in os.scandir(folder):
        if column.name.isdigit() and column.is_dir():
            for entry in os.scandir(column.path):
                stem, suffix = os.path.splitext(entry.name)
                if stem.isdigit() and suffix.lower() in SUFFIXES:
                    yield (int(column.name), int(stem)), Path(entry.path)


def _decode(file: Path) -> Rgba:
    try:
        with Image.open(file, formats=("PNG", "JPEG", "WEBP")) as image:
            if image.width != image.height or not 1 < image.width <= MAX_SIDE:
                raise SourceError(
                    f"{file} is {image.width}x{image.height} pixels: map tiles are square, at most "
                    f"{MAX_SIDE} wide"
                )
            return np.asarray(image.convert("RGBA"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise SourceError(f"{file} is not an image that can be read: {error}") from error


def _corners(ground: Ground, around: int) -> Points:
    """NW, NE, SE, SW in a level's pixels; columns run on past the dateline, never below 0."""
    corners, longitude = ground.corners(), ground.centre.longitude
    middle = longitude + (0.0 if longitude >= 0.0 else 360.0)
    east = [middle + wrap_longitude(p.longitude - middle) for p in corners]
    xs = [(longitude + 180.0) / 360.0 * around for longitude in east]
    return np.array([xs, [mercator_y(p.latitude) * around for p in corners]]).T


def mercator_latitude(y: float) -> float:
    """Degrees at y in Web Mercator's square world: 85.05 north at 0, 85.05 south at 1."""
    return math.degrees(math.atan(math.sinh(math.pi * (1.0 - 2.0 * y))))


def mercator_y(latitude: float) -> float:
    """The inverse of `mercator_latitude`."""
    return (1.0 - math.asinh(math.tan(math.radians(latitude))) / math.pi) / 2.0

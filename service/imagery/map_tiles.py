"""A folder of map tiles, z/x/y.png (or jpg, webp): Web Mercator, row 0 in the north ("XYZ").

The deepest level says where there is imagery. A picture is read from the coarsest level that is
fine enough for it, and from the deepest one where that level has a hole.
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
from PIL import Image, UnidentifiedImageError

from model.geo import EQUATORIAL_RADIUS_M, LatLon, wrap_longitude
from service.imagery.grid import Extent, GridError, check_metres, rows, tile_id
from service.imagery.gridded_source import GriddedSource
from service.imagery.parallelogram import Patch, Points, View
from service.imagery.raster import MIN_PIXELS_ACROSS
from service.imagery.source import Cut, Ground, SourceError, source_name

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
MAX_LEVEL = 24
MAX_SIDE = 1024  # pixels of a map tile
CACHED_TILES = 64  # decoded: 16 MiB at 256 pixels
EVERY_PIXEL = np.ones(2, int)

Rgba = NDArray[np.uint8]


class Level(NamedTuple):
    """One zoom level: the files by column and row; `side` pixels each, 2**zoom around the Earth."""

    zoom: int
    side: int
    files: dict[tuple[int, int], Path]

    @property
    def around(self) -> int:
        """Pixels around the Earth."""
        return self.side << self.zoom

    def pixel_m(self, latitude: float) -> float:
        """Ground metres per pixel (on Mercator's sphere: within 0.7 % of the ellipsoid)."""
        circumference = 2.0 * math.pi * EQUATORIAL_RADIUS_M
        return circumference * math.cos(math.radians(latitude)) / self.around


class PyramidSource(GriddedSource):
    """Map tiles on disk. Pixels without a file, or transparent ones, hold no imagery."""

    kind = "xyz"
    licence = ""
    attribution = ""

    def __init__(self, path: Path, name: str | None = None) -> None:
        """Lists every file; decodes one of each level.

        Raises:
            SourceError: no map tile, tiles that are not square, or rows counted from the south.
        """
        self.path = path
        self.name = source_name(path, name)
        if (path / "tilemapresource.xml").exists():
            raise SourceError(
                f"{path} counts its rows from the south (TMS): write it again as XYZ, for example "
                "with gdal2tiles.py --xyz"
            )
        self._levels = [_level(folder) for folder in level_folders(path)]
        self._deepest = self._levels[-1]
        self._present = np.sort(
            [row << 32 | column for column, row in self._deepest.files]  # as _contains asks
        )
        self._decoded = lru_cache(CACHED_TILES)(_decode)

    def close(self) -> None:
        """Forgets decoded tiles; no file is held open."""
        self._decoded.cache_clear()

    def signature(self) -> str:
        """A digest of all files' places, sizes and modification times."""
        digest = hashlib.sha256()
        for level in self._levels:
            for place, file in sorted(level.files.items()):
                stat = file.stat()
                digest.update(f"{level.zoom} {place} {stat.st_size} {stat.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    def count(self, size_m: float | None, stride_m: float | None) -> int:
        """The deepest level's ground area over the stride's square."""
        side_m = self._deepest.side * self._deepest.pixel_m(self._extent().south)
        area = len(self._deepest.files) * side_m**2
        return max(1, int(area / check_metres("stride", stride_m or 0.0) ** 2))

    def cuts(self, size_m: float | None, stride_m: float | None) -> Iterator[Cut]:
        """Grid points on the deepest level's map tiles, from north to south, row by row.

        Raises:
            GridError: size or stride not positive, or tiles of too few pixels.
        """
        size = check_metres("tile size", size_m or 0.0)
        stride = check_metres("stride", stride_m or 0.0)
        extent = self._extent()
        across = size / self._deepest.pixel_m((extent.south + extent.north) / 2.0)
        if across < MIN_PIXELS_ACROSS:
            raise GridError(
                f"{self.path.name}: at level {self._deepest.zoom}, its deepest, a tile of {size:g} "
                f"m is {across:.2g} pixels wide; {MIN_PIXELS_ACROSS} are needed: add deeper "
                "levels, or use larger tiles"
            )
        for row in rows(extent, stride):
            inside = self._contains(row.longitudes, row.latitude)
            for column, longitude in zip(row.columns[inside], row.longitudes[inside], strict=True):
                name = tile_id(self.name, stride, row.row, int(column))
                yield Cut(name, LatLon(row.latitude, float(longitude)), size)

    def look(self, ground: Ground, shape: tuple[int, int]) -> View:
        """See GriddedSource: sampled bilinearly.

        Raises:
            SourceError: a map tile cannot be decoded.
        """
        level = self._level_for(ground, shape)
        view = self._look(level, ground, shape)
        if level is not self._deepest and view.weight.min() < 1.0:
            view = view.over(self._look(self._deepest, ground, shape))
        return view

    def _level_for(self, ground: Ground, shape: tuple[int, int]) -> Level:
        wanted = ground.height_m / shape[0]
        fine = (one for one in self._levels if one.pixel_m(ground.centre.latitude) <= wanted)
        return next(fine, self._deepest)

    def _look(self, level: Level, ground: Ground, shape: tuple[int, int]) -> View:
        patch = Patch.through(_corners(ground, level.around))
        window = patch.window(EVERY_PIXEL, (2 * level.around, level.around))
        if window is None:
            return View.empty(shape)
        left, top = int(window.col_off), int(window.row_off)
        mosaic = self._paste(level, left, top, int(window.width), int(window.height))
        local = patch.moved(left, top)
        opaque = mosaic[..., 3] > 127
        light = local.sample(np.ascontiguousarray(mosaic[..., :3] * opaque[..., None]), shape)
        alpha = np.where(opaque, np.uint8(255), np.uint8(0))
        weight = local.sample(alpha, shape).astype(np.float32) / 255.0
        return View(light, weight, weight > 0.0)

    def _paste(self, level: Level, left: int, top: int, width: int, height: int) -> Rgba:
        """The map tiles' pixels in a window of the level; transparent where no file is."""
        side = level.side
        first, above = left // side, top // side
        columns, lines = (
            (left + width - 1) // side - first + 1,
            (top + height - 1) // side - above + 1,
        )
        whole = np.zeros((lines * side, columns * side, 4), np.uint8)
        for line in range(lines):
            for column in range(columns):
                file = level.files.get(((first + column) % (1 << level.zoom), above + line))
                if file is not None:
                    block = whole[line * side : (line + 1) * side]
                    block[:, column * side : (column + 1) * side] = self._decoded(file, side)
        top, left = top - above * side, left - first * side
        return whole[top : top + height, left : left + width]

    def _contains(self, longitudes: NDArray[np.float64], latitude: float) -> NDArray[np.bool_]:
        tiles = 1 << self._deepest.zoom
        columns = np.floor((longitudes + 180.0) / 360.0 * tiles).astype(np.int64) % tiles
        row = math.floor(_mercator_y(latitude) * tiles)
        return np.isin(row << 32 | columns, self._present)

    def _extent(self) -> Extent:
        """Around the deepest level's files, starting east of the widest gap around the Earth."""
        tiles = 1 << self._deepest.zoom
        places = np.array(list(self._deepest.files))
        columns, lines = np.unique(places[:, 0]), places[:, 1]
        gaps = np.diff(columns, append=columns[0] + tiles)
        widest = int(np.argmax(gaps))
        first = int(columns[(widest + 1) % len(columns)])
        last = first + tiles - int(gaps[widest])
        west, east = (x / tiles * 360.0 - 180.0 for x in (first, last + 1))
        south, north = (
            math.degrees(math.atan(math.sinh(math.pi * (1.0 - 2.0 * y / tiles))))
            for y in (int(lines.max()) + 1, int(lines.min()))
        )
        return Extent(west, south, east, north)


def level_folders(path: Path) -> list[Path]:
    """The zoom levels' folders, coarsest first; empty where the folder is no pyramid."""
    found = [one for one in path.iterdir() if one.name.isdigit() and one.is_dir()]
    return sorted((one for one in found if int(one.name) <= MAX_LEVEL), key=lambda f: int(f.name))


def _level(folder: Path) -> Level:
    zoom = int(folder.name)
    files = {place: file for place, file in _files(folder) if max(place) < 1 << zoom}
    if not files:
        raise SourceError(f"{folder} holds no map tile: expected {folder.name}/x/y.png or .jpg")
    sample = next(iter(files.values()))
    with _open(sample) as image:
        if image.width != image.height or not 1 < image.width <= MAX_SIDE:
            raise SourceError(
                f"{sample} is {image.width}x{image.height} pixels: map tiles are square, at most "
                f"{MAX_SIDE} wide"
            )
        return Level(zoom, image.width, files)


def _files(folder: Path) -> Iterator[tuple[tuple[int, int], Path]]:
    for column in os.scandir(folder):
        if column.name.isdigit() and column.is_dir():
            for entry in os.scandir(column.path):
                stem, suffix = os.path.splitext(entry.name)
                if stem.isdigit() and suffix.lower() in SUFFIXES:
                    yield (int(column.name), int(stem)), Path(entry.path)


def _open(file: Path) -> Image.Image:
    try:
        return Image.open(file, formats=("PNG", "JPEG", "WEBP"))
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise SourceError(f"{file} is no picture that can be read: {error}") from error


def _decode(file: Path, side: int) -> Rgba:
    with _open(file) as image:
        if image.size != (side, side):
            raise SourceError(f"{file} is {image.width}x{image.height} pixels, its level's {side}")
        try:
            return np.asarray(image.convert("RGBA"))
        except (OSError, ValueError, SyntaxError) as error:
            raise SourceError(f"{file} is damaged: {error}") from error


def _corners(ground: Ground, around: int) -> Points:
    """NW, NE, SE, SW in a level's pixels; columns run on past the dateline, never below 0."""
    corners, longitude = ground.corners(), ground.centre.longitude
    middle = longitude + (0.0 if longitude >= 0.0 else 360.0)
    east = [middle + wrap_longitude(p.longitude - middle) for p in corners]
    xs = [(longitude + 180.0) / 360.0 * around for longitude in east]
    return np.array([xs, [_mercator_y(p.latitude) * around for p in corners]]).T


def _mercator_y(latitude: float) -> float:
    """0 at 85.05 degrees north to 1 at 85.05 degrees south."""
    return (1.0 - math.asinh(math.tan(math.radians(latitude))) / math.pi) / 2.0

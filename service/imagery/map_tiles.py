"""Map tiles on disk: Web Mercator, as z/x/y.png (or jpg, webp) or as quadkeys.

A tile is sampled from the coarsest level that is fine enough for it. Finer levels, then coarser
ones, fill that level's holes.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator, Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from rasterio import Affine

from model.file_kind import kind_of
from model.geo import wrap_longitude
from service.imagery.blank_pictures import digest_of, repeated
from service.imagery.grid import Extent, check_metres
from service.imagery.gridded_source import MIN_PIXELS_ACROSS, GriddedSource
from service.imagery.layer import Layer, Points, map_to, window_of
from service.imagery.map_tile_levels import (
    Level,
    covering,
    extent_of,
    file_levels,
    levels_root,
    mercator_y,
)
from service.imagery.reading import AS_STATED, Reading
from service.imagery.source import Cut, Ground, SourceError, source_name, stated_credit
from service.imagery.tile_scheme import Decision, decide, middle, only_xyz, statements

MAX_SIDE = 1024  # pixels of a map tile
CACHED_TILES = 64  # decoded: 16 MiB at 256 pixels
FROM_SOUTH = "tms"  # in a signature: the names count their rows from the south

Rgba = NDArray[np.uint8]


class MapTileSource(GriddedSource):
    """Map tiles. Places without a file, transparent pixels and blank pictures hold no imagery.

    The deepest level says where there is imagery; a coarser one where it shows other ground.
    """

    kind = "xyz"

    def __init__(
        self,
        path: Path,
        name: str | None = None,
        reading: Reading = AS_STATED,
        ingested: str | None = None,
    ) -> None:
        """Decodes a map tile of each level.

        Args:
            ingested: the signature at the ingest: the scheme and the blank pictures found then are
                kept, and the files are listed when they are needed. None: finds out anew.

        Raises:
            SourceError: no map tile, map tiles that are not square or not in Web Mercator, or a
                scheme that the stated bounds contradict.
        """
        self.path = path
        self.name = source_name(path, name)
        self.licence, self.attribution = stated_credit(path)
        self._decoded = lru_cache(CACHED_TILES)(self._decode)
        self._found_out = [] if ingested is None else ingested.split(";")[1:]
        self._blank: set[str] = set()
        self._levels = [self._level(zoom, files) for zoom, files in self._files().items()]
        if not self._levels:
            raise SourceError(f"{path} holds no map tiles: expected z/x/y.png or .jpg")
        if ingested is None:
            self._find_out(reading)
        elif FROM_SOUTH in self._found_out:
            self._levels = [level.counted("tms") for level in self._levels]
        self._blank = set(self._found_out) - {FROM_SOUTH}

    def signature(self) -> str:
        """A digest of all files' places, sizes and modification times; then what was found out."""
        return ";".join([self._stamp(), *self._found_out])

    def resolution_m(self) -> float:
        """Ground metres per pixel of the deepest level, halfway between south and north."""
        return self._levels[-1].pixel_m(self.extent.middle.latitude)

    def count(self, size_m: float | None, stride_m: float | None) -> int:
        self._cover(size_m)
        south = self.extent.south
        self.area_m2 = max(
            len(level.places) * (level.side * level.pixel_m(south)) ** 2 for level in self._covering
        )
        return super().count(size_m, stride_m)

    def cuts(self, size_m: float | None, stride_m: float | None) -> Iterator[Cut]:
        """See GriddedSource. Levels too coarse for tiles of this size are left out."""
        self._cover(size_m)
        yield from super().cuts(size_m, stride_m)

    def contains(self, longitudes: NDArray[np.float64], latitude: float) -> NDArray[np.bool_]:
        held = [level.holds(longitudes, latitude) for level in self._covering]
        return np.asarray(np.any(held, axis=0))

    def sample(self, ground: Ground, shape: tuple[int, int]) -> Layer:
        wanted_m, latitude = ground.height_m / shape[0], ground.centre.latitude
        fine = [lv for lv in self._levels if lv.pixel_m(latitude) <= wanted_m] or self._levels[-1:]
        coarser = [
            lv for lv in self._fine_enough(ground.height_m, latitude) if lv.zoom < fine[0].zoom
        ]
        layer = self._layer(fine[0], ground, shape)
        for level in (*fine[1:], *coarser):
            if layer.weight.min() >= 1.0:
                break
            layer = layer.over(self._layer(level, ground, shape))
        return layer

    @cached_property
    def extent(self) -> Extent:
        """A box around the map tiles of all levels that count."""
        return extent_of(self._covering)

    @cached_property
    def _covering(self) -> list[Level]:
        """The levels that say where there is imagery."""
        return self._levels[-1:]

    def _cover(self, size_m: float | None) -> None:
        size = check_metres("tile size", size_m or 0.0)
        self._covering = covering(self._fine_enough(size, self.extent.middle.latitude))
        self.extent = extent_of(self._covering)

    def _fine_enough(self, size_m: float, latitude: float) -> list[Level]:
        """The levels that show enough of tiles of this size; the deepest in any case."""
        widest_m = size_m / MIN_PIXELS_ACROSS
        *coarser, deepest = self._levels
        return [*(level for level in coarser if level.pixel_m(latitude) <= widest_m), deepest]

    def _files(self) -> Mapping[int, Mapping[int, Mapping[int, Any]]]:
        """The map tiles by zoom, coarsest first, by column and by row in the name."""
        return file_levels(self.path)

    def _bytes(self, file: Any) -> bytes:
        return Path(file).read_bytes()

    def _size(self, file: Any) -> int:
        return os.stat(file).st_size

    def _stamp(self) -> str:
        digest = hashlib.sha256()
        for level in self._levels:
            for place, file in level.listed():
                stat = os.stat(file)
                digest.update(f"{level.zoom} {place} {stat.st_size} {stat.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    def _scheme(self, xyz: Extent, reading: Reading) -> Decision:
        """The scheme of the rows, which lie in this extent if they are counted from the north."""
        root = levels_root(self.path)
        if root is None:
            return only_xyz("quadkeys", reading.scheme)
        folders = [root, *root.parents[: len(root.relative_to(self.path).parts)]]
        margin_deg = 360.0 / self._levels[-1].tiles_around
        return decide(xyz, reading.scheme, statements(folders), margin_deg)

    def _level(self, zoom: int, files: Mapping[int, Mapping[int, Any]]) -> Level:
        first = next((file for rows in files.values() for file in rows.values()), None)
        if first is None:
            expected = f"expected {zoom}/x/y.png or .jpg"
            raise SourceError(f"{self.path / str(zoom)} holds no map tile: {expected}")
        return Level(zoom, len(self._decode(first)), files)

    def _find_out(self, reading: Reading) -> None:
        """Decides the scheme, and finds blank pictures."""
        for level in self._levels:
            level.check(self.path)
        scheme, reason = self._scheme(self.extent, reading)
        if scheme == "tms":
            self._found_out.append(FROM_SOUTH)
            self._levels = [level.counted(scheme) for level in self._levels]
            self._covering = self._levels[-1:]
            self.extent = extent_of(self._covering)
        levels = ", ".join(f"{len(level.places)} of level {level.zoom}" for level in self._levels)
        end = "north (xyz)" if scheme == "xyz" else "south (tms)"
        self.notes = [
            f"{self.path.name}: {levels}; rows are counted from the {end}, {reason}: the imagery "
            f"lies around {middle(self.extent)} (latitude, longitude)"
        ]
        for level in self._levels:
            files = [file for _, file in level.listed()]
            for mark, copies, example in repeated(files, self._size, self._bytes):
                self._found_out.append(mark)
                self.notes.append(
                    f"{self.path.name}: about {copies} of level {level.zoom} are one picture, such "
                    f"as {example}: it counts as no imagery"
                )

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
                file = level.find(column, row)
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

    def _decode(self, file: Any) -> Rgba:
        data = self._bytes(file)
        try:
            with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP")) as image:
                if image.width != image.height or not 1 < image.width <= MAX_SIDE:
                    raise SourceError(
                        f"{file} is {image.width}x{image.height} pixels: map tiles are square, at "
                        f"most {MAX_SIDE} wide"
                    )
                pixels = np.array(image.convert("RGBA"))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            damage = "" if isinstance(error, UnidentifiedImageError) else f" ({error})"
            raise SourceError(
                f"{file} is not an image that can be read{damage}: copy it again, or delete it. "
                f"It is {kind_of(data) or 'of no known kind'}"
            ) from error
        if self._blank and digest_of(data) in self._blank:
            pixels[..., 3] = 0
        return pixels


def _corners(ground: Ground, around: int) -> Points:
    """NW, NE, SE, SW in a level's pixels; columns run on past the dateline, never below 0."""
    corners, longitude = ground.corners(), ground.centre.longitude
    middle = longitude + (0.0 if longitude >= 0.0 else 360.0)
    east = [middle + wrap_longitude(p.longitude - middle) for p in corners]
    xs = [(longitude + 180.0) / 360.0 * around for longitude in east]
    return np.array([xs, [mercator_y(p.latitude) * around for p in corners]]).T

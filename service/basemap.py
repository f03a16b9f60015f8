"""The region's imagery as a slippy map: Web Mercator tiles drawn from the catalogue's sources.

A map tile is read as a north-up square of ground around its centre. That is off by less than a
pixel from MIN_ZOOM on: Mercator's scale changes by 0.3 % over a tile at 60 degrees, and is taken
from the sphere while the ground is the ellipsoid's (0.3 %).
"""

from __future__ import annotations

import contextlib
import contextvars
import math
import threading
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from model.errors import SkyfixError
from model.geo import Bounds, LatLon, metres_per_degree
from model.images import Rgb
from service.imagery.raster import RasterSource
from service.imagery.source import Cut, Source
from service.imagery.tile_images import reopen
from service.index.catalogue import Catalogue, SourceRecord, Tile, TileUnknown

PIXELS = 256
BLANK = np.array([232, 236, 239], np.uint8)  # the page's background
MIN_ZOOM, MAX_ZOOM = 10, 22
MAX_PICTURES = 64  # of a folder's images, drawn into one map tile
MAX_WAITING = 64  # map tiles, the one being drawn included: ten browsers' six connections each
ENOUGH = 0.999  # share of a map tile beyond which further sources add nothing


class MapTileUnknown(SkyfixError):
    """Not a tile of the world's map."""


class MapBusy(SkyfixError):
    """Too many map tiles wait to be drawn."""


class MapTile(NamedTuple):
    """Zoom, column from 180 degrees west, row from the north."""

    z: int
    x: int
    y: int

    def checked(self) -> MapTile:
        """Raises MapTileUnknown."""
        side = 2**self.z if 0 <= self.z <= MAX_ZOOM else 0
        if not (0 <= self.x < side and 0 <= self.y < side):
            raise MapTileUnknown(
                f"/map/{self.z}/{self.x}/{self.y}: zoom is 0 to {MAX_ZOOM}, column and row 0 to "
                "2^zoom - 1"
            )
        return self

    @property
    def bounds(self) -> Bounds:
        """Degrees WGS84."""
        side = 2**self.z
        west = self.x / side * 360.0 - 180.0
        return Bounds(
            west, _latitude(self.y + 1, side), west + 360.0 / side, _latitude(self.y, side)
        )

    def cut(self) -> Cut:
        """The square of ground around the tile's centre."""
        side = 2**self.z
        box = self.bounds
        centre = LatLon(_latitude(self.y + 0.5, side), (box.west + box.east) / 2.0)
        width = metres_per_degree(centre.latitude).east * 360.0 / side
        return Cut(f"map-{self.z}-{self.x}-{self.y}", centre, width)


def _latitude(row: float, side: int) -> float:
    return math.degrees(math.atan(math.sinh(math.pi * (1.0 - 2.0 * row / side))))


class BaseMap:
    """Draws map tiles in one thread of its own, which keeps the sources open.

    most: how many may wait; more are refused.
    """

    def __init__(self, catalogue: Path, most: int = MAX_WAITING) -> None:
        self._catalogue = catalogue
        self._most, self._places = most, threading.Semaphore(most)
        self._open: dict[str, tuple[SourceRecord, Source]] = {}
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="base-map")

    def draw(self, tile: MapTile, tile_ids: Iterable[str]) -> Future[Rgb | None]:
        """The map tile, uint8 (256, 256, 3); None where there is no imagery.

        Args:
            tile_ids: of the catalogue's tiles around there: sources that are folders of images
                are drawn from them.

        Returns:
            A future; cancelled before its turn, nothing is drawn.

        Raises:
            MapBusy: as many as may are waiting.
        """
        if not self._places.acquire(blocking=False):
            raise MapBusy(f"{self._most} map tiles wait to be drawn: try again later")
        run = contextvars.copy_context().run
        drawn = self._reader.submit(run, self._draw, tile, list(tile_ids))
        drawn.add_done_callback(lambda _: self._places.release())
        return drawn

    def close(self) -> None:
        """Ends the thread."""
        self._reader.shutdown(wait=False, cancel_futures=True)

    def _draw(self, tile: MapTile, tile_ids: list[str]) -> Rgb | None:
        if not self._catalogue.exists():
            return None
        best, best_share = None, 0.0
        with Catalogue(self._catalogue) as catalogue:
            for record in catalogue.sources():
                source = self._source(record)
                if record.kind == "folder":
                    near = _of_source(catalogue, record.name, tile_ids)
                    picture, share = _pasted(source, tile, near)
                else:
                    picture, share = _cut_out(source, tile)
                if share > best_share:
                    best, best_share = picture, share
                if best_share >= ENOUGH:
                    break
        return best

    def _source(self, record: SourceRecord) -> Source:
        """Kept open until the source is ingested again."""
        if record.name in self._open:
            known, source = self._open[record.name]
            if known == record:
                return source
            source.close()
            del self._open[record.name]
        self._open[record.name] = record, reopen(record)
        return self._open[record.name][1]


def _cut_out(source: Source, tile: MapTile) -> tuple[Rgb, float]:
    """The source's picture; what lies beyond a raster's edge is left blank."""
    if not isinstance(source, RasterSource):
        return source.read(tile.cut(), PIXELS)
    view = source.look(tile.cut().ground, (PIXELS, PIXELS))
    picture, share = view.picture()
    return np.where(view.weight[..., None] < 0.5, BLANK, picture), share


def _of_source(catalogue: Catalogue, name: str, tile_ids: list[str]) -> list[Tile]:
    """The source's tiles among these; the catalogue may be newer than the ids."""
    found = []
    for tile_id in tile_ids:
        with contextlib.suppress(TileUnknown):
            found.append(catalogue.tile(tile_id))
    return [tile for tile in found if tile.source == name]


def _pasted(source: Source, tile: MapTile, near: list[Tile]) -> tuple[Rgb, float]:
    """A folder's images laid on the map tile, and the share of it that they cover."""
    box = tile.bounds
    picture = Image.new("RGB", (PIXELS, PIXELS), tuple(BLANK.tolist()))
    covered = Image.new("1", (PIXELS, PIXELS))
    scale = np.array([PIXELS / (box.east - box.west), PIXELS / (box.north - box.south)])
    for one in near:
        west, south, east, north = one.bounds
        left, right = ((np.array([west, east]) - box.west) * scale[0]).round().astype(int)
        top, bottom = ((box.north - np.array([north, south])) * scale[1]).round().astype(int)
        size = (int(right - left), int(bottom - top))
        if min(size) < 1:
            continue
        pixels = source.read(Cut(one.tile_id, one.centre, one.size_m), min(max(size), 4 * PIXELS))
        picture.paste(Image.fromarray(pixels.pixels).resize(size), (int(left), int(top)))
        covered.paste(1, (int(left), int(top), int(right), int(bottom)))
    return np.asarray(picture), float(np.asarray(covered).mean())

"""The region's imagery as a slippy map: Web Mercator tiles drawn from the catalogue's sources.

A map tile is read as a north-up square of ground around its centre. That is off by less than a
pixel from MIN_ZOOM on: Mercator's scale changes by 0.3 % over a tile at 60 degrees, and the sphere
that gives the scale differs from the ellipsoid by another 0.3 %.
"""

from __future__ import annotations

import contextlib
import contextvars
import threading
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from model.errors import SkyfixError
from model.geo import Bounds, LatLon, bounds_around, metres_per_degree
from model.images import Rgb
from service.imagery.gridded_source import SampledSource
from service.imagery.map_tile_levels import mercator_latitude
from service.imagery.source import Cut, Ground, Source
from service.imagery.tile_images import cut_of, reopen
from service.index.catalogue import Catalogue, SourceRecord, TileUnknown

PIXELS = 256
BLANK = np.array([232, 236, 239], np.uint8)  # the page's background
MIN_ZOOM, MAX_ZOOM = 10, 22
MAX_IMAGES = 64  # of an image folder, pasted into one map tile
MAX_WAITING = 64  # map tiles, with the tile being drawn: ten browsers' six connections each
ENOUGH = 0.999  # share of a map tile; once covered, further sources add nothing


class MapTileUnknown(SkyfixError):
    """No map tile has this address."""


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
        north, south = (mercator_latitude(y / side) for y in (self.y, self.y + 1))
        return Bounds(west, south, west + 360.0 / side, north)

    def ground(self) -> Ground:
        """The square around the tile's centre."""
        west, _, east, _ = self.bounds
        centre = LatLon(mercator_latitude((self.y + 0.5) / 2**self.z), (west + east) / 2.0)
        width_m = metres_per_degree(centre.latitude).east * 360.0 / 2**self.z
        return Ground(centre, width_m, width_m)


class BaseMap:
    """Draws map tiles in one thread of its own, which keeps the sources open.

    most: map tiles that may wait; more are refused.
    """

    def __init__(self, catalogue: Path, most: int = MAX_WAITING) -> None:
        self._catalogue = catalogue
        self._most, self._waiting = most, threading.Semaphore(most)
        self._open: dict[str, tuple[SourceRecord, Source]] = {}
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="base-map")

    def draw(self, tile: MapTile, tile_ids: Iterable[str]) -> Future[Rgb | None]:
        """The map tile, uint8 (256, 256, 3), unless cancelled in time; None: no imagery.

        Args:
            tile_ids: the catalogue's tiles around the map tile. Image folders are drawn from
                these alone.

        Raises:
            MapBusy: `most` map tiles are waiting.
        """
        if not self._waiting.acquire(blocking=False):
            raise MapBusy(f"{self._most} map tiles wait to be drawn: try again later")
        run = contextvars.copy_context().run
        drawn = self._reader.submit(run, self._draw, tile, list(tile_ids))
        drawn.add_done_callback(lambda _: self._waiting.release())
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
                if isinstance(source, SampledSource):
                    layer = source.sample(tile.ground(), (PIXELS, PIXELS))
                    image, share = layer.image()
                    image = np.where(layer.weight[..., None] < 0.5, BLANK, image)
                else:
                    image, share = _paste(source, tile, _cuts_of(catalogue, record, tile_ids))
                if share > best_share:
                    best, best_share = image, share
                if best_share >= ENOUGH:
                    break
        return best

    def _source(self, record: SourceRecord) -> Source:
        """The record's source, kept open until it is ingested again."""
        known, source = self._open.pop(record.name, (None, None))
        if source is not None and known != record:
            source.close()
            source = None
        source = source or reopen(record)
        self._open[record.name] = record, source
        return source


def _cuts_of(catalogue: Catalogue, record: SourceRecord, tile_ids: list[str]) -> list[Cut]:
    """The source's tiles among these; the catalogue may be newer than the ids."""
    found = []
    for tile_id in tile_ids:
        with contextlib.suppress(TileUnknown):
            found.append(catalogue.tile(tile_id))
    return [cut_of(tile, record) for tile in found if tile.source == record.name]


def _paste(source: Source, tile: MapTile, cuts: list[Cut]) -> tuple[Rgb, float]:
    """A folder's images laid on the map tile, and the share of it that they cover."""
    west, south, east, north = tile.bounds
    image = Image.new("RGB", (PIXELS, PIXELS), tuple(BLANK.tolist()))
    covered = Image.new("1", (PIXELS, PIXELS))
    across, down = PIXELS / (east - west), PIXELS / (north - south)
    for cut in cuts:
        box = bounds_around(cut.centre, cut.size_m)
        left, right = (round((longitude - west) * across) for longitude in (box.west, box.east))
        top, bottom = (round((north - latitude) * down) for latitude in (box.north, box.south))
        size = right - left, bottom - top
        if min(size) < 1:
            continue
        part = source.read(cut, min(max(size), 4 * PIXELS)).pixels
        image.paste(Image.fromarray(part).resize(size), (left, top))
        covered.paste(1, (left, top, right, bottom))
    return np.asarray(image), float(np.asarray(covered).mean())

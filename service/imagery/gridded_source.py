"""Tiles of one row of the grid, sampled together.

At a stride of a quarter of their size, sixteen neighbours in a row show a stretch of ground that is
as large as five of them: sampled once and sliced, they cost a third. Strips lie fixed on the grid,
so that a tile's pixels do not depend on which others are read with it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from model.geo import EQUATORIAL_RADIUS_M, LatLon, wrap_longitude
from service.imagery.grid import columns_around, grid_place, latitude_at
from service.imagery.parallelogram import View
from service.imagery.source import Cut, Ground, Picture

STRIP_SIZES = 4.0  # of columns, in sizes of a tile
MAX_BEND = 0.1  # pixels: how far the parallel may leave the strip's straight line
SAME_DEG = 1e-9  # 0.1 mm
WHOLE_PIXELS = 1e-6


class Strip(NamedTuple):
    """Columns `first` to `first + tiles` of a grid row; neighbours are `step` pixels apart."""

    latitude: float
    longitude: float  # of the strip's middle
    size_m: float
    stride_m: float
    first: int
    tiles: int
    step: int

    @classmethod
    def of(cls, cut: Cut, pixels: int) -> Strip | None:
        """The strip that a tile of `pixels` belongs to; None for one that is sampled alone: not on
        the grid, or neighbours that are no whole pixels apart."""
        place = grid_place(cut.tile_id)
        if place is None or place.stride_m <= 0.0:
            return None
        step = place.stride_m / cut.size_m * pixels
        latitude = latitude_at(place.row * place.stride_m)
        straight_m = _straight_m(latitude, MAX_BEND * cut.size_m / pixels)
        length = int(min(STRIP_SIZES * cut.size_m, straight_m - cut.size_m) / place.stride_m)
        if length < 2 or abs(step - round(step)) > WHOLE_PIXELS:
            return None
        around = columns_around(latitude, place.stride_m)
        named = LatLon(latitude, wrap_longitude(place.column * 360.0 / around))
        if max(abs(a - b) for a, b in zip(named, cut.centre, strict=True)) > SAME_DEG:
            return None
        first = place.column // length * length
        tiles = min(length, around - first)
        longitude = wrap_longitude((first + (tiles - 1) / 2.0) * 360.0 / around)
        half = (tiles / 2.0 + cut.size_m / place.stride_m) * 360.0 / around
        if abs(longitude) + half >= 180.0:  # many rasters end at the dateline: no line across it
            return None
        return cls(latitude, longitude, cut.size_m, place.stride_m, first, tiles, round(step))

    @property
    def ground(self) -> Ground:
        width_m = self.size_m + (self.tiles - 1) * self.stride_m
        return Ground(LatLon(self.latitude, self.longitude), width_m, self.size_m)

    def shape(self, pixels: int) -> tuple[int, int]:
        return pixels, pixels + (self.tiles - 1) * self.step

    def left(self, cut: Cut) -> int:
        """The column of pixels at which a tile of this strip begins."""
        place = grid_place(cut.tile_id)
        assert place is not None
        return (place.column - self.first) * self.step


def _straight_m(latitude: float, bend_m: float) -> float:
    """Length of a straight line east that stays within `bend_m` of its parallel."""
    slope = abs(math.tan(math.radians(latitude)))
    return math.sqrt(8.0 * bend_m * EQUATORIAL_RADIUS_M / max(slope, 1e-9))


class GriddedSource(ABC):
    """The part of a Source whose imagery is continuous: any ground can be looked at."""

    @abstractmethod
    def look(self, ground: Ground, shape: tuple[int, int]) -> View:
        """The ground in (rows, columns) of square pixels, without aliasing; what has no imagery is
        not filled."""

    def read(self, cut: Cut, pixels: int) -> Picture:
        """See Source."""
        return self.look(cut.ground, (pixels, pixels)).picture()

    def runs(self, cuts: Iterable[Cut], pixels: int) -> Iterator[list[Cut]]:
        """Neighbours of one strip together."""
        for strip, run in groupby(cuts, lambda cut: Strip.of(cut, pixels)):
            if strip is None:
                yield from ([cut] for cut in run)
            else:
                yield list(run)

    def read_run(self, run: Sequence[Cut], pixels: int) -> list[Picture]:
        """See Source: the whole strip is sampled for however many of its tiles."""
        strip = Strip.of(run[0], pixels)
        if strip is None:
            return [self.read(cut, pixels) for cut in run]
        view = self.look(strip.ground, strip.shape(pixels))
        return [view.columns(strip.left(cut), pixels).picture() for cut in run]

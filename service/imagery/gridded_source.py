"""Sources whose imagery is continuous: any ground can be sampled, and tiles lie on the grid.

Neighbouring tiles of a grid row are sampled together. At a stride of a quarter of their size,
sixteen neighbours cover as much ground as five tiles side by side: sampled once and sliced, they
cost a third. A row is divided into segments at fixed columns, so that a tile's pixels do not depend
on the other tiles that are read.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import groupby
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.geo import EQUATORIAL_RADIUS_M, LatLon, wrap_longitude
from service.imagery.grid import (
    Extent,
    GridError,
    GridPlace,
    check_metres,
    columns_around,
    rows,
    tile_id,
)
from service.imagery.layer import Layer
from service.imagery.source import Cut, Ground, Source, TileImage

MAX_TILES = 10**9  # a cache of the whole Earth, whose empty parts GDAL does not know
MIN_PIXELS_ACROSS = 16  # a tile with fewer source pixels shows nothing
SEGMENT_SIZES = 4.0  # columns of a segment span at most this many tile sizes
MAX_BEND = 0.1  # pixels by which a parallel may leave the segment's straight line
WHOLE_PIXELS = 1e-6


class RowSegment(NamedTuple):
    """Neighbouring tiles of a grid row, from column `first` on, `step` pixels apart."""

    ground: Ground
    shape: tuple[int, int]  # rows and columns of pixels
    first: int
    step: int

    @classmethod
    def of(cls, cut: Cut, pixels: int) -> RowSegment | None:
        """The segment of a tile of `pixels`; None for a tile that is sampled alone.

        A tile is sampled alone where it is on no grid, where its neighbours are no whole number of
        pixels apart, and at the dateline.
        """
        if cut.place is None:
            return None
        size_m, latitude = cut.size_m, cut.centre.latitude
        stride_m, _, column = cut.place
        step = stride_m / size_m * pixels
        bend_m = MAX_BEND * size_m / pixels
        slope = max(abs(math.tan(math.radians(latitude))), 1e-9)
        straight_m = math.sqrt(8.0 * bend_m * EQUATORIAL_RADIUS_M / slope)
        length = int(min(SEGMENT_SIZES * size_m, straight_m - size_m) / stride_m)
        if length < 2 or abs(step - round(step)) > WHOLE_PIXELS:
            return None
        around = columns_around(latitude, stride_m)
        first = column // length * length
        tiles = min(length, around - first)
        longitude = wrap_longitude((first + (tiles - 1) / 2.0) * 360.0 / around)
        half = (tiles / 2.0 + size_m / stride_m) * 360.0 / around
        if abs(longitude) + half >= 180.0:  # many rasters end at the dateline: no line across it
            return None
        ground = Ground(LatLon(latitude, longitude), size_m + (tiles - 1) * stride_m, size_m)
        return cls(ground, (pixels, pixels + (tiles - 1) * round(step)), first, round(step))


def runs(cuts: Iterable[Cut], pixels: int) -> Iterator[list[Cut]]:
    """`cuts` in their order; neighbours of one segment together, for `Source.read_run`."""
    for segment, run in groupby(cuts, lambda cut: RowSegment.of(cut, pixels)):
        if segment is None:
            yield from ([cut] for cut in run)
        else:
            yield list(run)


class SampledSource(Source):
    """A source of continuous imagery."""

    @abstractmethod
    def sample(self, ground: Ground, shape: tuple[int, int]) -> Layer:
        """The ground in (rows, columns) of square pixels, without aliasing.

        Raises:
            SourceError: the files cannot be read there.
        """

    def read(self, cut: Cut, pixels: int) -> TileImage:
        return self.sample(cut.ground, (pixels, pixels)).image()

    def read_run(self, run: Sequence[Cut], pixels: int) -> list[TileImage]:
        """See Source. The whole segment is sampled, however many of its tiles are asked for."""
        segment = RowSegment.of(run[0], pixels)
        if segment is None:
            return super().read_run(run, pixels)
        layer = self.sample(segment.ground, segment.shape)
        columns = [cut.place.column for cut in run if cut.place is not None]
        lefts = [(column - segment.first) * segment.step for column in columns]
        return [layer.columns(left, pixels).image() for left in lefts]


class GriddedSource(SampledSource):
    """A sampled source with an extent: its tiles lie at the grid points that it contains."""

    area_m2: float  # about how much ground the imagery covers

    @cached_property
    def extent(self) -> Extent:
        """The degrees that the imagery covers: set by the source, or found when asked for."""
        raise NotImplementedError

    @abstractmethod
    def resolution_m(self) -> float:
        """Ground metres per pixel."""

    @abstractmethod
    def contains(self, longitudes: NDArray[np.float64], latitude: float) -> NDArray[np.bool_]:
        """Which points of a parallel lie on the imagery; all arguments in degrees."""

    def count(self, size_m: float | None, stride_m: float | None) -> int:
        return max(1, int(self.area_m2 / check_metres("stride", stride_m or 0.0) ** 2))

    def cuts(self, size_m: float | None, stride_m: float | None) -> Iterator[Cut]:
        """Tiles at grid points on the imagery, from north to south, row by row.

        Raises:
            GridError: size or stride not positive, tiles of too few source pixels, or too many.
        """
        size = check_metres("tile size", size_m or 0.0)
        stride = check_metres("stride", stride_m or 0.0)
        pixel_m = self.resolution_m()
        if size / pixel_m < MIN_PIXELS_ACROSS:
            raise GridError(
                f"{self.path.name}: at {pixel_m:.3g} m per pixel a tile of {size:g} m is "
                f"{size / pixel_m:.2g} pixels wide; {MIN_PIXELS_ACROSS} are needed: use finer "
                "imagery (of map tiles: deeper levels) or larger tiles"
            )
        tiles = self.count(size_m, stride_m)
        if tiles > MAX_TILES:
            raise GridError(
                f"{self.path.name}: a stride of {stride:g} m makes about {tiles:.1g} tiles of it: "
                "cut out the part that you need, for example with gdal_translate -of VRT -projwin"
            )
        for row in rows(self.extent, stride):
            inside = self.contains(row.longitudes, row.latitude)
            for column, longitude in zip(row.columns[inside], row.longitudes[inside], strict=True):
                place = GridPlace(stride, row.row, int(column))
                centre = LatLon(row.latitude, float(longitude))
                yield Cut(tile_id(self.name, place), centre, size, place)

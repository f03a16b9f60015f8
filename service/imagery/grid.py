"""The worldwide grid of tile centres: metres everywhere, whatever the imagery.

Rows are `stride_m` apart along the meridian. They are numbered from the equator, north positive.
Columns are numbered eastward from Greenwich. Their number is rounded, so that a row closes around
its parallel: neighbours are `stride_m` apart to within stride / circumference (3e-7 for 16 m at 60
degrees), also at the dateline and at high latitudes. So a tile's id follows from source name,
stride, row and column alone, and not from the raster that holds the tile.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.errors import SkyfixError
from model.geo import (
    ECCENTRICITY_SQUARED,
    EQUATORIAL_RADIUS_M,
    LatLon,
    metres_per_degree,
    wrap_longitude,
)

MAX_LATITUDE = 89.0  # beyond, east and north change within a single tile

_FLATTENING = 1.0 - math.sqrt(1.0 - ECCENTRICITY_SQUARED)
_N = _FLATTENING / (2.0 - _FLATTENING)  # third flattening
_RECTIFYING_RADIUS_M = EQUATORIAL_RADIUS_M / (1.0 + _N) * (1.0 + _N**2 / 4.0 + _N**4 / 64.0)


class GridError(SkyfixError):
    """A size, stride or extent that makes no grid of tiles."""


class Extent(NamedTuple):
    """Degrees covered by imagery; `west` may lie below -180 or `east` above 180 (dateline)."""

    west: float
    south: float
    east: float
    north: float

    @property
    def middle(self) -> LatLon:
        return LatLon((self.south + self.north) / 2.0, (self.west + self.east) / 2.0)


class GridRow(NamedTuple):
    """The grid points of one row inside an extent."""

    row: int
    latitude: float
    columns: NDArray[np.int64]
    longitudes: NDArray[np.float64]  # in [-180, 180)


class GridPlace(NamedTuple):
    """A grid point."""

    stride_m: float
    row: int
    column: int

    @classmethod
    def nearest(cls, centre: LatLon, stride_m: float) -> GridPlace:
        """The grid point nearest to a tile's centre: the inverse of `rows`."""
        row = round(meridian_distance(centre.latitude) / stride_m)
        around = columns_around(latitude_at(row * stride_m), stride_m)
        return cls(stride_m, row, round(centre.longitude * around / 360.0) % around)


def check_metres(name: str, value: float) -> float:
    """`value` when it is a positive, finite number of metres; GridError otherwise."""
    if not (math.isfinite(value) and value > 0.0):
        raise GridError(f"{name} is {value:g} m: it must be a positive number of metres")
    return value


def meridian_distance(latitude: float) -> float:
    """Metres along the meridian from the equator (Helmert's series, below 0.1 mm on WGS84)."""
    phi = math.radians(latitude)
    series = (
        phi
        - (3.0 / 2.0 * _N - 9.0 / 16.0 * _N**3) * math.sin(2.0 * phi)
        + 15.0 / 16.0 * _N**2 * math.sin(4.0 * phi)
        - 35.0 / 48.0 * _N**3 * math.sin(6.0 * phi)
    )
    return _RECTIFYING_RADIUS_M * series


def latitude_at(meridian_m: float) -> float:
    """Inverse of `meridian_distance`, in degrees (below 0.1 mm on WGS84)."""
    mu = meridian_m / _RECTIFYING_RADIUS_M
    phi = (
        mu
        + (3.0 / 2.0 * _N - 27.0 / 32.0 * _N**3) * math.sin(2.0 * mu)
        + 21.0 / 16.0 * _N**2 * math.sin(4.0 * mu)
        + 151.0 / 96.0 * _N**3 * math.sin(6.0 * mu)
    )
    return math.degrees(phi)


def columns_around(latitude: float, stride_m: float) -> int:
    """Number of columns that close the parallel at `latitude`, at least one."""
    return max(1, round(360.0 * metres_per_degree(latitude).east / stride_m))


def rows(extent: Extent, stride_m: float) -> Iterator[GridRow]:
    """The grid inside `extent`, from north to south, each row from west to east.

    Raises:
        GridError: the stride is not positive, or the extent is not on Earth.
    """
    check_metres("stride", stride_m)
    if not (-90.0 <= extent.south <= extent.north <= 90.0 and extent.west <= extent.east):
        raise GridError(f"the imagery's extent {tuple(extent)} in degrees lies outside the Earth")
    top = math.floor(meridian_distance(min(extent.north, MAX_LATITUDE)) / stride_m)
    bottom = math.ceil(meridian_distance(max(extent.south, -MAX_LATITUDE)) / stride_m)
    for row in range(top, bottom - 1, -1):
        latitude = latitude_at(row * stride_m)
        around = columns_around(latitude, stride_m)
        first = math.ceil(extent.west * around / 360.0)
        last = min(math.floor(extent.east * around / 360.0), first + around - 1)
        unwrapped = np.arange(first, last + 1, dtype=np.int64)
        longitudes = np.array([wrap_longitude(c * 360.0 / around) for c in unwrapped])
        yield GridRow(row, latitude, unwrapped % around, longitudes)


def tile_id(source: str, place: GridPlace) -> str:
    """The stable name of a source's tile at a grid point: `town-16m-n350123-e104711`."""
    hemisphere = "n" if place.row >= 0 else "s"
    return f"{source}-{place.stride_m:g}m-{hemisphere}{abs(place.row)}-e{place.column}"

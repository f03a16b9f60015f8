"""The frozen tile rows of an index version: row i says where the tile of vector i lies."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.geo import MEAN_RADIUS_M, Bounds, LatLon, bounds_around, metres_per_degree
from service.index.catalogue import Tile

Mask = NDArray[np.bool_]  # (N,): one flag a row
Records = NDArray[np.void]  # structured, see record_type


class IndexedTile(NamedTuple):
    """One row: where a tile is. Degrees WGS84, metres of ground width."""

    tile_id: str
    latitude: float
    longitude: float
    size_m: float
    bounds: Bounds


def record_type(id_length: int) -> np.dtype[np.void]:
    """The rows' layout on disk; `sha256` is of the tile's pixels."""
    return np.dtype(
        [
            ("tile_id", f"S{id_length}"),
            ("latitude", "<f8"),
            ("longitude", "<f8"),
            ("size_m", "<f8"),
            ("sha256", "S32"),
        ]
    )


def freeze(tiles: Iterable[Tile], count: int) -> Records:
    """Catalogue tiles as records; every id takes the room of the longest."""
    rows = ((t.tile_id.encode(), t.latitude, t.longitude, t.size_m, t.sha256) for t in tiles)
    records = np.fromiter(rows, dtype=record_type(128), count=count)
    longest = int(np.char.str_len(records["tile_id"]).max(initial=1))
    return records.astype(record_type(longest))


class TileTable:
    """The rows by number, and the rows in an area. `latitude`, `longitude`: (N,) degrees."""

    def __init__(self, records: Records) -> None:
        self.records = records
        self.latitude: NDArray[np.float64] = np.array(records["latitude"])
        self.longitude: NDArray[np.float64] = np.array(records["longitude"])

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[IndexedTile]:
        return (self[row] for row in range(len(self)))

    def __getitem__(self, row: int) -> IndexedTile:
        record = self.records[row]
        centre = LatLon(float(record["latitude"]), float(record["longitude"]))
        size_m = float(record["size_m"])
        return IndexedTile(
            record["tile_id"].decode(), *centre, size_m, bounds_around(centre, size_m)
        )

    def positions(self, rows: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float64]:
        """(K, 2) latitude and longitude of the rows' centres, degrees."""
        return np.column_stack([self.latitude[rows], self.longitude[rows]])

    def within(self, near: LatLon, radius_m: float) -> Mask:
        """Rows whose centre is at most `radius_m` from `near`, as model.geo.distance_m measures."""
        # The box's 1 % covers the sphere that distance_m uses in place of the ellipsoid.
        north = 1.01 * radius_m / metres_per_degree(near.latitude).north
        mask: Mask = np.abs(self.latitude - near.latitude) <= north
        rows = np.flatnonzero(mask)
        mask[rows] = self.distance_m(rows, near) <= radius_m
        return mask

    def in_bbox(self, box: Bounds) -> Mask:
        """Rows whose centre lies in the box, edges included; west > east crosses the dateline."""
        east_of_west, west_of_east = self.longitude >= box.west, self.longitude <= box.east
        across = box.west > box.east
        columns = east_of_west | west_of_east if across else east_of_west & west_of_east
        return np.asarray(columns & (self.latitude >= box.south) & (self.latitude <= box.north))

    def distance_m(self, rows: NDArray[np.intp], to: LatLon) -> NDArray[np.float64]:
        """(K,) metres from the rows' centres to a position; equals model.geo.distance_m."""
        latitude, longitude = np.radians(self.latitude[rows]), np.radians(self.longitude[rows])
        to_latitude, to_longitude = np.radians(to)
        h = (
            np.sin((latitude - to_latitude) / 2.0) ** 2
            + np.cos(latitude) * np.cos(to_latitude) * np.sin((longitude - to_longitude) / 2.0) ** 2
        )
        return np.asarray(2.0 * MEAN_RADIUS_M * np.arcsin(np.sqrt(h.clip(0.0, 1.0))))

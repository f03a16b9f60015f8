"""The grid is metric, closes around the Earth, and names its points for ever."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyproj import Geod

from model.geo import LatLon, offset
from service.imagery.grid import (
    Extent,
    GridError,
    GridPlace,
    columns_around,
    latitude_at,
    meridian_distance,
    rows,
    tile_id,
)

GEOD = Geod(ellps="WGS84")


@given(st.floats(-89.0, 89.0))
def test_meridian_distance_is_the_geodesic_from_the_equator(latitude: float) -> None:
    _, _, metres = GEOD.inv(7.0, 0.0, 7.0, latitude)
    assert math.isclose(abs(meridian_distance(latitude)), metres, abs_tol=1e-3)
    assert math.isclose(latitude_at(meridian_distance(latitude)), latitude, abs_tol=1e-9)


@given(st.floats(-88.0, 88.0), st.floats(-180.0, 180.0), st.sampled_from([8.0, 16.0, 50.0]))
def test_neighbours_are_one_stride_apart(latitude: float, longitude: float, stride: float) -> None:
    south_west = LatLon(latitude, longitude)
    north_east = offset(south_west, 3.2 * stride, 3.2 * stride)
    span = (north_east.longitude - longitude) % 360.0
    extent = Extent(longitude, latitude, longitude + span, north_east.latitude)
    found = list(rows(extent, stride))
    assert len(found) >= 3
    for row in found:
        assert len(row.columns) in (3, 4)
        a, b = row.longitudes[:2]
        _, _, across = GEOD.inv(a, row.latitude, b, row.latitude)
        assert math.isclose(across, stride, rel_tol=5e-3)
    _, _, along = GEOD.inv(0.0, found[0].latitude, 0.0, found[1].latitude)
    assert math.isclose(along, stride, abs_tol=1e-3)


def test_the_dateline_is_ordinary_ground() -> None:
    across = list(rows(Extent(179.99, 52.0, 180.01, 52.001), 16.0))
    assert across
    assert all(np.all(np.abs(row.longitudes) > 179.98) for row in across)
    around = columns_around(across[0].latitude, 16.0)
    steps = np.diff(across[0].columns)
    assert set(steps.tolist()) <= {1, 1 - around}
    again = list(rows(Extent(-180.01, 52.0, -179.99, 52.001), 16.0))
    assert np.array_equal(across[0].columns, again[0].columns)


def test_grid_points_do_not_depend_on_the_extent() -> None:
    small = {
        (r.row, int(c)) for r in rows(Extent(8.0, 50.0, 8.003, 50.002), 16.0) for c in r.columns
    }
    large = {
        (r.row, int(c)) for r in rows(Extent(7.99, 49.9, 8.01, 50.01), 16.0) for c in r.columns
    }
    assert small
    assert small < large


def test_a_whole_parallel_holds_every_column_once() -> None:
    row = next(rows(Extent(-200.0, 88.9, 200.0, 88.999), 1000.0))
    assert sorted(row.columns.tolist()) == list(range(columns_around(row.latitude, 1000.0)))


def test_names_are_stable_and_safe_in_a_path() -> None:
    assert tile_id("town", GridPlace(16.0, 350123, 104711)) == "town-16m-n350123-e104711"
    assert tile_id("town", GridPlace(12.5, -4, 0)) == "town-12.5m-s4-e0"


@given(
    st.floats(-88.9, 88.9), st.floats(-180.0, 180.0), st.sampled_from([0.25, 7.1, 16.0, 18.7808641])
)
def test_a_centre_gives_its_grid_point_back(lat: float, lon: float, stride: float) -> None:
    north_east = offset(LatLon(lat, lon), 3.0 * stride, 3.0 * stride)
    east = lon + (north_east.longitude - lon) % 360.0
    for row in rows(Extent(lon, lat, east, north_east.latitude), stride):
        for column, longitude in zip(row.columns, row.longitudes, strict=True):
            place = GridPlace(stride, row.row, int(column))
            assert GridPlace.nearest(LatLon(row.latitude, float(longitude)), stride) == place


@pytest.mark.parametrize("stride", [0.0, -16.0, math.nan, math.inf])
def test_a_stride_that_makes_no_grid_is_refused(stride: float) -> None:
    with pytest.raises(GridError, match="stride"):
        list(rows(Extent(0.0, 0.0, 1.0, 1.0), stride))


def test_an_extent_beyond_the_poles_is_refused() -> None:
    with pytest.raises(GridError, match="outside the Earth"):
        list(rows(Extent(0.0, 80.0, 1.0, 95.0), 16.0))

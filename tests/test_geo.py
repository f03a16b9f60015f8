import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pyproj import Geod, Transformer

from model.geo import LatLon, bounds_around, distance_m, earth_centred, offset, wrap_longitude

WGS84 = Geod(ellps="WGS84")
places = st.builds(LatLon, st.floats(-80, 80), st.floats(-180, 179.999))
metres = st.floats(-20_000, 20_000)


def geodesic_m(a, b):
    return WGS84.inv(a.longitude, a.latitude, b.longitude, b.latitude)[2]


@given(places, places)
def test_distance_is_the_geodesic_within_the_stated_error(a, b):
    assert distance_m(a, b) == pytest.approx(geodesic_m(a, b), rel=0.006, abs=1e-3)


@given(places, metres, metres)
def test_offset_moves_by_the_stated_metres(origin, east, north):
    away = math.hypot(east, north)
    assume(away > 1)
    moved = offset(origin, east, north)
    assert geodesic_m(origin, moved) == pytest.approx(away, rel=0.02)
    azimuth = WGS84.inv(origin.longitude, origin.latitude, moved.longitude, moved.latitude)[0]
    assert math.cos(math.radians(azimuth) - math.atan2(east, north)) > 0.999


@given(places, st.floats(-60, 60), st.floats(-60, 60))
def test_offset_within_a_tile_is_exact_to_a_centimetre(origin, east, north):
    moved = offset(origin, east, north)
    assert geodesic_m(origin, moved) == pytest.approx(math.hypot(east, north), abs=0.01)


@given(st.floats(-1000, 1000))
def test_wrapped_longitude_is_the_same_meridian(longitude):
    wrapped = wrap_longitude(longitude)
    assert -180 <= wrapped < 180
    assert (wrapped - longitude) / 360 == pytest.approx(round((wrapped - longitude) / 360))


def test_bounds_have_the_tile_s_size_and_may_cross_the_dateline():
    west, south, east, north = bounds_around(LatLon(60, 179.9999), 200.0)
    assert geodesic_m(LatLon(60, west), LatLon(60, east)) == pytest.approx(200, abs=0.1)
    assert geodesic_m(LatLon(south, 0), LatLon(north, 0)) == pytest.approx(200, abs=0.1)
    assert west > east


@given(places)
def test_earth_centred_metres_are_those_of_pyproj(place):
    ecef = Transformer.from_crs("EPSG:4979", "EPSG:4978", always_xy=True)
    expected = ecef.transform(place.longitude, place.latitude, 0.0)
    assert earth_centred(place) == pytest.approx(expected, abs=1e-3)

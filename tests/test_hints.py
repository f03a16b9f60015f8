"""Hints are checked once, for the command line and for HTTP."""

import math
import re

import pytest

from model.geo import Bounds, LatLon
from service.locate.hints import (
    NUMBERS,
    UNKNOWN,
    HintError,
    Hints,
    check_top_k,
    parse_bbox,
    parse_near,
)


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_are_bounded_and_named(name: str) -> None:
    low, high, *_ = NUMBERS[name]
    near = LatLon(0.0, 0.0) if name == "radius_m" else None
    for allowed in (low, high):
        Hints(**{name: allowed}, near=near)
    for refused in (low - 1.0, high + 1.0, math.nan):
        with pytest.raises(HintError, match=re.escape(f"{name}={refused:g}")):
            Hints(**{name: refused}, near=near)


def test_contradictions_are_refused() -> None:
    with pytest.raises(HintError, match="twice"):
        Hints(heading_deg=0.0, north=0.5)
    with pytest.raises(HintError, match="heading_deg=unknown and north"):
        Hints(heading_deg=UNKNOWN, north=0.5)
    with pytest.raises(HintError, match="heading_tolerance_deg=20 no heading"):
        Hints(heading_deg=UNKNOWN, heading_tolerance_deg=20.0)
    with pytest.raises(HintError, match="near"):
        Hints(radius_m=10.0)
    with pytest.raises(HintError, match="projection=fisheye: known are equirectangular, cyl"):
        Hints(projection="fisheye")


@pytest.mark.parametrize("heading", [-90.0, 0.0, 45.0, 359.0])
def test_heading_and_north_state_the_same_angle(heading: float) -> None:
    north = (0.5 - heading / 360.0) % 1.0
    difference = Hints(north=north).centre_heading_deg - Hints(heading_deg=heading).heading_deg
    assert math.isclose(math.cos(math.radians(difference)), 1.0)


def test_coordinates_are_parsed_in_their_stated_order() -> None:
    assert parse_near("-33.5, 151") == LatLon(latitude=-33.5, longitude=151.0)
    assert parse_bbox("179,-20,-179,-10") == Bounds(west=179, south=-20, east=-179, north=-10)
    assert parse_bbox("-180,-90,180,90") == Bounds(-180, -90, 180, 90)


@pytest.mark.parametrize(
    "text", ["", "1", "1,2,3", "a,b", "nan,0", "91,0", "0,181", "1;2", "5_5.6,1", "٣,1"]
)
def test_an_unreadable_point_is_refused(text: str) -> None:
    with pytest.raises(HintError, match="near="):
        parse_near(text)


@pytest.mark.parametrize(
    "text",
    [
        "1,2,3", "0,10,1,10", "0,20,1,10", "0,-91,1,0", "0,0,inf,1",
        "10,20,10,30", "180,20,-180,30", "0,0,1_0,1",
    ],
)  # fmt: skip
def test_an_unreadable_box_is_refused(text: str) -> None:
    with pytest.raises(HintError, match="bbox="):
        parse_bbox(text)


@pytest.mark.parametrize("top_k", [0, -1, 101])
def test_top_k_is_bounded(top_k: int) -> None:
    with pytest.raises(HintError, match=f"top_k={top_k}: allowed is 1 to 100"):
        check_top_k(top_k)


def test_the_area_is_stated_in_words_with_every_digit() -> None:
    near, bbox = LatLon(55.0, -165.123456), Bounds(10.0, 20.0, 11.5, 30.0)
    assert Hints().place == ""
    assert Hints(near=near).place == "within 500 m of near=55.0,-165.123456"
    both = Hints(near=near, radius_m=20.0, bbox=bbox).place
    assert both == "within 20 m of near=55.0,-165.123456 and in bbox=10.0,20.0,11.5,30.0"

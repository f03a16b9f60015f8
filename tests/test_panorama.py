import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.panorama import GeometryError, PanoramaGeometry
from model.tilt import Tilt


@given(st.floats(0, 359.99), st.sampled_from([60.0, 90.0, 200.0, 360.0]))
def test_north_and_heading_are_inverse(heading, fov):
    north = PanoramaGeometry.north_of(heading, fov)
    geometry = PanoramaGeometry(north, horizontal_fov_deg=fov)
    apart = (geometry.heading_of_centre_deg - heading + 180) % 360 - 180
    assert apart == pytest.approx(0, abs=1e-9)
    turned = geometry.strip_north - (0.5 - heading / 360)
    assert (turned + 0.5) % 1 - 0.5 == pytest.approx(0, abs=1e-9)


def test_the_column_of_north_looks_north():
    """60 degrees of view around 350: north is 10 degrees right of the centre."""
    assert PanoramaGeometry.north_of(350, 60) == pytest.approx(0.5 + 10 / 60)
    assert PanoramaGeometry(north=0.25).heading_of_centre_deg == 90
    assert PanoramaGeometry(north=None).heading_of_centre_deg is None
    with pytest.raises(GeometryError, match="north is unknown"):
        _ = PanoramaGeometry(north=None).strip_north


@pytest.mark.parametrize("horizon", [0.5, 0.3])
@pytest.mark.parametrize("projection", ["cylindrical", "rectilinear"])
def test_the_stated_height_is_the_height_between_the_edges(projection, horizon):
    stated = PanoramaGeometry(
        projection=projection, horizontal_fov_deg=80, vertical_fov_deg=100, horizon=horizon
    )
    top, bottom = stated.extent(300, 400)
    assert top - bottom == pytest.approx(100)
    assert math.tan(math.radians(top)) * (1 - horizon) == pytest.approx(
        -math.tan(math.radians(bottom)) * horizon
    )


def test_a_photograph_of_square_pixels_is_as_high_as_its_focal_length_says():
    """A focal length of 100 pixels: half of 200 columns and half of 100 rows."""
    photograph = PanoramaGeometry(projection="rectilinear", horizontal_fov_deg=90)
    half = math.degrees(math.atan(0.5))
    assert photograph.extent(100, 200) == pytest.approx((half, -half))
    up = replace(photograph, tilt=Tilt(pitch_deg=20))
    assert up.extent(100, 200) == pytest.approx((20 + half, 20 - half))


def test_impossible_photographs_are_refused_by_name():
    for changes, message in (
        ({"horizontal_fov_deg": 200}, "horizontal_fov_deg is 200; it must be 1 to 179"),
        ({"tilt": Tilt(pitch_deg=91)}, "pitch_deg is 91; it must be -90 to 90"),
        ({"tilt": Tilt(roll_deg=181)}, "roll_deg is 181; it must be -180 to 180"),
        ({"horizon": 2.0, "vertical_fov_deg": 120}, "horizon 2 exclude each other"),
    ):
        photograph = PanoramaGeometry(projection="rectilinear", horizontal_fov_deg=90)
        with pytest.raises(GeometryError, match=message):
            replace(photograph, **changes).extent(100, 200)

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.panorama import Band, GeometryError, PanoramaGeometry, cut_band

FILL = (1, 2, 3)


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


def elevations(extent, height=300, width=60):
    """An image whose colour is the elevation of its row: 100 + degrees."""
    rows = extent.top_deg - (np.arange(height) + 0.5) / height * (
        extent.top_deg - extent.bottom_deg
    )
    column = np.repeat((100 + rows)[:, None, None], 3, 2)
    return np.tile(column, (1, width, 1)).round().astype(np.uint8)


@pytest.mark.parametrize(
    ("geometry", "extent"),
    [
        (PanoramaGeometry(vertical_fov_deg=180), Band(90, -90)),
        (PanoramaGeometry(vertical_fov_deg=65, horizon=128 / 224), Band(37.1, -27.9)),
        (PanoramaGeometry(vertical_fov_deg=40, horizon=0.0), Band(0, -40)),
        (PanoramaGeometry(vertical_fov_deg=100, horizontal_fov_deg=90), Band(50, -50)),
    ],
)
def test_every_row_of_the_band_shows_its_elevation(geometry, extent):
    assert geometry.extent(300, 60) == pytest.approx(extent, abs=0.05)
    band, height = Band(20, -50), 70
    strip = cut_band(elevations(extent), geometry, band, (height, 120), FILL)[:, 60].astype(int)
    shown = 20 - (np.arange(height) + 0.5)
    inside = (shown < extent.top_deg - 1) & (shown > extent.bottom_deg + 1)
    assert np.abs(strip[inside, 0] - 100 - shown[inside]).max() <= 1.5
    outside = (shown > extent.top_deg + 1) | (shown < extent.bottom_deg - 1)
    assert (strip[outside] == FILL).all()


def test_without_a_band_the_whole_height_is_kept():
    image = elevations(Band(37, -28), height=260, width=1440)
    strip = cut_band(image, PanoramaGeometry(), None, (65, 12), FILL)
    assert np.abs(strip[:, 5, 0] - 100.0 - (36.5 - np.arange(65))).max() <= 1.5


def test_a_limited_view_stands_around_the_centre_column():
    image = np.full((50, 50, 3), 200, np.uint8)
    geometry = PanoramaGeometry(horizontal_fov_deg=90, vertical_fov_deg=90)
    strip = cut_band(image, geometry, Band(45, -45), (40, 360), FILL)
    seen = (strip[20] == 200).all(1)
    assert seen.nonzero()[0].tolist() == list(range(135, 225))
    assert (strip[:, ~seen] == FILL).all()


def test_a_strip_of_the_right_size_is_the_image_itself():
    image = np.random.default_rng(0).integers(0, 256, (40, 80, 3), np.uint8)
    assert (cut_band(image, PanoramaGeometry(), None, (40, 80), FILL) == image).all()


@pytest.mark.parametrize(
    ("geometry", "names"),
    [
        (PanoramaGeometry(), "100x300"),  # far too tall for a full circle
        (PanoramaGeometry(vertical_fov_deg=200), "vertical_fov_deg is 200"),
        (PanoramaGeometry(vertical_fov_deg=float("nan")), "vertical_fov_deg is nan"),
        (PanoramaGeometry(horizontal_fov_deg=0), "horizontal_fov_deg is 0"),
        (PanoramaGeometry(horizon=7, vertical_fov_deg=60), "horizon is 7"),
        (PanoramaGeometry(north=float("inf"), vertical_fov_deg=60), "north is inf"),
        (PanoramaGeometry(horizon=2.0, vertical_fov_deg=40), "elevations 40 to 80"),
    ],
)
def test_impossible_geometry_is_named(geometry, names):
    with pytest.raises(GeometryError, match=names):
        cut_band(np.zeros((300, 100, 3), np.uint8), geometry, Band(15, -45), (30, 60), FILL)

"""Strips of every projection, against images whose colour is the direction that a pixel shows."""

import io

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation
from sphere_samples import BAND, SIZE, STRIP, coloured, rays

from model.images import open_image
from model.panorama import Band, GeometryError, Panorama, PanoramaGeometry
from model.preprocessing import Preprocessing
from model.strip import cut_band
from model.tilt import Tilt

FILL = (1, 2, 3)


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


VIEWS = [
    (PanoramaGeometry(tilt=Tilt(10, 0)), 300, 600),
    (PanoramaGeometry(tilt=Tilt(-24.5, 9)), 300, 600),
    (PanoramaGeometry(tilt=Tilt(0, 100)), 300, 600),
    (PanoramaGeometry(tilt=Tilt(3, 5), horizontal_fov_deg=120), 300, 600),
    (PanoramaGeometry(tilt=Tilt(3, 5), horizon=0.3, vertical_fov_deg=70), 300, 900),
    (PanoramaGeometry(projection="cylindrical"), 300, 900),
    (PanoramaGeometry(projection="cylindrical", horizontal_fov_deg=200, horizon=0.3), 300, 600),
    (PanoramaGeometry(projection="cylindrical", tilt=Tilt(4, -8), vertical_fov_deg=90), 300, 600),
    (PanoramaGeometry(projection="rectilinear", horizontal_fov_deg=70), 300, 400),
    (PanoramaGeometry(projection="rectilinear", horizontal_fov_deg=50), 400, 300),
    (
        PanoramaGeometry(projection="rectilinear", horizontal_fov_deg=120, tilt=Tilt(-9, 4)),
        300,
        400,
    ),
    (PanoramaGeometry(projection="rectilinear", horizontal_fov_deg=70, tilt=Tilt(5, 90)), 300, 400),
]


@pytest.mark.parametrize(("geometry", "height", "width"), VIEWS)
def test_every_pixel_of_the_strip_shows_its_direction(geometry, height, width):
    image = coloured(rays(geometry, height, width))
    strip = cut_band(image, geometry, BAND, SIZE, FILL)
    expected = coloured(rays(STRIP, *SIZE)).astype(int)
    seen = (strip != FILL).any(-1)
    assert np.abs(strip - expected)[seen].max() <= 2
    assert seen.mean() > 0.5 * min(1.0, geometry.horizontal_fov_deg / 360 * 0.6)


def test_what_a_photograph_does_not_show_is_filled():
    """At 60 degrees from the axis a plane is twice as far: the view is half as high."""
    photograph = PanoramaGeometry(projection="rectilinear", horizontal_fov_deg=120)
    strip = cut_band(np.full((400, 400, 3), 200, np.uint8), photograph, Band(60, -60), SIZE, FILL)
    seen = (strip > 198).all(-1)
    assert (strip[~seen] == FILL).all()
    assert seen.any(0).nonzero()[0][[0, -1]] == pytest.approx([512 / 3, 512 * 2 / 3 - 1], abs=1)
    edge = np.degrees(np.arctan(np.tan(np.radians(60)) / 2))
    assert seen[:, 172].sum() == pytest.approx(edge * 2 * 96 / 120, abs=3)


def test_a_tilt_of_less_than_half_a_row_changes_nothing():
    image = coloured(rays(PanoramaGeometry(), 300, 600))
    level, tilted = (
        cut_band(image, PanoramaGeometry(tilt=Tilt(pitch)), BAND, SIZE, FILL)
        for pitch in (0.0, 0.29)
    )
    assert (level == tilted).all()


@pytest.mark.parametrize(("geometry", "height", "width"), VIEWS)
def test_a_reduced_and_partly_decoded_image_gives_the_same_strip(geometry, height, width):
    image = coloured(rays(geometry, 4 * height, 4 * width))
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=95)
    preprocessing = Preprocessing()
    panorama = Panorama(open_image(buffer.getvalue()), geometry)
    assert preprocessing.sufficient_size(panorama)[1] < 2 * width
    strip = preprocessing.read_strip(panorama).astype(int)
    apart = np.abs(strip - preprocessing.strip(image, geometry)).max(-1)
    assert (apart > 4).mean() < 0.01  # the outline of what is seen moves by less than a pixel


def test_a_photograph_of_the_sky_is_refused():
    up = PanoramaGeometry(projection="rectilinear", horizontal_fov_deg=40, tilt=Tilt(pitch_deg=80))
    with pytest.raises(GeometryError, match="elevations 60 to 100"):
        cut_band(np.zeros((100, 100, 3), np.uint8), up, BAND, SIZE, FILL)


@pytest.mark.parametrize("azimuth", [0.0, 40.0, -160.0])
def test_a_tilt_about_another_direction_is_the_same_rotation(azimuth):
    tilt = Tilt(12.0, -25.0)
    heading, own = tilt.towards(azimuth)
    there = Rotation.from_euler("ZXY", [-heading, *own], degrees=True)
    here = Rotation.from_euler("XY", tilt, degrees=True) * Rotation.from_euler(
        "Z", -azimuth, degrees=True
    )
    assert (there.inv() * here).magnitude() == pytest.approx(0, abs=1e-9)

"""The field of view that EXIF states, and which images are taken for photographs."""

import math

import numpy as np
import pytest
from hostile_images import XMP
from image_samples import encoded
from PIL import Image

from model.panorama import GeometryError
from model.panorama_metadata import read_panorama

FILM, FOCAL, RESOLUTION, UNIT, ZOOM = 0xA405, 0x920A, 0xA20E, 0xA210, 0xA404
WIDTH, HEIGHT, ORIENTATION = 0xA002, 0xA003, 0x0112
PHONE = {FILM: 26, WIDTH: 4000, HEIGHT: 3000}


def photo(size, camera, orientation=1, **options):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    exif.get_ifd(0x8769).update(camera)
    return encoded(Image.new("RGB", size), "JPEG", exif=exif.tobytes(), **options)


def fov(side, focal):
    return math.degrees(2 * math.atan(side / 2 / focal))


def test_a_focal_length_in_film_makes_the_same_diagonal_field_of_view():
    panorama = read_panorama(photo((400, 300), PHONE))
    assert panorama.geometry.projection == "rectilinear"
    assert panorama.sources["projection"] == panorama.sources["horizontal_fov_deg"] == "EXIF"
    across, down = (
        np.radians(angle) / 2
        for angle in (panorama.geometry.horizontal_fov_deg, np.ptp(panorama.extent))
    )
    diagonal = np.hypot(np.tan(across), np.tan(down))
    assert diagonal == pytest.approx(math.hypot(36, 24) / 2 / 26)


@pytest.mark.parametrize("size", [(400, 300), (300, 400)])
@pytest.mark.parametrize("orientation", [1, 6])
def test_an_upright_portrait_is_narrow_and_high(size, orientation):
    panorama = read_panorama(photo(size, PHONE, orientation))
    focal = 500 * 26 / math.hypot(36, 24)
    height, width = panorama.image.size
    assert (width == 300) == ((orientation == 6) == (size == (400, 300)))
    assert panorama.geometry.horizontal_fov_deg == pytest.approx(fov(width, focal))
    assert np.ptp(panorama.extent) == pytest.approx(fov(height, focal))


@pytest.mark.parametrize(
    ("camera", "focal"),
    [
        ({FOCAL: 5.0, RESOLUTION: 1000.0, UNIT: 3}, 500),  # 100 a millimetre
        ({FOCAL: 5.0, RESOLUTION: 2540.0}, 500),  # inches unless stated
        ({FOCAL: 5.0, RESOLUTION: 1000.0, UNIT: 4, WIDTH: 4000, HEIGHT: 3000}, 500),  # resized
        ({FOCAL: 5.0, RESOLUTION: 1000.0, UNIT: 3, ZOOM: 2.0}, 1000),
        ({FOCAL: 5.0, RESOLUTION: 1000.0, UNIT: 3, ZOOM: 0.0}, 500),  # 0: not used
        ({FILM: 0, FOCAL: 5.0, RESOLUTION: 1000.0, UNIT: 3}, 500),  # 0: unknown
    ],
)
def test_a_focal_length_and_a_sensor_s_resolution_do_as_well(camera, focal):
    view = read_panorama(photo((400, 300), camera)).geometry.horizontal_fov_deg
    assert view == pytest.approx(fov(400, focal))


@pytest.mark.parametrize("size", [(3000, 3000), (2000, 600), (3200, 2000)])
def test_a_cut_file_is_noted_and_keeps_its_scale(size):
    panorama = read_panorama(photo(size, PHONE), projection="rectilinear")
    focal = 5000 * 26 / math.hypot(36, 24)
    assert panorama.geometry.horizontal_fov_deg == pytest.approx(fov(size[0], focal))
    note = panorama.notes["horizontal_fov_deg"]
    assert "4000x3000" in note
    assert "give horizontal_fov_deg" in note


def test_sides_that_exif_cannot_mean_are_ignored_and_noted():
    panorama = read_panorama(photo((400, 300), {FILM: 26, WIDTH: 320, HEIGHT: 320}))
    focal = 500 * 26 / math.hypot(36, 24)
    assert panorama.geometry.horizontal_fov_deg == pytest.approx(fov(400, focal))
    assert "EXIF's are ignored" in panorama.notes["horizontal_fov_deg"]


@pytest.mark.parametrize(
    "camera",
    [{}, {FILM: 0}, {FILM: 3}, {FOCAL: 5.0}, {FOCAL: 5.0, RESOLUTION: 0.0}, {FILM: "wide"}],
)
def test_without_a_lens_the_field_of_view_must_be_given(camera):
    data = photo((400, 300), camera)
    with pytest.raises(GeometryError, match="projection=rectilinear"):
        _ = read_panorama(data).extent
    with pytest.raises(GeometryError, match="Give horizontal_fov_deg"):
        read_panorama(data, projection="rectilinear")
    given = read_panorama(data, projection="rectilinear", vertical_fov_deg=50.0)
    assert given.geometry.horizontal_fov_deg == pytest.approx(
        fov(400, 150 / math.tan(math.radians(25)))
    )


def test_what_is_a_panorama_stays_a_panorama():
    full = photo((400, 200), PHONE)
    assert read_panorama(full).geometry.projection == "equirectangular"
    assert "give projection=rectilinear" in read_panorama(full).notes["projection"]
    assert read_panorama(full, projection="rectilinear").sources["projection"] == "given"
    phone = photo((400, 300), PHONE)
    assert read_panorama(phone, horizontal_fov_deg=240).geometry.projection == "equirectangular"
    narrow = read_panorama(phone, horizontal_fov_deg=40.0)
    assert narrow.geometry.projection == "rectilinear"
    assert np.ptp(narrow.extent) == pytest.approx(fov(300, 200 / math.tan(math.radians(20))))
    xmp = XMP.format(
        fields='GPano:FullPanoHeightPixels="400" GPano:CroppedAreaImageWidthPixels="400"'
    ).encode()
    window = read_panorama(photo((400, 300), PHONE, xmp=xmp))
    assert window.sources["projection"] == "assumed"

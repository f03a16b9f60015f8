import io
import logging
import warnings

import numpy as np
import pytest
from hostile_images import with_xmp
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from model.images import MAX_METADATA_BYTES, ImageError
from model.panorama import Band, GeometryError, PanoramaGeometry, cut_band, read_geometry

FILL = (1, 2, 3)


def gpano(body):
    return (
        '<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description xmlns:GPano="http://ns.google.com/photos/1.0/panorama/" '
        f'{body}</rdf:RDF></x:xmpmeta><?xpacket end="r"?>'
    ).encode()


def attributes(**fields):
    return gpano(" ".join(f'GPano:{key}="{value}"' for key, value in fields.items()) + "/>")


def elements(**fields):
    inner = "".join(f"<GPano:{key}>{value}</GPano:{key}>" for key, value in fields.items())
    return gpano(f">{inner}</rdf:Description>")


def photo(size=(200, 100), form="JPEG", **metadata):
    buffer = io.BytesIO()
    Image.new("RGB", size).save(buffer, form, **metadata)
    return buffer.getvalue()


def full(width=200, height=100, **fields):
    return {
        "ProjectionType": "equirectangular",
        "FullPanoWidthPixels": width,
        "FullPanoHeightPixels": height,
        **fields,
    }


def direction(degrees, reference="T"):
    exif = Image.Exif()
    exif.get_ifd(0x8825).update({16: reference, 17: degrees})
    return exif.tobytes()


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
        (PanoramaGeometry(), "100x300"),  # far too tall for a full turn
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


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("write", [attributes, elements])
def test_gpano_states_heading_and_full_sphere(form, write):
    xmp = write(**full(PoseHeadingDegrees="90.0"))
    reading = read_geometry(photo(form=form, **with_xmp(form, xmp)))
    assert reading.geometry == PanoramaGeometry(0.25, 0.5, 180.0, 360.0)
    assert set(reading.sources.values()) == {"GPano"}


def test_gpano_crop_gives_extent_and_horizon_also_of_a_resized_file():
    crop = {"CroppedAreaImageWidthPixels": 4000, "CroppedAreaImageHeightPixels": 1000}
    place = {"CroppedAreaLeftPixels": 0, "CroppedAreaTopPixels": 700}
    xmp = attributes(**full(4000, 2000, **crop, **place))
    geometry = read_geometry(photo((400, 100), xmp=xmp)).geometry
    assert geometry == PanoramaGeometry(None, 0.3, 90.0, 360.0)
    assert geometry.extent(100, 400) == pytest.approx((27, -63))


def test_the_heading_of_a_crop_counts_from_the_full_sphere_s_centre():
    """The right quarter of a sphere whose centre looks east looks south-east to south-west."""
    crop = {"CroppedAreaImageWidthPixels": 100, "CroppedAreaImageHeightPixels": 200}
    place = {"CroppedAreaLeftPixels": 300, "CroppedAreaTopPixels": 0, "PoseHeadingDegrees": 90}
    geometry = read_geometry(
        photo((50, 100), xmp=attributes(**full(400, 200, **crop, **place)))
    ).geometry
    assert geometry.horizontal_fov_deg == 90
    assert geometry.heading_of_centre_deg == pytest.approx(90 + 135)


def test_a_crop_of_other_proportions_is_ignored_and_logged(caplog):
    reading = read_geometry(photo((200, 50), xmp=attributes(**full(PoseHeadingDegrees=0))))
    assert reading.geometry == PanoramaGeometry(0.5)
    assert reading.sources["horizon"] == "assumed"
    assert "200x50" in caplog.text


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"ProjectionType": "cubestrip"}, "cubestrip"),
        (full(PoseHeadingDegrees="north"), "PoseHeadingDegrees 'north'"),
        (full(PoseHeadingDegrees="nan"), "PoseHeadingDegrees 'nan'"),
        (full(PoseHeadingDegrees="1e9"), "PoseHeadingDegrees '1e9'"),
        (full(width=-4), "FullPanoWidthPixels '-4'"),
        (full(CroppedAreaTopPixels=60, CroppedAreaImageHeightPixels=50), "outside its full"),
    ],
)
def test_nonsense_in_gpano_is_refused_by_name(fields, names):
    with pytest.raises(GeometryError, match=names):
        read_geometry(photo(xmp=attributes(**fields)))


def test_an_image_that_is_stored_lying_has_the_geometry_of_the_upright_one():
    """A quarter of a sphere, 100 wide and 50 high as it is seen."""
    crop = {"CroppedAreaImageWidthPixels": 100, "CroppedAreaImageHeightPixels": 50}
    xmp = attributes(**full(**crop, CroppedAreaTopPixels=25, CroppedAreaLeftPixels=50))
    upright = read_geometry(photo((100, 50), xmp=xmp))
    assert upright.geometry.horizontal_fov_deg == 180
    for orientation in (5, 6, 7, 8):
        exif = Image.Exif()
        exif[0x0112] = orientation
        assert read_geometry(photo((50, 100), xmp=xmp, exif=exif.tobytes())) == upright


EXTENT = ("horizon", "vertical_fov_deg", "horizontal_fov_deg")


@pytest.mark.parametrize(
    ("fields", "known"),
    [
        ({"ProjectionType": "cubestrip"}, (*EXTENT, "north")),
        (full(PoseHeadingDegrees="358,88"), ("north",)),
        (full(width=-4), (*EXTENT, "north")),
    ],
)
def test_what_is_known_better_is_not_read_and_so_cannot_be_wrong(fields, known):
    data = photo(xmp=attributes(**fields))
    names = "heading_deg" if len(known) == 1 else "heading_deg, horizon, .*horizontal_fov_deg"
    with pytest.raises(GeometryError, match=f"correct it, or give {names}"):
        read_geometry(data, known[1:])
    assert read_geometry(data, known).sources["north"] == "assumed"


def test_a_projection_s_name_may_be_written_large():
    xmp = attributes(**full(ProjectionType="Equirectangular", PoseHeadingDegrees=90))
    assert read_geometry(photo(xmp=xmp)).geometry.heading_of_centre_deg == 90


LAUGHS = b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "ha"><!ENTITY c "&b;&b;&b;&b;">]><a>&c;</a>'


@pytest.mark.parametrize("xmp", [LAUGHS, b"<x:xmpmeta", b"\xff\xfe\x00", b"<a/>"])
def test_hostile_xmp_is_ignored(xmp, caplog):
    caplog.set_level(logging.WARNING)
    assert read_geometry(photo(xmp=xmp)).geometry == PanoramaGeometry(None)
    assert ("XMP" in caplog.text) == (xmp != b"<a/>")


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_xmp_larger_than_a_jpeg_can_hold_is_ignored(form, caplog):
    """Parsed, 2.8 MB of empty elements take 160 MiB."""
    xmp = attributes(**full(PoseHeadingDegrees="90.0"))
    most = xmp.replace(b"?><x:", b"?>" + b" " * (MAX_METADATA_BYTES - len(xmp)) + b"<x:")
    assert read_geometry(photo(form=form, **with_xmp(form, most))).sources["north"] == "GPano"
    larger = most.replace(b"?> ", b"?>  ")
    assert len(larger) == MAX_METADATA_BYTES + 1
    assert read_geometry(photo(form=form, **with_xmp(form, larger))).geometry == PanoramaGeometry(
        None
    )
    assert "XMP" in caplog.text


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_exif_direction_is_the_fallback(form):
    reading = read_geometry(photo(form=form, exif=direction(180.0)))
    assert reading.geometry.heading_of_centre_deg == 180
    assert reading.sources["north"] == "EXIF"
    magnetic = read_geometry(photo(form=form, exif=direction(180.0, "M")))
    assert magnetic.sources["north"] == "EXIF (magnetic)"
    assert magnetic.sources["horizon"] == "assumed"


def test_gpano_goes_before_exif_and_nonsense_in_exif_is_ignored(caplog):
    both = photo(exif=direction(180.0), xmp=attributes(PoseHeadingDegrees=0))
    assert read_geometry(both).geometry.heading_of_centre_deg == 0
    assert read_geometry(photo(exif=direction(400.0))).geometry.north is None
    assert "400" in caplog.text


def test_no_metadata_leaves_north_unknown_and_says_what_is_assumed():
    reading = read_geometry(photo())
    assert reading.geometry == PanoramaGeometry(None)
    assert set(reading.sources) == {"north", "horizon", "vertical_fov_deg", "horizontal_fov_deg"}
    assert set(reading.sources.values()) == {"assumed"}
    with pytest.raises(ImageError):
        read_geometry(b"no image")


def test_damaged_exif_warns_nobody():
    """A client's file puts no line of Pillow's on standard error, beside the log."""
    cut = direction(180.0)[:-8]  # its value
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert read_geometry(photo(exif=cut)).geometry.north is None
    assert caught == []

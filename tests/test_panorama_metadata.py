"""A panorama's geometry from GPano XMP and EXIF, and from given values."""

import io
import logging
import warnings
from collections import Counter

import pytest
from hostile_images import with_xmp
from PIL import Image

from model import images
from model.embedded_metadata import MAX_XMP_BYTES
from model.images import ImageError
from model.panorama import Band, GeometryError, PanoramaGeometry
from model.panorama_metadata import read_panorama
from model.preprocessing import Preprocessing
from model.stated_tilt import ANGLES


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


@pytest.mark.parametrize("form", images.FORMATS)
@pytest.mark.parametrize("write", [attributes, elements])
def test_gpano_states_heading_and_full_sphere(form, write):
    xmp = write(**full(PoseHeadingDegrees="90.0"))
    reading = read_panorama(photo(form=form, **with_xmp(form, xmp)))
    assert reading.geometry == PanoramaGeometry(0.25, 0.5, 180.0, 360.0)
    level = dict.fromkeys(ANGLES, "assumed")
    assert reading.sources == {**dict.fromkeys(GIVEN, "GPano"), "projection": "GPano", **level}


def test_gpano_crop_gives_extent_and_horizon_also_of_a_resized_file():
    crop = {"CroppedAreaImageWidthPixels": 4000, "CroppedAreaImageHeightPixels": 1000}
    place = {"CroppedAreaLeftPixels": 0, "CroppedAreaTopPixels": 700}
    xmp = attributes(**full(4000, 2000, **crop, **place))
    geometry = read_panorama(photo((400, 100), xmp=xmp)).geometry
    assert geometry == PanoramaGeometry(None, 0.3, 90.0, 360.0)
    assert geometry.extent(100, 400) == pytest.approx((27, -63))


def test_the_heading_of_a_crop_counts_from_the_full_sphere_s_centre():
    """The right quarter of a sphere whose centre looks east looks south-east to south-west."""
    crop = {"CroppedAreaImageWidthPixels": 100, "CroppedAreaImageHeightPixels": 200}
    place = {"CroppedAreaLeftPixels": 300, "CroppedAreaTopPixels": 0, "PoseHeadingDegrees": 90}
    geometry = read_panorama(
        photo((50, 100), xmp=attributes(**full(400, 200, **crop, **place)))
    ).geometry
    assert geometry.horizontal_fov_deg == 90
    assert geometry.heading_of_centre_deg == pytest.approx(90 + 135)


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"ProjectionType": "cubestrip"}, "cubestrip"),
        (full(width=-4), "FullPanoWidthPixels '-4'"),
        (full(400, 200, CroppedAreaTopPixels=160, CroppedAreaImageHeightPixels=50), "lie inside"),
    ],
)
def test_nonsense_in_gpano_is_refused_by_name(fields, names):
    with pytest.raises(GeometryError, match=names):
        read_panorama(photo(xmp=attributes(**fields)))


def test_an_image_stored_on_its_side_has_the_geometry_of_the_upright_image():
    """A quarter of a sphere, 100 wide and 50 high as it is seen."""
    crop = {"CroppedAreaImageWidthPixels": 100, "CroppedAreaImageHeightPixels": 50}
    xmp = attributes(**full(**crop, CroppedAreaTopPixels=25, CroppedAreaLeftPixels=50))
    upright = read_panorama(photo((100, 50), xmp=xmp)).geometry
    assert upright.horizontal_fov_deg == 180
    for orientation in (5, 6, 7, 8):
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = photo((50, 100), xmp=xmp, exif=exif.tobytes())
        assert read_panorama(data).geometry == upright


GIVEN = {
    "horizon": 0.5,
    "vertical_fov_deg": 180.0,
    "horizontal_fov_deg": 360.0,
    "heading_deg": 90.0,
}


@pytest.mark.parametrize("fields", [{"ProjectionType": "cubestrip"}, full(width=-4)])
def test_metadata_is_not_read_if_all_values_are_given(fields):
    data = photo(xmp=attributes(**fields))
    with pytest.raises(GeometryError, match=r"give heading_deg, horizon, .*fov_deg"):
        read_panorama(data, horizon=0.5, vertical_fov_deg=180.0, horizontal_fov_deg=360.0)
    panorama = read_panorama(data, **GIVEN)
    assert panorama.heading_deg == 90
    assert {panorama.sources[name] for name in GIVEN} == {"given"}


@pytest.mark.parametrize("stated", ["cubestrip", "cylindrical"])
def test_a_given_projection_goes_before_gpano_s_and_its_numbers(stated):
    data = photo(xmp=attributes(**full(900, ProjectionType=stated)))
    panorama = read_panorama(data, projection="equirectangular")
    assert panorama.geometry == PanoramaGeometry(None)
    assert panorama.sources["projection"] == "given"


def test_a_projection_s_name_may_have_capitals():
    xmp = attributes(**full(ProjectionType="Equirectangular", PoseHeadingDegrees=90))
    assert read_panorama(photo(xmp=xmp)).geometry.heading_of_centre_deg == 90


LAUGHS = b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "ha"><!ENTITY c "&b;&b;&b;&b;">]><a>&c;</a>'


@pytest.mark.parametrize("xmp", [LAUGHS, b"<x:xmpmeta", b"\xff\xfe\x00", b"<a/>"])
def test_hostile_xmp_is_ignored(xmp, caplog):
    caplog.set_level(logging.WARNING)
    assert read_panorama(photo(xmp=xmp)).geometry == PanoramaGeometry(None)
    assert ("XMP" in caplog.text) == (xmp in (LAUGHS, b"<x:xmpmeta"))


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_xmp_that_would_take_long_is_ignored(form, caplog):
    xmp = attributes(**full(PoseHeadingDegrees="90.0"))
    most = xmp.replace(b"?><x:", b"?>" + b" " * (MAX_XMP_BYTES - len(xmp)) + b"<x:")
    assert read_panorama(photo(form=form, **with_xmp(form, most))).sources["heading_deg"] == "GPano"
    larger = most.replace(b"?> ", b"?>  ")
    assert len(larger) == MAX_XMP_BYTES + 1
    assert read_panorama(photo(form=form, **with_xmp(form, larger))).geometry.north is None
    assert "XMP" in caplog.text


@pytest.mark.parametrize("form", images.FORMATS)
def test_exif_direction_is_the_fallback(form):
    reading = read_panorama(photo(form=form, exif=direction(180.0)))
    assert reading.geometry.heading_of_centre_deg == 180
    assert reading.sources["heading_deg"] == "EXIF"
    assert reading.sources["horizon"] == "assumed"


def test_gpano_goes_before_exif_and_nonsense_is_ignored():
    both = photo(exif=direction(180.0), xmp=attributes(PoseHeadingDegrees=90))
    assert read_panorama(both).geometry.heading_of_centre_deg == 90
    neither = read_panorama(photo(exif=direction(400.0), xmp=attributes(PoseHeadingDegrees="")))
    assert (neither.geometry.north, neither.sources["heading_deg"]) == (None, "unknown")
    assert all(name in neither.notes["heading_deg"] for name in ("PoseHeadingDegrees ''", "400"))


def test_without_metadata_the_heading_is_unknown_and_the_extent_assumed():
    reading = read_panorama(photo())
    assert reading.geometry == PanoramaGeometry(None)
    assert reading.sources.pop("heading_deg") == "unknown"
    assert set(reading.sources.values()) == {"assumed"}
    with pytest.raises(ImageError):
        read_panorama(b"no image")


def test_damaged_exif_prints_no_warning():
    """A client's file makes Pillow write no line to standard error, beside the log."""
    cut = direction(180.0)[:-8]  # its value
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert read_panorama(photo(exif=cut)).geometry.north is None
    assert caught == []


def test_an_upload_is_opened_once(monkeypatch):
    """Its markers are scanned once and its EXIF is parsed once, from opening to the strip."""
    calls = Counter()

    def count(owner, name):
        original = getattr(owner, name)

        def counting(*args, **options):
            calls[name] += 1
            return original(*args, **options)

        monkeypatch.setattr(owner, name, counting)

    count(Image, "open")
    count(Image.Exif, "load")
    count(images, "scan_jpeg")
    xmp = attributes(**full(4096, 2048, PoseHeadingDegrees=90))
    # With a resolution: else Pillow parses the EXIF to find the resolution.
    data = photo((4096, 2048), dpi=(72, 72), exif=direction(180.0), xmp=xmp)
    panorama = read_panorama(data)
    assert panorama.extent == Band(90, -90)
    assert Preprocessing().read_strip(panorama).shape == (96, 512, 3)
    assert calls == {"open": 1, "load": 1, "scan_jpeg": 1}

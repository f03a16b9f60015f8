"""GPano as people's software writes it: right, wrong and restored, or refused."""

import numpy as np
import pytest
from hostile_images import XMP
from image_samples import encoded
from PIL import Image

from model.panorama import GeometryError
from model.panorama_metadata import read_panorama
from model.stated_extent import EXTENT, choose_extent
from model.tilt import LEVEL, Tilt

SPHERE = (1024, 512)
TOP = (0, 0, 1024, 384)  # left, top, width, height: without the camera's foot
MIDDLE = (0, 128, 1024, 256)
WINDOW = (256, 0, 512, 512)
PART = (192, 64, 640, 320)


def numbers(full=None, crop=None, offsets=None):
    """GPano's numbers; None: not stated."""
    sides = ("FullPanoWidthPixels", "FullPanoHeightPixels")
    fields = dict(zip(sides, full or (), strict=False))
    sides = ("CroppedAreaImageWidthPixels", "CroppedAreaImageHeightPixels")
    fields |= dict(zip(sides, crop or (), strict=False))
    fields |= dict(
        zip(("CroppedAreaLeftPixels", "CroppedAreaTopPixels"), offsets or (), strict=False)
    )
    return {name: str(value) for name, value in fields.items() if value is not None}


def scaled(pair, factor):
    return tuple(factor * number for number in pair)


def truth(part):
    """Horizon, vertical and horizontal field of view, and heading of the centre, by definition."""
    left, top, width, height = part
    degrees = 360 / SPHERE[0]
    horizon = (SPHERE[1] / 2 - top) / height
    return horizon, height * degrees, width * degrees, (left + width / 2 - SPHERE[0] / 2) * degrees


def read(part, gpano, file_scale=1.0):
    _, _, width, height = part
    return choose_extent(gpano, (round(height * file_scale), round(width * file_scale)))


def as_written(part):
    return numbers(SPHERE, part[2:], part[:2])


@pytest.mark.parametrize("part", [(0, 0, *SPHERE), TOP, MIDDLE, WINDOW, PART])
@pytest.mark.parametrize("file_scale", [1.0, 0.25, 2.0])
def test_right_numbers_are_believed_whatever_the_file_s_scale(part, file_scale):
    extent = read(part, as_written(part), file_scale)
    assert extent[:4] == pytest.approx(truth(part))
    assert set(extent.sources.values()) == {"GPano"}
    assert extent.notes == {}


OWN = {part: numbers(part[2:], part[2:], (0, 0)) for part in (TOP, MIDDLE, WINDOW)}
LIES = {
    "the file's size as the full panorama": (TOP, OWN[TOP]),
    "the file's size, a flat band": (MIDDLE, OWN[MIDDLE]),
    "the file's size, a window": (WINDOW, OWN[WINDOW]),
    "the file's size, without a crop": (TOP, numbers(TOP[2:])),
    "the file's size, a window without a crop": (WINDOW, numbers(WINDOW[2:])),
    "the file's height": (PART, numbers((1024, 320), PART[2:], PART[:2])),
    "the file's width": (WINDOW, numbers((512, 512), WINDOW[2:], (0, 0))),
    "another full height": (MIDDLE, numbers((1024, 384), MIDDLE[2:], MIDDLE[:2])),
    "no full height": (PART, numbers((1024,), PART[2:], PART[:2])),
    "no full width": (PART, numbers((None, 512), PART[2:], PART[:2])),
    "no offsets": (TOP, numbers(SPHERE, TOP[2:])),
    "no crop": (TOP, numbers(SPHERE)),
    "no crop's width": (PART, numbers(SPHERE, (None, 320), PART[:2])),
    "cut at the bottom since": (TOP, as_written((0, 0, *SPHERE))),
    "cut at top and bottom since": (MIDDLE, as_written((0, 0, *SPHERE))),
    "cut and made smaller since": (TOP, numbers(scaled(SPHERE, 4), scaled(SPHERE, 4), (0, 0))),
    "made smaller, the crop updated": ((0, 0, *SPHERE), numbers(scaled(SPHERE, 4), SPHERE, (0, 0))),
    "made larger, the crop updated": ((0, 0, *SPHERE), numbers((512, 256), SPHERE, (0, 0))),
    "filled up to the sphere": ((0, 0, *SPHERE), as_written(PART)),
    "a negative top": ((0, 0, *SPHERE), numbers((1024,), SPHERE, (0, -701))),
}


@pytest.mark.parametrize("lie", LIES)
def test_the_extent_is_restored(lie):
    part, gpano = LIES[lie]
    extent = read(part, gpano)
    assert extent[:4] == pytest.approx(truth(part))
    literal = choose_extent({}, SPHERE)
    assert extent.sources.keys() == literal.sources.keys() == set(EXTENT)


@pytest.mark.parametrize("lie", LIES)
def test_corrected_and_assumed_values_are_noted(lie):
    """A value of GPano's own needs no note."""
    extent = read(*LIES[lie])
    corrected = {name for name, source in extent.sources.items() if source != "GPano"}
    assert set(extent.notes) == corrected
    assert all("give" in note for note in extent.notes.values())


def test_the_file_s_size_as_the_full_panorama_is_named_with_its_value():
    extent = read(*LIES["the file's size as the full panorama"])
    assert extent.sources["horizontal_fov_deg"] == "GPano"
    assert extent.sources["vertical_fov_deg"] == "GPano, corrected"
    assert "1024x384 is not twice as wide as high: its width" in extent.notes["vertical_fov_deg"]
    assert extent.sources["horizon"] == "assumed"
    assert "0.667" in extent.notes["horizon"]


REFUSED = {
    "a full panorama like nothing": numbers((1024, 400), (800, 300), (0, 0)),
    "a crop larger than its full panorama": numbers((1900, 960), (1920, 1080), (15, 60)),
    "a crop outside": numbers(SPHERE, (1024, 384), (0, 200)),
    "a crop beside": numbers(SPHERE, (512, 192), (600, 0)),
    "a negative top of a crop": numbers(SPHERE, (1024, 384), (0, -701)),
    "an image cut at its sides": numbers((4096, 2048), (4096, 1024), (0, 512)),
    "no number": {"FullPanoWidthPixels": "wide"},
}


@pytest.mark.parametrize("lie", REFUSED)
def test_an_open_contradiction_is_refused_by_name(lie):
    with pytest.raises(GeometryError, match=r"GPano states .*give heading_deg, horizon, vert"):
        choose_extent(REFUSED[lie], (384, 1024))


def photo(part, **fields):
    states = " ".join(f'GPano:{name}="{value}"' for name, value in fields.items())
    xmp = XMP.format(fields=states).encode()
    return encoded(Image.new("RGB", part[2:]), "JPEG", xmp=xmp)


def test_the_heading_of_a_window_without_a_left_offset_is_not_believed():
    """The heading may be of the sphere or of the window."""
    gpano = numbers(SPHERE, WINDOW[2:])
    panorama = read_panorama(photo(WINDOW, PoseHeadingDegrees=90, **gpano))
    assert panorama.heading_deg is None
    assert panorama.heading_tolerance_deg == 180
    assert "90 is ignored" in panorama.notes["heading_deg"]
    own = read_panorama(photo(WINDOW, PoseHeadingDegrees=90, **OWN[WINDOW]))
    assert own.heading_deg == 90


def test_a_given_width_decides_the_height_where_gpano_is_wrong():
    panorama = read_panorama(photo(TOP, **OWN[TOP]), horizontal_fov_deg=180.0)
    assert panorama.geometry.extent(384, 1024).bottom_deg == pytest.approx(-67.5 / 3)
    assert panorama.sources["vertical_fov_deg"] == "assumed"


FULL_CYLINDER = {"ProjectionType": "Cylindrical", "FullPanoWidthPixels": 1000}


def test_a_cylinder_s_top_counts_from_its_horizon():
    """Half a turn of 500 columns: a radian is 500 / pi rows at the horizon."""
    crop = numbers(crop=(500, 300), offsets=(400, -100))
    panorama = read_panorama(photo((0, 0, 500, 300), **FULL_CYLINDER, **crop, PoseHeadingDegrees=9))
    assert panorama.geometry.projection == "cylindrical"
    edges = np.degrees(np.arctan(np.array([100, -200]) * np.pi / 500))
    assert panorama.extent == pytest.approx(edges)
    assert panorama.heading_deg == pytest.approx(9 + 54)  # 150 columns of 1000
    assert panorama.sources["horizon"] == panorama.sources["horizontal_fov_deg"] == "GPano"


def test_a_cylinder_without_a_top_or_a_width_is_noted_or_refused():
    panorama = read_panorama(photo((0, 0, 1000, 300), **FULL_CYLINDER, CroppedAreaTopPixels=0))
    assert panorama.geometry.horizon == 0.5
    assert "give horizon" in panorama.notes["horizon"]
    with pytest.raises(GeometryError, match="horizontal_fov_deg of this cylindrical image is unk"):
        read_panorama(photo((0, 0, 1000, 300), ProjectionType="cylindrical"))


CASES = {
    "gpano-full-is-crop/cut75.jpg": (2 / 3, 135, 360),
    "pose-pitch-roll-ignored/tilted.jpg": (0.5, 180, 360),
    "metadata-not-found/late.png": (0.5, None, 360),
    "metadata-not-found/two.jpg": (0.5, None, 360),
}


@pytest.mark.parametrize("name", CASES)
def test_field_cases(field_cases, name):
    panorama = read_panorama((field_cases / name).read_bytes())
    assert [getattr(panorama.geometry, field) for field in EXTENT] == pytest.approx(CASES[name])
    assert panorama.heading_deg == (None if "cut75" in name else 206.95)
    level = Tilt(-24.49, 8.96) if "tilted" in name else LEVEL
    assert panorama.geometry.tilt == pytest.approx(level)

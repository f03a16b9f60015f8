"""The tilt that GPano, EXIF or a caller states, and the image that is levelled by it."""

import numpy as np
import pytest
from hostile_images import XMP
from image_samples import encoded
from PIL import Image
from scipy.spatial.transform import Rotation
from sphere_samples import SIZE, STRIP, coloured, rays

from model.panorama import GeometryError, PanoramaGeometry
from model.panorama_metadata import read_panorama
from model.preprocessing import Preprocessing
from model.tilt import LEVEL, Tilt

TILT = Tilt(-12.0, 20.0)
POSE = {"PosePitchDegrees": TILT.pitch_deg, "PoseRollDegrees": TILT.roll_deg}
FULL = {"FullPanoWidthPixels": 600, "FullPanoHeightPixels": 300, "PoseHeadingDegrees": 90}
WINDOW = {"CroppedAreaImageWidthPixels": 200, "CroppedAreaImageHeightPixels": 300}
SPHERE = coloured(rays(PanoramaGeometry(tilt=TILT), 300, 600))


def photo(image=None, exif=b"", **fields):
    states = " ".join(f'GPano:{name}="{value}"' for name, value in fields.items())
    image = Image.new("RGB", (600, 300)) if image is None else image
    return encoded(image, "JPEG", quality=95, xmp=XMP.format(fields=states).encode(), exif=exif)


@pytest.mark.parametrize("left", [0, 200, 350])
def test_a_window_of_a_tilted_panorama_is_levelled_about_the_panorama_s_middle(left):
    offsets = {"CroppedAreaLeftPixels": left, "CroppedAreaTopPixels": 0}
    data = photo(SPHERE[:, left : left + 200], **FULL, **WINDOW, **offsets, **POSE)
    panorama = read_panorama(data)
    strip = Preprocessing().read_strip(panorama).astype(int)
    east = Rotation.from_euler("z", 90.0 - panorama.heading_deg, degrees=True)
    expected = coloured(east.apply(rays(STRIP, *SIZE).reshape(-1, 3)).reshape(*SIZE, 3))
    seen = (strip != Preprocessing().fill).any(-1)
    assert seen.sum() > 5000
    assert np.abs(strip - expected)[seen].mean() < 1.5


def test_given_angles_go_before_gpano_s_and_gpano_s_before_none():
    assert read_panorama(photo(**FULL)).geometry.tilt == LEVEL
    stated = read_panorama(photo(**FULL, **POSE))
    assert stated.geometry.tilt == pytest.approx(TILT)
    assert "give pitch_deg=0 and roll_deg=0 if the image is level" in stated.notes["pitch_deg"]
    given = read_panorama(photo(**FULL, **POSE), pitch_deg=0.0)
    assert given.geometry.tilt == pytest.approx(TILT._replace(pitch_deg=0.0))
    assert [given.sources[name] for name in ("pitch_deg", "roll_deg")] == ["given", "GPano"]


def test_a_given_horizon_is_not_added_to_gpano_s_pitch():
    panorama = read_panorama(photo(**FULL, **POSE), horizon=0.4)
    assert panorama.geometry.tilt == Tilt(0.0, pytest.approx(TILT.roll_deg))
    assert panorama.geometry.horizon == 0.4
    assert panorama.sources["pitch_deg"] == "assumed"


def test_angles_that_cannot_be_are_ignored_and_noted():
    fields = {"PosePitchDegrees": "-91", "PoseRollDegrees": "n/a"}
    panorama = read_panorama(photo(**FULL, **fields))
    assert panorama.geometry.tilt == LEVEL
    assert "PosePitchDegrees '-91' is ignored" in panorama.notes["pitch_deg"]
    assert "PoseRollDegrees 'n/a' is ignored: it is not -180 to 180" in panorama.notes["roll_deg"]
    somewhere = read_panorama(photo(SPHERE[:, :200], **FULL, **WINDOW, **POSE))
    assert somewhere.geometry.tilt == LEVEL
    assert "leaves open" in somewhere.notes["roll_deg"]


def test_a_photograph_s_horizon_and_pitch_state_the_same():
    """A focal length of 300 pixels: the horizon lies 100 rows below the middle of 300."""
    view = {"projection": "rectilinear", "horizontal_fov_deg": 90.0}
    by_horizon = read_panorama(photo(), horizon=0.5 + 100 / 300, **view)
    pitch = by_horizon.geometry.tilt.pitch_deg
    assert pitch == pytest.approx(np.degrees(np.arctan(1 / 3)))
    by_pitch = read_panorama(photo(), pitch_deg=pitch, **view)
    assert by_pitch.geometry == by_horizon.geometry
    assert by_pitch.geometry.horizon_seen(300, 600) == pytest.approx(0.5 + 100 / 300)
    assert by_horizon.sources["pitch_deg"] == by_pitch.sources["horizon"] == "given"
    with pytest.raises(GeometryError, match="pitch twice: give one"):
        read_panorama(photo(), horizon=0.5, pitch_deg=3.0, **view)


def test_exif_s_elevation_angle_is_a_pitch():
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9405] = -7.5
    panorama = read_panorama(photo(exif=exif.tobytes()))
    assert panorama.geometry.tilt == Tilt(-7.5, 0.0)
    assert panorama.sources["pitch_deg"] == "EXIF"

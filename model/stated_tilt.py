"""How a camera leaned, as a caller or a file states it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from PIL import Image

from model.exif import CAMERA, exif_group, exif_number
from model.tilt import LEVEL, Tilt

PITCH, ROLL = ANGLES = ("pitch_deg", "roll_deg")
MOST = {PITCH: 90.0, ROLL: 180.0}

_GPANO = {PITCH: "PosePitchDegrees", ROLL: "PoseRollDegrees"}
_ELEVATION = 0x9405  # EXIF's CameraElevationAngle, since EXIF 2.31
_REMEDY = "give pitch_deg=0 and roll_deg=0 if the image is level already"


class StatedTilt(NamedTuple):
    """A tilt about the image's centre column; sources and notes by the names of its angles.

    turn_deg: heading of the image's centre less the heading that the file states; None: unknown.
    """

    tilt: Tilt
    turn_deg: float | None
    sources: Mapping[str, str]
    notes: Mapping[str, str]


def choose_tilt(
    given: Mapping[str, float],
    gpano: Mapping[str, str],
    exif: Image.Exif,
    centre_deg: float | None,
) -> StatedTilt:
    """The given angles, else the file's, else none. Nonsense in a file is ignored and noted.

    Args:
        given: pitch_deg, roll_deg or both, about the image's centre column.
        centre_deg: azimuth of the image's centre from the middle of its full panorama, about which
            a file states its tilt. None: unknown.
    """
    angles, notes = LEVEL._asdict(), {}
    sources = dict.fromkeys(ANGLES, "assumed")
    for name in ANGLES:
        if name in given or (stated := _in_file(name, gpano, exif)) is None:
            continue
        degrees, source, what = stated
        if not abs(degrees) <= MOST[name]:  # also for NaN
            notes[name] = f"{what} is ignored: it is not {-MOST[name]:g} to {MOST[name]:g}"
        elif centre_deg is None:
            notes[name] = f"{what} is ignored: GPano leaves open which part the image shows"
        else:
            angles[name], sources[name] = degrees, source
            if degrees:
                notes[name] = f"the image is levelled by {what}: {_REMEDY}"
    turn_deg, tilt = (None, LEVEL) if centre_deg is None else Tilt(**angles).towards(centre_deg)
    return StatedTilt(
        tilt._replace(**given), turn_deg, {**sources, **dict.fromkeys(given, "given")}, notes
    )


def _in_file(
    name: str, gpano: Mapping[str, str], exif: Image.Exif
) -> tuple[float, str, str] | None:
    """An angle, NaN if it is no number; its source; and the statement in words."""
    if (text := gpano.get(_GPANO[name])) is not None:
        try:
            degrees = float(text)
        except ValueError:
            degrees = math.nan
        return degrees, "GPano", f"GPano's {_GPANO[name]} {text[:40]!r}"
    if name == PITCH and _ELEVATION in (camera := exif_group(exif, CAMERA)):
        degrees = exif_number(camera, _ELEVATION)
        return degrees, "EXIF", f"EXIF's CameraElevationAngle {degrees:g}"
    return None

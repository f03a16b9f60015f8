"""The heading that a caller or a file states: GPano, then EXIF.

Knows nothing of the image's pixels or of its extent.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from PIL import Image

from model.images import without_warnings

log = logging.getLogger(__name__)

_GPS_IFD = 0x8825
_GPS_DIRECTION_REF, _GPS_DIRECTION = 16, 17


class StatedHeading(NamedTuple):
    """Degrees clockwise from north, or None; how far they may be off; who states them.

    note: what was done to the statement, or why a statement was ignored; None: nothing to say.
    """

    degrees: float | None
    tolerance_deg: float
    source: str
    note: str | None = None


_UNKNOWN = StatedHeading(None, 180.0, "unknown")


def choose_heading(
    given: float | None, gpano: Mapping[str, str], exif: Image.Exif
) -> StatedHeading:
    """The given heading, else GPano's, else EXIF's. Nonsense in a file is ignored and noted."""
    if given is not None:
        return StatedHeading(given, 0.0, "given")
    notes = []
    for stated in _readings(gpano, exif):
        if stated.note is not None:
            notes.append(stated.note)
        if stated.degrees is not None:
            return stated._replace(note="; ".join(notes) or None)
    return _UNKNOWN._replace(note="; ".join(notes) or None)


def _readings(gpano: Mapping[str, str], exif: Image.Exif) -> Iterator[StatedHeading]:
    yield _from_gpano(gpano)
    yield _from_exif(exif)


def _from_gpano(gpano: Mapping[str, str]) -> StatedHeading:
    text = gpano.get("PoseHeadingDegrees")
    if text is None:
        return _UNKNOWN
    try:
        degrees = float(text)
    except ValueError:
        degrees = math.nan
    if not -360.0 <= degrees <= 720.0:
        return _ignored(f"GPano's PoseHeadingDegrees {text[:40]!r}", "it is no heading")
    return StatedHeading(degrees, 0.0, "GPano")


def _from_exif(exif: Image.Exif) -> StatedHeading:
    try:
        with without_warnings():
            gps = exif.get_ifd(_GPS_IFD)
        direction = float(gps[_GPS_DIRECTION])
    except KeyError:
        return _UNKNOWN
    except Exception as error:  # damaged EXIF raises whatever its parser meets
        return _ignored("EXIF's GPSImgDirection", f"it cannot be read ({error})")
    if not 0.0 <= direction <= 360.0:
        return _ignored(f"EXIF's GPSImgDirection {direction:g}", "it is not 0 to 360")
    magnetic = gps.get(_GPS_DIRECTION_REF) == "M"
    return StatedHeading(direction, 0.0, "EXIF (magnetic)" if magnetic else "EXIF")


def _ignored(what: str, reason: str) -> StatedHeading:
    note = f"{what} is ignored: {reason}"
    log.warning(note)
    return _UNKNOWN._replace(note=note)

"""The heading that a caller or a file states, and how far it may be off.

Knows nothing of the image's pixels or of its extent.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from PIL import Image

from model.exif import GPS, exif_group, exif_number
from model.magnetic_north import (
    USUAL_DECLINATION_DEG,
    declination_deg,
    exif_position,
    exif_year,
)

_DIRECTION_REF, _DIRECTION = 16, 17


class HeadingTrust(NamedTuple):
    """Which statements of a file are believed, and how far these may be off, in degrees."""

    sources: tuple[str, ...] = ("GPano", "EXIF")
    tolerance_deg: float = 20.0


BELIEVED = HeadingTrust()


class StatedHeading(NamedTuple):
    """A heading, how far it may be off, and who states it.

    degrees: clockwise from north; None when unknown.
    note: what was done to the statement, or why a statement was ignored; None: nothing to say.
    """

    degrees: float | None
    tolerance_deg: float
    source: str
    note: str | None = None


_UNKNOWN = StatedHeading(None, 180.0, "unknown")


def choose_heading(
    given_deg: float | None,
    tolerance_deg: float | None,
    trust: HeadingTrust,
    gpano: Mapping[str, str],
    exif: Image.Exif,
) -> StatedHeading:
    """The given heading, else GPano's, else EXIF's. Nonsense in a file is ignored and noted.

    tolerance_deg: how far the heading may be off, whoever states it; at 180 it is unknown. None:
        0 for a given heading, the trust's for a file's.
    """
    given = [] if given_deg is None else [StatedHeading(given_deg, 0.0, "given")]
    notes = []
    for stated in given or _in_file(trust, gpano, exif):
        if tolerance_deg is not None:
            stated = stated._replace(tolerance_deg=tolerance_deg)
        if stated.note is not None:
            notes.append(stated.note)
        if stated.degrees is not None and stated.tolerance_deg < 180.0:
            if stated.tolerance_deg > 0.0:
                notes.append(f"the heading is searched within {stated.tolerance_deg:g} degrees")
            return stated._replace(note="; ".join(notes) or None)
    return _UNKNOWN._replace(note="; ".join(notes) or None)


def _in_file(
    trust: HeadingTrust, gpano: Mapping[str, str], exif: Image.Exif
) -> Iterator[StatedHeading]:
    if "GPano" in trust.sources and "PoseHeadingDegrees" in gpano:
        yield _from_gpano(gpano["PoseHeadingDegrees"], trust.tolerance_deg)
    if "EXIF" in trust.sources:
        yield _from_exif(exif, trust.tolerance_deg)


def _from_gpano(text: str, tolerance_deg: float) -> StatedHeading:
    try:
        degrees = float(text)
    except ValueError:
        degrees = math.nan
    if fault := _fault(degrees, -360.0, 720.0):
        return _ignored(f"GPano's PoseHeadingDegrees {text[:40]!r}", fault)
    return StatedHeading(degrees, tolerance_deg, "GPano")


def _from_exif(exif: Image.Exif, tolerance_deg: float) -> StatedHeading:
    gps = exif_group(exif, GPS)
    if _DIRECTION not in gps:
        return _UNKNOWN
    direction = exif_number(gps, _DIRECTION)
    name = f"EXIF's GPSImgDirection {str(gps[_DIRECTION])[:40]!r}"
    if fault := _fault(direction, 0.0, 360.0):
        return _ignored(name, fault)
    if str(gps.get(_DIRECTION_REF)).strip().upper().startswith("M"):
        return _from_compass(name, direction, tolerance_deg, exif)
    return StatedHeading(direction, tolerance_deg, "EXIF")


def _from_compass(
    name: str, direction: float, tolerance_deg: float, exif: Image.Exif
) -> StatedHeading:
    """A heading from magnetic north as one from true north."""
    source, position = "EXIF, magnetic", exif_position(exif)
    if position is None:
        tolerance_deg = min(180.0, tolerance_deg + USUAL_DECLINATION_DEG)
        note = f"{name} is magnetic, and EXIF has no position to correct it"
        return StatedHeading(direction, tolerance_deg, source, note)
    declination = declination_deg(position, exif_year(exif))
    if declination is None:
        return _ignored(name, "it is magnetic, and a magnetic pole is near")
    note = f"declination {declination:+.1f} is added to the magnetic heading"
    return StatedHeading(direction + declination, tolerance_deg, source, note)


def _fault(degrees: float, low: float, high: float) -> str | None:
    """Why a file's heading cannot be believed."""
    if not low <= degrees <= high:  # also for NaN
        return f"it is not {low:g} to {high:g}"
    if degrees == 0.0:
        return "0 often stands for no heading; give heading_deg=0 if it is right"
    return None


def _ignored(what: str, reason: str) -> StatedHeading:
    return _UNKNOWN._replace(note=f"{what} is ignored: {reason}")

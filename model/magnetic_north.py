"""Magnetic declination where and when EXIF says that a photograph was taken."""

from __future__ import annotations

import re

from PIL import Image
from pygeomag import GeoMag

from model.exif import CAMERA, GPS, exif_group
from model.geo import LatLon

_LATITUDE_REF, _LATITUDE, _LONGITUDE_REF, _LONGITUDE, _GPS_DATE = 1, 2, 3, 4, 29
_DATE_TAKEN, _DATE_FILE = 0x9003, 0x0132
_DATE = re.compile(r"([12]\d{3})\D(0[1-9]|1[0-2])\b")

# 90 % of the Earth between 58° S and 70° N has less declination (WMM2025, tests).
USUAL_DECLINATION_DEG = 25.0
# pygeomag's models cover these years. Outside them the nearest counts: declination changes by less
# than 0.25° a year on 95 % of the same area.
FIRST_YEAR, LAST_YEAR = 2010.0, 2029.99
UNDATED_YEAR = 2025.0


def declination_deg(position: LatLon, year: float = UNDATED_YEAR) -> float | None:
    """Degrees that magnetic north lies east of true north; None near a magnetic pole.

    World Magnetic Model at sea level; its error is 0.4° in middle latitudes.
    """
    year = min(max(year, FIRST_YEAR), LAST_YEAR)
    # A GeoMag of its own: `calculate` writes into the object, and any thread may call this.
    field = GeoMag(base_year=int(year)).calculate(*position, alt=0.0, time=year)
    return None if field.in_blackout_zone else float(field.d)


def exif_position(exif: Image.Exif) -> LatLon | None:
    """EXIF's GPS position; None where it is absent, damaged, or the placeholder 0, 0."""
    gps = exif_group(exif, GPS)
    try:
        latitude = _degrees(gps[_LATITUDE], gps.get(_LATITUDE_REF), "S")
        longitude = _degrees(gps[_LONGITUDE], gps.get(_LONGITUDE_REF), "W")
    except (KeyError, TypeError, ValueError):  # absent, or neither numbers nor three
        return None
    on_earth = abs(latitude) <= 90.0 and abs(longitude) <= 180.0  # false for NaN
    return LatLon(latitude, longitude) if on_earth and (latitude or longitude) else None


def _degrees(parts: tuple[float, float, float], reference: object, negative: str) -> float:
    degrees, minutes, seconds = map(float, parts)
    angle = degrees + minutes / 60.0 + seconds / 3600.0
    return -angle if str(reference).strip().upper().startswith(negative) else angle


def exif_year(exif: Image.Exif) -> float:
    """When EXIF says that the photograph was taken: the year, and the month as its fraction."""
    dates = (
        exif_group(exif, GPS).get(_GPS_DATE),
        exif_group(exif, CAMERA).get(_DATE_TAKEN),
        exif.get(_DATE_FILE),
    )
    for date in dates:
        if found := _DATE.match(str(date)):
            return int(found[1]) + (int(found[2]) - 0.5) / 12.0
    return UNDATED_YEAR

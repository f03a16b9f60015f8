"""The hints that a caller may give with a panorama, checked in one place.

The command line and the HTTP routes both build `Hints`; names, bounds and descriptions of its
numbers stand in NUMBERS, and the API's document and `skyfix locate --help` show them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal, NamedTuple

from model.errors import SkyfixError
from model.geo import Bounds, LatLon
from model.heading_estimate import heading_of
from model.panorama import PROJECTIONS, ImageProjection

MAX_TOP_K = 100
DEFAULT_RADIUS_M = 500.0
UNKNOWN: Literal["unknown"] = "unknown"  # a heading: do not believe the file's either
Heading = float | Literal["unknown"]


class NumberHint(NamedTuple):
    """Smallest and largest allowed value of a number, its meaning, and an example."""

    low: float
    high: float
    description: str
    example: float


NUMBERS = {
    "heading_deg": NumberHint(
        -360.0,
        360.0,
        "degrees clockwise from north that the image's centre column faces; unknown: try "
        "all headings, whatever the file states",
        90.0,
    ),
    "heading_tolerance_deg": NumberHint(
        0.0,
        180.0,
        "degrees by which the heading may be off, whoever states it: the best within is found; "
        "without it 0 for a heading in the query, SKYFIX_HEADING_TOLERANCE_DEG for the file's",
        20.0,
    ),
    "north": NumberHint(
        0.0, 1.0, "the heading as (0.5 - heading_deg / 360) mod 1; give one of the two", 0.25
    ),
    "vertical_fov_deg": NumberHint(
        1.0, 180.0, "degrees of elevation from the bottom row to the top row", 180.0
    ),
    "horizontal_fov_deg": NumberHint(
        1.0, 360.0, "degrees from the left to the right edge; a full panorama has 360", 360.0
    ),
    "horizon": NumberHint(
        -1.0, 2.0, "the horizon's row as a fraction of the height, from the top", 0.5
    ),
    "pitch_deg": NumberHint(
        -90.0, 90.0, "degrees above the horizon that the image's centre column looks", 0.0
    ),
    "roll_deg": NumberHint(
        -180.0, 180.0, "degrees that the camera leans to its right about its line of sight", 0.0
    ),
    "radius_m": NumberHint(
        1.0, 20_100_000.0, f"metres around near; {DEFAULT_RADIUS_M:g} when near stands alone", 500.0
    ),
}


class HintError(SkyfixError):
    """A hint is out of bounds, unreadable, or contradicts another hint."""


@dataclass(frozen=True)
class Hints:
    """Optional knowledge about one panorama; None means unknown. NUMBERS describes the numbers.

    projection: how the image lies on the sphere; "rectilinear" is an ordinary photograph.
    near, radius_m: only tiles whose centre lies within the radius, by default 500 m.
    bbox: only tiles whose centre lies inside; west > east crosses the dateline.

    Raises:
        HintError: names the value and what is allowed.
    """

    heading_deg: Heading | None = None
    heading_tolerance_deg: float | None = None
    north: float | None = None
    projection: ImageProjection | None = None
    vertical_fov_deg: float | None = None
    horizontal_fov_deg: float | None = None
    horizon: float | None = None
    pitch_deg: float | None = None
    roll_deg: float | None = None
    near: LatLon | None = None
    radius_m: float | None = None
    bbox: Bounds | None = None

    def __post_init__(self) -> None:
        for name, (low, high, *_) in NUMBERS.items():
            value = getattr(self, name)
            if value not in (None, UNKNOWN) and not low <= value <= high:
                raise HintError(f"{name}={value:g}: allowed is {low:g} to {high:g}")
        if self.projection not in (None, *PROJECTIONS):
            raise HintError(f"projection={self.projection}: known are {', '.join(PROJECTIONS)}")
        if self.heading_deg is not None and self.north is not None:
            raise HintError(
                f"heading_deg={self.heading_deg} and north={self.north:g} state the heading "
                "twice: give one of them"
            )
        if self.heading_deg == UNKNOWN and self.heading_tolerance_deg is not None:
            raise HintError(
                f"heading_deg=unknown leaves heading_tolerance_deg={self.heading_tolerance_deg:g} "
                "no heading to be near to: give one of them"
            )
        if self.radius_m is not None and self.near is None:
            raise HintError(f"radius_m={self.radius_m:g} needs near=latitude,longitude")

    @classmethod
    def of(cls, stated: object) -> Hints:
        """From an object with the same attributes, `near` and `bbox` as text."""
        given = {field.name: getattr(stated, field.name) for field in fields(cls)}
        for name, parse in (("near", parse_near), ("bbox", parse_bbox)):
            if given[name] is not None:
                given[name] = parse(given[name])
        return cls(**given)

    @property
    def place(self) -> str:
        """The area that near and bbox leave, in words; empty when neither is given."""
        parts = []
        if self.near is not None:
            radius_m = self.radius_m or DEFAULT_RADIUS_M
            parts.append(f"within {radius_m:g} m of near={','.join(map(str, self.near))}")
        if self.bbox is not None:
            parts.append(f"in bbox={','.join(map(str, self.bbox))}")
        return " and ".join(parts)

    @property
    def centre_heading_deg(self) -> float | None:
        """The heading, given as `heading_deg` or as `north`; None when neither states one."""
        if self.north is not None:
            return heading_of(self.north)
        return None if self.heading_deg == UNKNOWN else self.heading_deg


def check_top_k(top_k: int) -> int:
    """Returns `top_k`. Raises HintError unless it is 1 to MAX_TOP_K."""
    if not 1 <= top_k <= MAX_TOP_K:
        raise HintError(f"top_k={top_k}: allowed is 1 to {MAX_TOP_K}")
    return top_k


def parse_near(text: str) -> LatLon:
    """`latitude,longitude` in degrees. Raises HintError."""
    latitude, longitude = _numbers("near", text, ("latitude", "longitude"))
    _check_degrees("near", text, (latitude,), (longitude,))
    return LatLon(latitude, longitude)


def parse_bbox(text: str) -> Bounds:
    """`west,south,east,north` in degrees. Raises HintError."""
    west, south, east, north = _numbers("bbox", text, ("west", "south", "east", "north"))
    _check_degrees("bbox", text, (south, north), (west, east))
    if south >= north:
        raise HintError(f"bbox={text}: south {south:g} must be below north {north:g}")
    if west == east or (west, east) == (180.0, -180.0):
        raise HintError(
            f"bbox={text}: west and east are the same meridian; all around is -180 to 180"
        )
    return Bounds(west, south, east, north)


def _numbers(name: str, text: str, parts: tuple[str, ...]) -> list[float]:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if "_" in text or not text.isascii():  # float() takes 5_5 and digits of any script
        values = []
    if len(values) != len(parts) or not all(map(math.isfinite, values)):
        raise HintError(f"{name}={text!r}: expected {','.join(parts)} in degrees")
    return values


def _check_degrees(
    name: str, text: str, latitudes: tuple[float, ...], longitudes: tuple[float, ...]
) -> None:
    if not all(-90.0 <= latitude <= 90.0 for latitude in latitudes):
        raise HintError(f"{name}={text}: latitude must be -90 to 90")
    if not all(-180.0 <= longitude <= 180.0 for longitude in longitudes):
        raise HintError(f"{name}={text}: longitude must be -180 to 180")

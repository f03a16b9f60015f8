"""Where one image of a survey was taken, or why nobody knows: a row of the survey's table."""

from __future__ import annotations

from typing import NamedTuple

from model.geo import LatLon
from service.locate.drive import DriveFrame
from service.locate.fix import Fix


class Outcome(NamedTuple):
    """The columns of every format, in order.

    file: as the user named the image.
    heading_deg: heading of the image's centre column, of the best tile. tile_id: the best tile.
    time: ISO 8601; without an offset it is the camera's local time. None: unknown.
    metadata: what was done to the image's own metadata; None: nothing was asked.
    problem: why there is no position, or why the metadata was not written.
    drive: number of the drive, from 1, that the image is a frame of; None: located alone.
    """

    file: str
    latitude: float | None = None
    longitude: float | None = None
    radius_m: float | None = None
    confidence: float | None = None
    in_index: bool | None = None
    heading_deg: float | None = None
    tile_id: str | None = None
    time: str | None = None
    index_version: str | None = None
    metadata: str | None = None
    problem: str | None = None
    drive: int | None = None

    @property
    def position(self) -> LatLon | None:
        """None: unknown."""
        if self.latitude is None or self.longitude is None:
            return None
        return LatLon(self.latitude, self.longitude)

    @classmethod
    def of(cls, file: str, fix: Fix, time: str | None) -> Outcome:
        """A fix without its further matches. 1e-7 degrees are a centimetre."""
        if fix.position is None:
            return cls(file, time=time, index_version=fix.index_version, problem=fix.note)
        best = fix.matches[0]
        shown = cls._placed(file, fix, fix.position, best.heading_deg)
        return shown._replace(tile_id=best.tile_id, time=time, index_version=fix.index_version)

    @classmethod
    def of_drive(
        cls, file: str, frame: DriveFrame, drive: int, time: str | None, index_version: str
    ) -> Outcome:
        """A frame of a drive."""
        shown = cls._placed(file, frame, frame.position, frame.heading_deg)
        return shown._replace(
            tile_id=frame.tile_id, time=time, index_version=index_version, drive=drive
        )

    @classmethod
    def _placed(
        cls, file: str, place: Fix | DriveFrame, position: LatLon, heading_deg: float
    ) -> Outcome:
        return cls(
            file,
            latitude=round(position.latitude, 7),
            longitude=round(position.longitude, 7),
            radius_m=_rounded(place.radius_m, 1),
            confidence=_rounded(place.confidence, 4),
            in_index=place.in_index,
            heading_deg=round(heading_deg, 2) % 360.0,
        )


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)

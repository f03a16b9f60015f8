"""When frames were taken, and the order that follows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, NamedTuple

from service.locate.drive import Drive, DriveFrame, locate_drive
from service.locate.drive_path import Frame
from service.locate.hints import HintError

if TYPE_CHECKING:
    from service.index.search import TileIndex


class Taken(NamedTuple):
    """When a frame was taken.

    seconds: since the zero of `clock`; seconds of different clocks do not compare. A camera that
        states no offset from UTC shows local time. text: the time as it was stated.
    """

    seconds: float
    text: str
    clock: Literal["UTC", "local", "stated"]

    @classmethod
    def at(cls, time: datetime) -> Taken:
        """A moment, or a local time without an offset."""
        if time.tzinfo is None:
            return cls(time.replace(tzinfo=UTC).timestamp(), time.isoformat(), "local")
        return cls(time.timestamp(), time.isoformat(), "UTC")

    @classmethod
    def read(cls, text: str) -> Taken:
        """Seconds, or an ISO 8601 time. Raises HintError."""
        with suppress(ValueError):  # no number: a date, or nothing that can be read
            if "_" not in text and math.isfinite(seconds := float(text)):
                return cls(seconds, text, "stated")
        try:
            return cls.at(datetime.fromisoformat(text))
        except (ValueError, OverflowError):
            raise HintError(
                f"time {text[:80]!r} cannot be read: give seconds, as 12.5, or ISO 8601, as "
                "2026-07-31T10:15:00.250Z; in a URL a + is written %2B"
            ) from None


def by_time(times: Sequence[Taken | None]) -> tuple[list[int], bool]:
    """The numbers of the frames in the order of their times, equal times in the given order.

    False, and the given order, where a time is unknown or the times are of different clocks.
    """
    known = [time for time in times if time is not None]
    if len(known) < len(times) or len({time.clock for time in known}) != 1:
        return list(range(len(times))), False
    return sorted(range(len(known)), key=lambda number: known[number].seconds), True


class Place(NamedTuple):
    """Where an image was taken. drive: number of its drive, from 0."""

    drive: int
    frame: DriveFrame


class Driven(NamedTuple):
    """The drives that images make.

    numbers: for each drive, its images' numbers in the order that was driven.
    places: for each image; None: the image is no frame.
    timed: whether times gave the order, else the given order.
    """

    drives: list[Drive]
    numbers: list[list[int]]
    places: list[Place | None]
    timed: bool


def locate_by_time(
    index: TileIndex, frames: Sequence[Frame | None], times: Sequence[Taken | None]
) -> Driven:
    """The drives among images, in the order of `by_time`. A frame None: the image has a problem."""
    known = [
        (number, frame, time)
        for number, (frame, time) in enumerate(zip(frames, times, strict=True))
        if frame is not None
    ]
    order, timed = by_time([time for _, _, time in known])
    ordered = [known[place] for place in order]
    path = [
        frame._replace(seconds=time.seconds if timed and time else None)
        for _, frame, time in ordered
    ]
    drives = locate_drive(index, path) if path else []
    rest = iter(ordered)
    numbers = [[next(rest)[0] for _ in drive.frames] for drive in drives]
    places: list[Place | None] = [None] * len(frames)
    for drive, (found, own) in enumerate(zip(drives, numbers, strict=True)):
        for number, frame in zip(own, found.frames, strict=True):
            places[number] = Place(drive, frame)
    return Driven(drives, numbers, places, timed)

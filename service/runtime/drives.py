"""Drives that arrive frame by frame: of each frame only its candidates are kept, in memory.

Only the event loop uses `Drives`, so nothing needs a lock. Knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.errors import SkyfixError
from service.locate.drive import STATES_OF_ROLLS
from service.locate.drive_path import Frame
from service.locate.drive_times import Driven, Taken, locate_by_time
from service.locate.localizer import Localizer
from service.runtime.admission import OverloadedError

if TYPE_CHECKING:
    from service.index.search import TileIndex

# A candidate in a third of a frame's memory: its centre follows from its row.
CANDIDATE = np.dtype([("row", np.int32), ("distance", np.float32), ("heading_deg", np.float32)])
FRAME_BYTES = STATES_OF_ROLLS * CANDIDATE.itemsize  # at most; counted for every image
NOTHING_LOCATED = Driven([], [], [], timed=False)


class DriveUnknown(SkyfixError):
    """No drive has this id, or it has expired."""


class DriveFull(SkyfixError):
    """The drive holds as many frames as one drive may."""


class Shot(NamedTuple):
    """An uploaded image: a frame's candidates, or the problem for which the image is no frame."""

    candidates: NDArray[np.void] | None = None
    taken: Taken | None = None
    problem: dict[str, object] | None = None
    arc_deg: float = 360.0

    @classmethod
    def of(cls, frame: Frame, taken: Taken | None) -> Shot:
        """Rounds headings to 0.00002 degrees, distances to 1e-7."""
        candidates = np.empty(len(frame.rows), CANDIDATE)
        candidates["row"], candidates["distance"] = frame.rows, frame.distances
        candidates["heading_deg"] = frame.headings_deg
        return cls(candidates, taken, arc_deg=frame.arc_deg)

    def frame(self, index: TileIndex) -> Frame | None:
        """The frame without its time. `index`: the version that its rows count."""
        if self.candidates is None:
            return None
        rows = self.candidates["row"].astype(np.int64)
        return Frame(
            rows,
            index.tiles.positions(rows),
            self.candidates["distance"].astype(np.float64),
            self.candidates["heading_deg"].astype(np.float64),
            arc_deg=self.arc_deg,
        )


@dataclass
class HeldDrive:
    """A drive whose images arrive. It keeps the localizer and the index version of its beginning.

    shots: in the order of the uploads. encoding: images in work. located: the answer for the first
    of the shots. locating: makes the next answer.
    """

    localizer: Localizer
    index: TileIndex
    id: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    shots: list[Shot] = field(default_factory=list)
    encoding: int = 0
    used_at: float = 0.0
    located: Driven = NOTHING_LOCATED
    locating: asyncio.Task[None] | None = None


def locate(index: TileIndex, shots: Sequence[Shot]) -> Driven:
    """The drives among the shots. Its time grows linearly with the frames."""
    return locate_by_time(
        index, [shot.frame(index) for shot in shots], [shot.taken for shot in shots]
    )


class Drives:
    """All drives that arrive now, each for `ttl_s` after its last use.

    max_frames: images of one drive. max_bytes: of all drives together, FRAME_BYTES an image.
    """

    def __init__(
        self,
        max_frames: int,
        max_bytes: int,
        ttl_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_frames, self._max_bytes = max_frames, max_bytes
        self.ttl_s, self._clock = ttl_s, clock
        self._drives: dict[str, HeldDrive] = {}

    @property
    def bytes(self) -> int:
        """Room of all images, arrived or in work. Each drive counts as one image more."""
        images = (1 + len(drive.shots) + drive.encoding for drive in self._alive().values())
        return FRAME_BYTES * sum(images)

    def hold(self, drive: HeldDrive) -> None:
        """Keep a new drive. Raises OverloadedError: no room is left."""
        self._check_room(1)
        drive.used_at = self._clock()
        self._drives[drive.id] = drive

    def get(self, drive_id: str) -> HeldDrive:
        """The drive, which lives on for `ttl_s`. Raises DriveUnknown."""
        drive = self._alive().get(drive_id)
        if drive is None:
            raise DriveUnknown(
                f"no drive has the id {drive_id!r}: it was deleted, no request used it for "
                f"{self.ttl_s:g} s, or this server has restarted"
            )
        drive.used_at = self._clock()
        return drive

    def delete(self, drive_id: str) -> None:
        """Forget the drive. Raises DriveUnknown."""
        del self._drives[self.get(drive_id).id]

    @contextmanager
    def room(self, drive: HeldDrive, images: int) -> Iterator[None]:
        """Room in the drive while so many images are encoded.

        Raises:
            DriveFull: the drive may not have so many. OverloadedError: nor may all together.
        """
        have = len(drive.shots) + drive.encoding
        if have + images > self._max_frames:
            raise DriveFull(
                f"the drive has {have} frames and {images} more would exceed the limit of "
                f"{self._max_frames}: begin another drive"
            )
        self._check_room(images)
        drive.encoding += images
        try:
            yield
        finally:
            drive.encoding -= images

    def _check_room(self, images: int) -> None:
        held, more = self.bytes, images * FRAME_BYTES
        if held + more > self._max_bytes:
            raise OverloadedError(
                f"all drives hold {held} bytes and {more} more would exceed the limit of "
                f"{self._max_bytes}: try again later, or delete drives that are done"
            )

    def _alive(self) -> dict[str, HeldDrive]:
        """The drives, after those that have expired are forgotten."""
        until = self._clock() - self.ttl_s
        for drive in list(self._drives.values()):
            if drive.used_at <= until and not drive.encoding:
                del self._drives[drive.id]
        return self._drives

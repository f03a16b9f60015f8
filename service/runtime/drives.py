"""Drives that arrive frame by frame: of each frame only its candidates are kept, in memory.

Only the event loop uses this module, so nothing needs a lock. Knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.errors import SkyfixError
from service.locate.drive import STATES_OF_ROLLS, Drive
from service.locate.drive_path import Frame
from service.locate.drive_times import Taken, locate_by_time
from service.locate.localizer import Localizer
from service.runtime.admission import OverloadedError

if TYPE_CHECKING:
    from service.index.search import TileIndex

MOST_DRIVES = 1000  # one without frames takes about 1 kB
KEPT_NAMES = 1000  # of drives that have expired, to say so
STATE_BYTES = 12


class DriveUnknown(SkyfixError):
    """No drive has this id, or it has expired."""


class DriveFull(SkyfixError):
    """The drive holds as many frames as one drive may."""


class HeldFrame(NamedTuple):
    """A frame in a fifth of its memory. Its centres follow from the rows."""

    rows: NDArray[np.int32]
    distances: NDArray[np.float32]
    headings_deg: NDArray[np.float32]
    taken: Taken | None

    @classmethod
    def of(cls, frame: Frame, taken: Taken | None) -> HeldFrame:
        """Headings lose 0.00002 degrees, distances 1e-7."""
        return cls(
            frame.rows.astype(np.int32),
            frame.distances.astype(np.float32),
            frame.headings_deg.astype(np.float32),
            taken,
        )

    def frame(self, index: TileIndex) -> Frame:
        """The whole frame but for its time. `index`: the version of the rows."""
        rows = self.rows.astype(np.int64)
        return Frame(
            rows,
            index.tiles.positions(rows),
            self.distances.astype(np.float64),
            self.headings_deg.astype(np.float64),
        )


Outcome = HeldFrame | dict[str, object]  # a frame, or the problem of an image that is no frame


class Located(NamedTuple):
    """The drives that frames make.

    numbers: for each drive, its frames' numbers in the order that was driven.
    timed: whether times gave that order, else the order of the uploads.
    images: how many were looked at.
    """

    drives: list[Drive]
    numbers: list[list[int]]
    timed: bool
    images: int


@dataclass
class HeldDrive:
    """A drive whose frames arrive. It keeps the localizer and the index version of its beginning.

    outcomes: one for each image, in the order of the uploads. states: candidates of all frames.
    encoding: images in work. located: the drives that were found last, or are being found.
    """

    localizer: Localizer
    index: TileIndex
    id: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    outcomes: list[Outcome] = field(default_factory=list)
    states: int = 0
    encoding: int = 0
    used_at: float = 0.0
    located: asyncio.Future[Located] | None = None

    def add(self, outcomes: Sequence[Outcome]) -> None:
        """Keep an upload's frames and problems."""
        self.outcomes += outcomes
        self.states += sum(len(frame.rows) for frame in outcomes if isinstance(frame, HeldFrame))


def locate(index: TileIndex, outcomes: Sequence[Outcome]) -> Located:
    """The drives among the outcomes. Takes about 2 ms a frame."""
    held = {n: frame for n, frame in enumerate(outcomes) if isinstance(frame, HeldFrame)}
    if not held:
        return Located([], [], False, len(outcomes))
    frames = [frame.frame(index) for frame in held.values()]
    found = locate_by_time(index, frames, [frame.taken for frame in held.values()])
    places = list(held)
    numbers = [[places[number] for number in own] for own in found.numbers]
    return Located(found.drives, numbers, found.timed, len(outcomes))


class Drives:
    """All drives that arrive now, each for `ttl_s` after its last use.

    max_frames: images of one drive. max_bytes: candidates of all drives together.
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
        self._drives: OrderedDict[str, HeldDrive] = OrderedDict()  # the longest unused first
        self._expired: OrderedDict[str, None] = OrderedDict()

    @property
    def bytes(self) -> int:
        """Of all candidates that are held; expired drives are dropped first."""
        self._drop_expired()
        return STATE_BYTES * sum(drive.states for drive in self._drives.values())

    def hold(self, drive: HeldDrive) -> None:
        """Keep a new drive. Raises OverloadedError: there are MOST_DRIVES."""
        self._drop_expired()
        if len(self._drives) >= MOST_DRIVES:
            raise OverloadedError(f"{MOST_DRIVES} drives are held: try again later")
        self._drives[drive.id] = drive
        self._use(drive)

    def get(self, drive_id: str) -> HeldDrive:
        """The drive, which lives on for `ttl_s`. Raises DriveUnknown."""
        self._drop_expired()
        try:
            drive = self._drives[drive_id]
        except KeyError:
            if drive_id in self._expired:
                raise DriveUnknown(
                    f"drive {drive_id!r} has expired: {self.ttl_s:g} s passed without a request"
                ) from None
            raise DriveUnknown(
                f"no drive has the id {drive_id!r}: it was deleted, or this server has restarted"
            ) from None
        self._use(drive)
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
        have = len(drive.outcomes) + drive.encoding
        if have + images > self._max_frames:
            raise DriveFull(
                f"the drive has {have} frames and {images} more would exceed the limit of "
                f"{self._max_frames}: begin another drive"
            )
        coming = images + sum(held.encoding for held in self._drives.values())
        if self.bytes + coming * STATES_OF_ROLLS * STATE_BYTES > self._max_bytes:
            raise OverloadedError(
                f"the candidates of all drives hold {self.bytes} of {self._max_bytes} bytes: try "
                "again later, or delete drives that are done"
            )
        drive.encoding += images
        try:
            yield
        finally:
            drive.encoding -= images

    def _use(self, drive: HeldDrive) -> None:
        drive.used_at = self._clock()
        self._drives.move_to_end(drive.id)

    def _drop_expired(self) -> None:
        until = self._clock() - self.ttl_s
        for drive in list(self._drives.values()):
            if drive.used_at > until:
                break
            if not drive.encoding:
                del self._drives[drive.id]
                self._expired[drive.id] = None
        while len(self._expired) > KEPT_NAMES:
            self._expired.popitem(last=False)

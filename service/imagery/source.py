"""What a source of imagery is: tiles it can cut, and the picture of each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from model.errors import SkyfixError
from model.geo import LatLon, offset
from model.images import Rgb

TILE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
SOURCE_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


UNREADABLE = "the imagery cannot be read: the service's log names the file"


class SourceError(SkyfixError):
    """Imagery that cannot be used, with the reason: it may name any file of a source."""

    def __init__(self, message: str = "", *, public: str = UNREADABLE) -> None:
        super().__init__(message, public=public)


class SourceMissing(SourceError):
    """The imagery's file or folder is not where it was said to be."""


class Ground(NamedTuple):
    """A rectangle in the tangent plane at its centre, metres, true north up."""

    centre: LatLon
    width_m: float
    height_m: float

    def corners(self) -> list[LatLon]:
        """NW, NE, SE, SW."""
        east, north = self.width_m / 2.0, self.height_m / 2.0
        signs = ((-1, 1), (1, 1), (1, -1), (-1, -1))
        return [offset(self.centre, e * east, n * north) for e, n in signs]


class Cut(NamedTuple):
    """A square of ground to cut out: `size_m` metres wide, true north up."""

    tile_id: str
    centre: LatLon
    size_m: float

    @property
    def ground(self) -> Ground:
        return Ground(self.centre, self.size_m, self.size_m)


class Picture(NamedTuple):
    """A cut's pixels, uint8 (P, P, 3), and the fraction of them that the imagery covers.

    Pixels without imagery hold the mean colour of the others.
    """

    pixels: Rgb
    valid: float


class Source(Protocol):
    """Imagery on disk. Not thread-safe: one thread uses an instance at a time."""

    kind: str
    path: Path
    name: str
    licence: str
    attribution: str

    def signature(self) -> str:
        """Changes whenever the files behind the pictures change."""

    def cuts(self, size_m: float | None, stride_m: float | None) -> Iterator[Cut]:
        """Every tile, in a stable order; the source states which arguments it needs."""

    def count(self, size_m: float | None, stride_m: float | None) -> int:
        """About how many cuts there will be: for a progress bar."""

    def read(self, cut: Cut, pixels: int) -> Picture:
        """The picture of `cut`, resampled to `pixels` x `pixels` without aliasing."""

    def runs(self, cuts: Iterable[Cut], pixels: int) -> Iterator[list[Cut]]:
        """`cuts` in their order, those together that are cheaper to read together."""

    def read_run(self, run: Sequence[Cut], pixels: int) -> list[Picture]:
        """The pictures of one of `runs`. A cut's own is to the bit the same in any run."""

    def close(self) -> None:
        """Releases the files."""


def source_name(path: Path, name: str | None) -> str:
    """`name`, or one made of the file's; it becomes part of every tile id.

    Raises:
        SourceError: the name holds characters a tile id may not.
    """
    if name is None:
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-.")[:64] or "imagery"
    if not SOURCE_NAME.fullmatch(name):
        raise SourceError(
            f"the source name {name!r} is not 1-64 of the characters A-Z a-z 0-9 . _ -"
        )
    return name

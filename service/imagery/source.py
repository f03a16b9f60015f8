"""A source of imagery: the tiles that it can cut, and the image of each tile."""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from model.errors import SkyfixError
from model.geo import LatLon, offset
from model.images import Rgb
from service.imagery.grid import GridPlace

TILE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
SOURCE_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
BLANK_MARGIN = 16.0  # grey levels from black or white within which a blank image's mean lies
BLANK_SPREAD = 3.0  # grey levels below which the standard deviation of each of its colours lies
UNREADABLE = "the imagery cannot be read: the service's log names the file"


class SourceError(SkyfixError):
    """Imagery that cannot be used; the message may name any file of a source."""

    def __init__(self, message: str = "", *, public: str = UNREADABLE) -> None:
        super().__init__(message, public=public)


class SourceMissing(SourceError):
    """The imagery's file or folder is not at its path."""


class Ground(NamedTuple):
    """A rectangle in the tangent plane at its centre, in metres, true north up."""

    centre: LatLon
    width_m: float
    height_m: float

    def corners(self) -> list[LatLon]:
        """NW, NE, SE, SW."""
        east, north = self.width_m / 2.0, self.height_m / 2.0
        signs = ((-1, 1), (1, 1), (1, -1), (-1, -1))
        return [offset(self.centre, e * east, n * north) for e, n in signs]


class Cut(NamedTuple):
    """A tile to cut: a square of ground, `size_m` metres wide, true north up.

    place: the grid point at its centre; None where the tile is on no grid.
    """

    tile_id: str
    centre: LatLon
    size_m: float
    place: GridPlace | None = None

    @property
    def ground(self) -> Ground:
        return Ground(self.centre, self.size_m, self.size_m)


class TileImage(NamedTuple):
    """A tile's pixels, uint8 (P, P, 3), and the share of them that the imagery covers.

    Pixels without imagery hold the mean colour of the others.
    """

    pixels: Rgb
    valid: float

    @property
    def is_blank(self) -> bool:
        """Whether the pixels are black or white without contrast, as those of a fill value are."""
        grey = BLANK_MARGIN <= self.pixels.mean() <= 255.0 - BLANK_MARGIN
        return not grey and bool(self.pixels.std(axis=(0, 1)).max() < BLANK_SPREAD)


class Source(ABC):
    """Imagery on disk. Not thread-safe: one thread uses an instance at a time."""

    kind: str
    path: Path
    name: str
    licence: str = ""
    attribution: str = ""
    notes: Sequence[str] = ()  # for the user at ingest: what was found, and what was assumed

    @abstractmethod
    def signature(self) -> str:
        """A text that changes whenever the files behind the pixels change."""

    @abstractmethod
    def cuts(self, size_m: float | None, stride_m: float | None) -> Iterator[Cut]:
        """Every tile, in a stable order; each kind of source says which arguments it needs."""

    @abstractmethod
    def count(self, size_m: float | None, stride_m: float | None) -> int:
        """About how many cuts there will be, for a progress bar."""

    @abstractmethod
    def read(self, cut: Cut, pixels: int) -> TileImage:
        """The image of `cut`, resampled to `pixels` x `pixels` without aliasing."""

    def read_run(self, run: Sequence[Cut], pixels: int) -> list[TileImage]:
        """The images of cuts that `gridded_source.runs` put together.

        An image has the same bits in any run.
        """
        return [self.read(cut, pixels) for cut in run]

    def doubts(self) -> list[str]:
        """Guesses about the files that a user should check. May read pixels."""
        return []

    def close(self) -> None:  # noqa: B027 (most sources hold no file open)
        """Releases the files, where any are held open."""


def stated_credit(folder: Path) -> tuple[str, str]:
    """Licence and attribution, as metadata.json in a folder of map tiles says them."""
    try:
        said = json.loads((folder / "metadata.json").read_text(encoding="utf-8-sig"))
        return str(said.get("licence") or ""), str(said.get("attribution") or "")
    except (OSError, ValueError, AttributeError):  # there is none, or none that is understood
        return "", ""


def source_name(path: Path, name: str | None) -> str:
    """`name`, or a name made of the file's; it becomes part of every tile id.

    Raises:
        SourceError: the name holds characters that a tile id may not.
    """
    if name is None:
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-.")[:64] or "imagery"
    if not SOURCE_NAME.fullmatch(name):
        raise SourceError(
            f"the source name {name!r} is not 1-64 of the characters A-Z a-z 0-9 . _ -"
        )
    return name

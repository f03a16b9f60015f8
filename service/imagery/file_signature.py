"""A source's signature in the catalogue: whether its files are still those that were ingested."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import NamedTuple

import rasterio
from rasterio.errors import RasterioError

from service.imagery.value_range import ValueRange

SIDECARS = ("", ".ovr", ".msk", ".aux.xml")  # GDAL reads these beside a file, unasked


class Signature(NamedTuple):
    """The files' stamp, and the range in which their values are shown if they are not bytes."""

    stamp: str
    value_range: ValueRange | None = None

    @classmethod
    def parse(cls, text: str) -> Signature:
        """The inverse of str()."""
        stamp, *ends = text.split(";")
        return cls(stamp, ValueRange(*map(float, ends)) if ends else None)

    def __str__(self) -> str:
        return ";".join([self.stamp, *map(repr, self.value_range or ())])

    def range_now(self, stamp: str, find: Callable[[], ValueRange]) -> ValueRange:
        """This range while the files have this stamp, or look much the same; else a new range.

        Args:
            find: the range of the present values; called only where the stamp is another.
        """
        kept = self.value_range
        if kept is not None and stamp == self.stamp:
            return kept
        found = find()
        return kept if kept is not None and kept.near(found) else found


def stamp(files: Iterable[str]) -> str:
    """Size and modification time of rasters' files, masks and overviews, and of a VRT's members.

    Files in an archive or on a server have no stamp.
    """
    stamps = []
    for file in sorted({file + sidecar for file in _with_members(files) for sidecar in SIDECARS}):
        with suppress(OSError):
            stat = os.stat(file)
            stamps.append(f"{stat.st_size}-{stat.st_mtime_ns}")
    return " ".join(stamps)


def _with_members(files: Iterable[str]) -> set[str]:
    """The files, and the members of VRTs among them: GDAL lists no member's own members."""
    found: set[str] = set()
    waiting = list(files)
    while waiting:
        file = waiting.pop()
        if file not in found:
            found.add(file)
            if file.lower().endswith(".vrt"):
                with suppress(RasterioError), rasterio.open(file) as inner:
                    waiting += inner.files
    return found

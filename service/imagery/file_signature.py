"""What the catalogue keeps of a source's files, to tell whether they are still those ingested."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import RasterioError

from service.imagery.value_range import Stretch

SIDECARS = ("", ".ovr", ".msk", ".aux.xml")  # what GDAL reads beside a file, unasked


class Signature(NamedTuple):
    """The files' stamp, and the range in which their values are shown where they are no bytes."""

    stamp: str
    stretch: Stretch | None = None

    @classmethod
    def parse(cls, text: str) -> Signature:
        """The inverse of str()."""
        stamp, *ends = text.split(";")
        return cls(stamp, Stretch(*map(float, ends)) if ends else None)

    def __str__(self) -> str:
        return ";".join([self.stamp, *map(repr, self.stretch or ())])

    def stretch_now(
        self, path: Path, stamp: str, samples: Iterable[NDArray[np.generic]]
    ) -> Stretch:
        """This stretch while the files have this stamp, or look much as they did; a new one else.

        Args:
            samples: of the values as they are now; read only when needed.

        Raises:
            SourceError: a new one was needed, and there is no sample.
        """
        if self.stretch is not None and stamp == self.stamp:
            return self.stretch
        found = Stretch.over(path, samples)
        return self.stretch if self.stretch is not None and self.stretch.near(found) else found


def stamp(files: Iterable[str]) -> str:
    """Size and modification time of rasters' files, with masks and overviews, and of a VRT's
    members and theirs. What lies in an archive or on a server has none."""
    stamps = []
    for file in sorted({file + sidecar for file in _with_members(files) for sidecar in SIDECARS}):
        with suppress(OSError):
            stat = os.stat(file)
            stamps.append(f"{stat.st_size}-{stat.st_mtime_ns}")
    return " ".join(stamps)


def _with_members(files: Iterable[str]) -> set[str]:
    """GDAL lists a VRT's members, but no member's members."""
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

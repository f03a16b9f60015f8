"""A source's signature in the catalogue: whether its files are still those that were ingested.

The signature of a raster that does not hold bytes also keeps the range of values shown as 0 to 255.
A range found anew at every opening would move with a handful of edited pixels, and with it every
image of the source. The range is found again only where the imagery looks different altogether.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import RasterioError

from service.imagery.source import SourceError

SIDECARS = ("", ".ovr", ".msk", ".aux.xml")  # GDAL reads these beside a file, unasked
PERCENTILES = (2.0, 98.0)
# Share of the range by which its ends may move before the range is found again. An edit of 1 % of
# the pixels moves an end by up to a seventh, for values spread like a bell; a quarter costs little
# contrast.
MAX_DRIFT = 0.25


class ValueRange(NamedTuple):
    """The values shown as 0 and as 255."""

    low: float
    high: float


def signature(stamp: str, value_range: ValueRange | None) -> str:
    """The files' stamp, and the range of their values if they are not bytes."""
    return ";".join([stamp, *map(repr, value_range or ())])


def range_to_show(
    path: Path, former: str, stamp: str, samples: Callable[[], NDArray[Any]]
) -> ValueRange:
    """The former signature's range while files have its stamp, or look much the same; else anew.

    Args:
        samples: reads some values; called only where the stamp is another.

    Raises:
        SourceError: there is no sample.
    """
    former_stamp, *ends = former.split(";")
    kept = ValueRange(*map(float, ends)) if ends else None
    if kept is not None and stamp == former_stamp:
        return kept
    found = samples()
    if found.size == 0:
        raise SourceError(f"{path}: no valid value was found where samples were taken")
    # The nearest sample: a mean of two int16 overflows.
    low, high = (float(v) for v in np.percentile(found, PERCENTILES, method="nearest"))
    anew = ValueRange(low, max(high, low + 1e-6))
    if kept is None or np.abs(np.subtract(kept, anew)).max() > MAX_DRIFT * (kept.high - kept.low):
        return anew
    return kept


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

"""A source's signature in the catalogue: whether its files are still those that were ingested.

The signature of a raster that does not hold bytes also keeps the range of values shown as 0 to 255.
A range found anew at every opening would move with a handful of edited pixels, and with it every
image of the source. The range is found again only where the imagery looks different altogether.
"""

from __future__ import annotations

import math
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
FILL_SHARE = 0.02  # of the pixels: fewer do not move the percentiles
FILL_PERCENTILES = (0.5, 99.5)  # of the other values: a few lie between, where fill was resampled


class ValueRange(NamedTuple):
    """The values shown as 0 and as 255, and undeclared values that stand for no imagery."""

    low: float
    high: float
    fills: tuple[float, ...] = ()


def signature(stamp: str, value_range: ValueRange | None) -> str:
    """The files' stamp, and the range of their values if they are not bytes."""
    low_high_fills = (*value_range[:2], *value_range.fills) if value_range else ()
    return ";".join([stamp, *map(repr, low_high_fills)])


def range_to_show(
    path: Path,
    former: str,
    stamp: str,
    samples: Callable[[], NDArray[Any]],
    find_fills: bool = True,
) -> ValueRange:
    """The former signature's range while files have its stamp, or look much the same; else anew.

    Args:
        samples: reads some values, (N, 3); called only where the stamp is another.
        find_fills: whether the user has not said which value stands for no imagery.

    Raises:
        SourceError: there is no sample.
    """
    kept = None
    former_stamp, *ends = former.split(";")
    if ends:
        low, high, *fills = map(float, ends)
        kept = ValueRange(low, high, tuple(fills))
        if stamp == former_stamp:
            return kept
    found = samples()
    if found.size == 0:
        raise SourceError(f"{path}: no valid value was found where samples were taken")
    new_fills = undeclared_fills(found) if find_fills else ()
    found = found[~np.isin(found, new_fills).all(axis=1)]
    # The nearest sample: a mean of two int16 overflows.
    low, high = (float(v) for v in np.percentile(found, PERCENTILES, method="nearest"))
    anew = ValueRange(low, max(high, low + 1e-6), new_fills)
    drift = np.abs(np.subtract(kept[:2], anew[:2])).max() if kept else math.inf
    if kept is None or drift > MAX_DRIFT * (kept.high - kept.low):
        return anew
    return kept._replace(fills=new_fills)


def undeclared_fills(samples: NDArray[Any]) -> tuple[float, ...]:
    """Values of whole pixels that spoil the range: many, and far below or above all others.

    So a fill value is one that at least halves the contrast of what it does not hide. The white of
    snow or roofs is no fill: brightness rises to it without a gap.
    """
    rest = samples.astype(np.float64)
    fills: tuple[float, ...] = ()
    while True:
        for value in (rest.min(), rest.max()):
            hidden = (rest == value).all(axis=1)
            if hidden.mean() < FILL_SHARE or hidden.all():
                continue
            low, high = np.percentile(rest[~hidden], FILL_PERCENTILES)
            if max(low - value, value - high) > high - low > 0.0:
                rest, fills = rest[~hidden], (*fills, float(value))
                break
        else:
            return fills


def values_kept(signature: str) -> str:
    """A signature without its stamp: its range is kept unless the values look different."""
    return "".join(signature.partition(";")[1:])


def stamp(files: Iterable[str]) -> str:
    """Size and modification time of rasters' files, masks and overviews, and of a VRT's members.

    Files in an archive or on a server have no stamp.
    """
    stamps = []
    for file in sorted({file + sidecar for file in with_members(files) for sidecar in SIDECARS}):
        with suppress(OSError):
            stat = os.stat(file)
            stamps.append(f"{stat.st_size}-{stat.st_mtime_ns}")
    return " ".join(stamps)


def with_members(files: Iterable[str]) -> set[str]:
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

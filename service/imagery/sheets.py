"""A folder's rasters as sheets: what is known of each while its file is closed."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.geo import wrap_longitude
from service.imagery.grid import Extent
from service.imagery.raster import Layout, RasterSource, stamp_of
from service.imagery.reading import Reading
from service.imagery.signature import with_members
from service.imagery.source import Ground, SourceError

MAX_NAMED = 4  # CRSs
COLOURS = 3  # bands of a raster that is surely imagery
SAME = 1e-9  # degrees


class Sheet(NamedTuple):
    """One raster, checked.

    note: which bands are used.
    files: every file behind the pixels.
    stamp: the files' stamp when the raster was open.
    """

    path: Path
    extent: Extent
    resolution_m: float
    area_m2: float
    deep: bool
    layout: Layout
    note: str
    licence: str
    attribution: str
    files: tuple[str, ...]
    stamp: str

    @classmethod
    def of(cls, path: Path, reading: Reading) -> Sheet:
        """Opens the raster, unless this process knows it and its files have not changed.

        Raises:
            SourceError: see RasterSource.
        """
        known = _KNOWN.get((path, reading))
        if known is None or stamp_of(known.files, reading) != known.stamp:
            with closing(RasterSource(path, reading=reading)) as source:
                known = cls(
                    path, source.extent, source.resolution_m(), source.area_m2, source.bands.deep,
                    source.layout(), "; ".join(source.notes), source.licence, source.attribution,
                    tuple(source.files()), source.stamp(),
                )  # fmt: skip
            _KNOWN[path, reading] = known
        return known


_KNOWN: dict[tuple[Path, Reading], Sheet] = {}  # a server opens a source for every tile it shows


class SheetIndex:
    """Which sheets reach some ground."""

    def __init__(self, sheets: Sequence[Sheet]) -> None:
        self._sheets = sheets
        self._boxes = np.array([sheet.extent for sheet in sheets]).T

    def near(self, ground: Ground) -> list[Sheet]:
        """Those that may, in their order: a box around the sheet meets the ground's."""
        west, south, east, north = self._boxes
        corners = np.array(ground.corners())
        latitudes, longitude = corners[:, 0], ground.centre.longitude
        half = np.abs(_wrapped(corners[:, 1] - longitude)).max()
        apart = np.abs(_wrapped((west + east) / 2.0 - longitude))
        meets = (apart <= (east - west) / 2.0 + half) & (south <= latitudes.max())
        found = np.flatnonzero(meets & (north >= latitudes.min()))
        return [self._sheets[n] for n in found.tolist()]


def _wrapped(longitudes: NDArray[np.float64]) -> NDArray[np.float64]:
    return (longitudes + 180.0) % 360.0 - 180.0


def shown(sheets: Sequence[Sheet]) -> list[Sheet]:
    """The sheets without those that a VRT among them shows: the VRT says how they are to be read.

    A VRT of a part of a sheet leaves the sheet.
    """
    by_file = {_real(sheet.path): sheet for sheet in sheets}
    hidden = {
        by_file[member].path
        for vrt in sheets
        for member in _members(vrt) & by_file.keys()
        if _inside(by_file[member], vrt)
    }
    return [sheet for sheet in sheets if sheet.path not in hidden]


def check_one_kind(folder: Path, sheets: Sequence[Sheet]) -> list[str]:
    """Notes about sheets that hide each other.

    Raises:
        SourceError: some rasters are bands of one image, elevation, or VRTs of the same files.
    """
    same_ground = defaultdict(list)
    for sheet in sheets:
        same_ground[sheet.extent, sheet.resolution_m].append(sheet)
    stacks = [stack for stack in same_ground.values() if len(stack) > 1]
    for stack in stacks:
        names = " and ".join(str(sheet.path.relative_to(folder)) for sheet in stack[:2])
        if any(sheet.layout.bands == 1 for sheet in stack):
            raise SourceError(
                f"{folder}: {names} lie on the same ground, with one band in a file: put the bands "
                "of an image into one file, for example with gdalbuildvrt -separate rgb.vrt RED "
                "GREEN BLUE, and ingest that file alone; take masks away"
            )
        of_vrts = [frozenset(members) for members in map(_members, stack) if members]
        if len(set(of_vrts)) < len(of_vrts):
            raise SourceError(f"{folder}: {names} show the same files: ingest one of them")
    coloured = any(sheet.layout.bands >= COLOURS for sheet in sheets)
    for sheet in sheets:
        if coloured and sheet.layout.bands == 1 and sheet.layout.dtype != "uint8":
            raise SourceError(
                f"{folder}: {sheet.path.relative_to(folder)} has one band of "
                f"{sheet.layout.dtype} beside rasters in colour: elevation is no imagery, and a "
                "panchromatic image is a source of its own: ingest each from a folder of its own"
            )
    hidden = sum(map(len, stacks)) - len(stacks)
    if not hidden:
        return []
    first = " and ".join(str(sheet.path.relative_to(folder)) for sheet in stacks[0][:2])
    return [
        f"{folder.name}/: {hidden} sheets lie on the very ground of others, such as {first}: the "
        "first by name shows"
    ]


def summary(folder: Path, sheets: Sequence[Sheet], found: int) -> list[str]:
    """What the sheets are, and which of their bands are used."""
    systems = ", ".join(sorted({sheet.layout.crs for sheet in sheets})[:MAX_NAMED])
    finest, coarsest = (f"{end(s.resolution_m for s in sheets):.3g}" for end in (min, max))
    pixels = finest if finest == coarsest else f"{finest} to {coarsest}"
    members = f", which show {found - len(sheets)} others as well" * (found > len(sheets))
    notes = Counter(sheet.note for sheet in sheets)
    count = f"{len(sheets)} sheet{'s' * (len(sheets) > 1)}"
    return [
        f"{folder.name}/: {count} in {systems}, {pixels} m a pixel{members}",
        *(f"{number} rasters: {note}" for note, number in notes.items()),
    ]


def _members(vrt: Sheet) -> set[str]:
    """The files that a VRT shows; none of another raster."""
    if vrt.path.suffix.lower() != ".vrt":
        return set()
    return {_real(file) for file in with_members([str(vrt.path)])} - {_real(vrt.path)}


def _real(file: Path | str) -> str:
    return os.path.realpath(file)


def _inside(sheet: Sheet, other: Sheet) -> bool:
    inner, outer = sheet.extent, other.extent
    apart = abs(wrap_longitude((inner.west + inner.east - outer.west - outer.east) / 2.0))
    return (
        apart + (inner.east - inner.west) / 2.0 <= (outer.east - outer.west) / 2.0 + SAME
        and inner.south >= outer.south - SAME
        and inner.north <= outer.north + SAME
    )

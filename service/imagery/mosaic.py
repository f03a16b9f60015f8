"""A folder of rasters as one source: sheets of a map, or finer imagery over coarser.

The grid belongs to the Earth, so tiles across sheets have no seam in their geometry. Where sheets
overlap, the finest shows; among equally fine sheets the first by name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.geo import LatLon
from service.imagery.folder_contents import FolderContents
from service.imagery.grid import GridPlace, check_metres, latitude_at, tile_id
from service.imagery.gridded_source import SampledSource
from service.imagery.layer import Layer
from service.imagery.raster import RasterSource, stamp_of
from service.imagery.reading import AS_STATED, Reading
from service.imagery.sheets import Sheet, SheetIndex, check_one_kind, shown, summary
from service.imagery.signature import ValueRange, range_to_show, signature
from service.imagery.source import Cut, Ground, SourceMissing, source_name

MAX_OPEN = 32  # rasters; each may hold its overviews and its mask open as well
BLOCK = 32  # rows and columns of the grid
MAX_SAMPLED = 64  # sheets whose values are looked at for the range


class MosaicSource(SampledSource):
    """Every raster in a folder and below. A few are open at a time."""

    kind = "mosaic"

    def __init__(
        self,
        path: Path,
        name: str | None = None,
        former: str = "",
        reading: Reading = AS_STATED,
        files: Sequence[Path] | None = None,
    ) -> None:
        """Opens and checks every sheet in turn; see RasterSource.

        Args:
            files: the rasters that were found; None: as at the ingest.

        Raises:
            SourceMissing: all rasters are gone.
            SourceError: a sheet cannot be used, or the rasters are no sheets of one source.
        """
        self.path = path
        self.name = source_name(path, name)
        self._reading = reading
        self._opened: dict[Path, RasterSource] = {}  # the last used last
        rasters = FolderContents(path).rasters if files is None else files
        if not rasters:
            raise SourceMissing(f"{path} holds no raster any more")
        self._all = [Sheet.of(file, reading) for file in rasters]
        self._sheets = sorted(shown(self._all), key=self._rank)
        if files is not None:
            self.notes = summary(path, self._sheets, len(self._all))
            self.notes += check_one_kind(path, self._sheets)
        self._index = SheetIndex(self._sheets)
        self._value_range: ValueRange | None = None
        self._value_range = self._shared_range(former)
        self.licence = "; ".join(sorted({s.licence for s in self._sheets if s.licence}))
        self.attribution = "; ".join(sorted({s.attribution for s in self._sheets if s.attribution}))

    def close(self) -> None:
        for source in self._opened.values():
            source.close()
        self._opened.clear()

    def _rank(self, sheet: Sheet) -> tuple[float, str]:
        return round(sheet.resolution_m, 3), sheet.path.relative_to(self.path).as_posix()

    def _open(self, sheet: Sheet) -> RasterSource:
        source = self._opened.pop(sheet.path, None)
        if source is None:
            while len(self._opened) >= MAX_OPEN:
                self._opened.pop(next(iter(self._opened))).close()
            source = self._fresh(sheet)
        self._opened[sheet.path] = source
        return source

    def _fresh(self, sheet: Sheet) -> RasterSource:
        source = RasterSource(sheet.path, self.name, reading=self._reading)
        source.value_range = self._value_range if sheet.deep else None
        return source

    def doubts(self) -> list[str]:
        found = []
        for sheet in self._sheets:
            with closing(self._fresh(sheet)) as source:
                found += source.doubts()
        return found

    def _shared_range(self, former: str) -> ValueRange | None:
        """One range for all sheets, lest neighbours show the same value in different colours.

        So imagery in other units, such as reflectances beside counts, belongs in another folder.
        """
        deep = [sheet for sheet in self._sheets if sheet.deep]
        if not deep:
            return None
        some = deep[:: -(-len(deep) // MAX_SAMPLED)]
        return range_to_show(
            self.path,
            former,
            self._stamp(),
            lambda: np.concatenate([self._samples(sheet) for sheet in some]),
            self._reading.nodata is None,
        )

    def _samples(self, sheet: Sheet) -> NDArray[np.generic]:
        with closing(self._fresh(sheet)) as source:
            return source.samples()

    def signature(self) -> str:
        """A digest of the sheets' names and stamps, and the range of their values."""
        return signature(self._stamp(), self._value_range)

    def _stamp(self) -> str:
        parts = [
            f"{s.path.relative_to(self.path)} {stamp_of(s.files, self._reading)}" for s in self._all
        ]
        return hashlib.sha256("\n".join(sorted(parts)).encode()).hexdigest()

    def count(self, size_m: float | None, stride_m: float | None) -> int:
        """The sheets' sum: too many where they overlap."""
        stride = check_metres("stride", stride_m or 0.0)
        return sum(max(1, int(sheet.area_m2 / stride**2)) for sheet in self._sheets)

    def cuts(self, size_m: float | None, stride_m: float | None) -> Iterator[Cut]:
        """Each grid point once, block by block: neighbours are read together, from few sheets."""
        points = [self._points(sheet, size_m, stride_m) for sheet in self._sheets]
        rows, columns, longitudes = np.concatenate(points).T
        _, first = np.unique(rows * 2.0**32 + columns, return_index=True)
        south, east = -rows[first], columns[first]
        order = np.lexsort((east, south, east // BLOCK, south // BLOCK))
        size, stride = float(size_m or 0.0), float(stride_m or 0.0)
        for n in first[order]:
            place = GridPlace(stride, int(rows[n]), int(columns[n]))
            centre = LatLon(latitude_at(place.row * stride), float(longitudes[n]))
            yield Cut(tile_id(self.name, place), centre, size, place)

    def _points(
        self, sheet: Sheet, size_m: float | None, stride_m: float | None
    ) -> NDArray[np.float64]:
        """(N, 3): row, column and longitude of the grid points on a sheet."""
        with closing(self._fresh(sheet)) as source:
            cuts = source.cuts(size_m, stride_m)
            found = [(*cut.place[1:], cut.centre.longitude) for cut in cuts if cut.place]
        return np.array(found, np.float64).reshape(-1, 3)

    def sample(self, ground: Ground, shape: tuple[int, int]) -> Layer:
        """The finest sheet's pixels; where that sheet shows nothing, the next sheet's."""
        layer = None
        for sheet in self._index.near(ground):
            if layer is not None and layer.seen.all() and layer.weight.min() >= 1.0:
                break
            source = self._open(sheet)
            if source.reaches(ground):
                pixels = source.sample(ground, shape)
                layer = pixels if layer is None else layer.over(pixels)
        return Layer.empty(shape) if layer is None else layer

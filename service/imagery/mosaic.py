"""A folder of rasters as one source: sheets of a map, or finer imagery over coarser.

Tiles across sheets have no seam in their geometry, since the grid belongs to the Earth. Where
sheets overlap, the finest shows; among equals the first by name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from service.imagery.file_signature import Signature
from service.imagery.gridded_source import GriddedSource
from service.imagery.parallelogram import View
from service.imagery.raster import RasterSource
from service.imagery.source import Cut, Ground, source_name
from service.imagery.value_range import Stretch

SUFFIXES = (".tif", ".tiff", ".vrt", ".jp2")


class MosaicSource(GriddedSource):
    """Every raster directly in a folder. All are held open: meant for up to some hundred."""

    kind = "mosaic"

    def __init__(self, path: Path, name: str | None = None, former: str = "") -> None:
        """Opens and checks every sheet.

        Args:
            former: its signature when it was ingested last; see RasterSource.stretch.

        Raises:
            SourceError: one of them cannot be used; see RasterSource.
        """
        self.path = path
        self.name = source_name(path, name)
        self._sheets: list[RasterSource] = []
        try:
            for file in sheets_in(path):
                self._sheets.append(RasterSource(file, self.name))
            self._sheets.sort(key=lambda sheet: (round(sheet.resolution_m(), 3), sheet.path.name))
            self._stretch = self._stretch_all(Signature.parse(former))
        except BaseException:
            self.close()
            raise
        self.licence = "; ".join(sorted({s.licence for s in self._sheets if s.licence}))
        self.attribution = "; ".join(sorted({s.attribution for s in self._sheets if s.attribution}))

    def close(self) -> None:
        """Releases the files."""
        for sheet in self._sheets:
            sheet.close()

    def _stretch_all(self, former: Signature) -> Stretch | None:
        """One range for all sheets, lest neighbours show the same value in different colours.

        So what holds other units, as reflectances beside counts, belongs into another folder.
        """
        deep = [sheet for sheet in self._sheets if sheet.deep]
        if not deep:
            return None
        samples = map(RasterSource.samples, deep)
        stretch = former.stretch_now(self.path, self._stamp(), samples)
        for sheet in deep:
            sheet.stretch = stretch
        return stretch

    def signature(self) -> str:
        """A digest of the sheets' names and stamps, and the range that values are shown in."""
        return str(Signature(self._stamp(), self._stretch))

    def _stamp(self) -> str:
        parts = sorted(f"{sheet.path.name} {sheet.stamp()}" for sheet in self._sheets)
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def count(self, size_m: float | None, stride_m: float | None) -> int:
        """The sheets' sum: too many where they overlap."""
        return sum(sheet.count(size_m, stride_m) for sheet in self._sheets)

    def cuts(self, size_m: float | None, stride_m: float | None) -> Iterator[Cut]:
        """Sheet by sheet, each grid point once."""
        seen: set[str] = set()
        for sheet in self._sheets:
            for cut in sheet.cuts(size_m, stride_m):
                if cut.tile_id not in seen:
                    seen.add(cut.tile_id)
                    yield cut

    def look(self, ground: Ground, shape: tuple[int, int]) -> View:
        """The finest sheet's pixels; where it shows nothing, the next one's."""
        view = self._sheets[0].look(ground, shape)
        for sheet in self._sheets[1:]:
            if view.seen.all() and view.weight.min() >= 1.0:
                break
            if sheet.reaches(ground):
                view = view.over(sheet.look(ground, shape))
        return view


def sheets_in(folder: Path) -> list[Path]:
    """The rasters directly in a folder, by name."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)

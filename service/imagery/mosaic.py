"""A folder of rasters as one source: sheets of a map, or finer imagery over coarser.

The grid belongs to the Earth, so tiles across sheets have no seam in their geometry. Where sheets
overlap, the finest shows; among equally fine sheets the first by name.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from service.imagery.folder_contents import FolderContents
from service.imagery.gridded_source import SampledSource
from service.imagery.layer import Layer
from service.imagery.raster import RasterSource
from service.imagery.reading import AS_STATED, Reading
from service.imagery.signature import ValueRange, range_to_show, signature
from service.imagery.source import Cut, Ground, source_name


class MosaicSource(SampledSource):
    """Every raster directly in a folder. All are held open: meant for up to some hundred."""

    kind = "mosaic"

    def __init__(
        self,
        path: Path,
        name: str | None = None,
        former: str = "",
        reading: Reading = AS_STATED,
        files: Sequence[Path] | None = None,
    ) -> None:
        """Opens and checks every sheet; see RasterSource.

        Args:
            files: the sheets; None: all rasters in the folder and below.
        """
        self.path = path
        self.name = source_name(path, name)
        self._sheets: list[RasterSource] = []
        try:
            for file in files or FolderContents(path).rasters:
                self._sheets.append(RasterSource(file, self.name, reading=reading))
            self._sheets.sort(key=lambda sheet: (round(sheet.resolution_m(), 3), sheet.path.name))
            self._value_range = self._shared_range(former, reading.nodata is None)
        except BaseException:
            self.close()
            raise
        found = Counter(note for sheet in self._sheets for note in sheet.notes)
        self.notes = [f"{count} rasters: {note}" for note, count in found.items()]
        self.licence = "; ".join(sorted({s.licence for s in self._sheets if s.licence}))
        self.attribution = "; ".join(sorted({s.attribution for s in self._sheets if s.attribution}))

    def close(self) -> None:
        for sheet in self._sheets:
            sheet.close()

    def _shared_range(self, former: str, find_fills: bool) -> ValueRange | None:
        """One range for all sheets, lest neighbours show the same value in different colours.

        So imagery in other units, such as reflectances beside counts, belongs in another folder.
        """
        deep = [sheet for sheet in self._sheets if sheet.bands.deep]
        if not deep:
            return None
        shared = range_to_show(
            self.path,
            former,
            self._stamp(),
            lambda: np.concatenate([sheet.samples() for sheet in deep]),
            find_fills,
        )
        for sheet in deep:
            sheet.value_range = shared
        return shared

    def signature(self) -> str:
        """A digest of the sheets' names and stamps, and the range of their values."""
        return signature(self._stamp(), self._value_range)

    def doubts(self) -> list[str]:
        return [doubt for sheet in self._sheets for doubt in sheet.doubts()]

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

    def sample(self, ground: Ground, shape: tuple[int, int]) -> Layer:
        """The finest sheet's pixels; where that sheet shows nothing, the next sheet's."""
        layer = self._sheets[0].sample(ground, shape)
        for sheet in self._sheets[1:]:
            if layer.seen.all() and layer.weight.min() >= 1.0:
                break
            if sheet.reaches(ground):
                layer = layer.over(sheet.sample(ground, shape))
        return layer

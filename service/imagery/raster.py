"""Georeferenced rasters (GeoTIFF, COG, any format that GDAL reads) as a source of north-up tiles.

A tile is a square in the tangent plane at its centre, true north up. The four corners of its ground
are projected to the raster's pixels, and the affine map through them is applied. For 64 m tiles the
map's error is below a centimetre in UTM, Web Mercator and geographic coordinates alike. The error
grows with the square of the size; in a segment of tiles it is below 0.1 of their pixels. Knows
nothing of catalogues and encoders.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, reduce
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rasterio import Affine
from rasterio._err import CPLE_NotSupportedError
from rasterio.errors import RasterioError

from model.geo import LatLon, offset
from service.imagery.bands import Bands
from service.imagery.crs import WGS84, crs_name, project, wrap_width
from service.imagery.gdal_log import about
from service.imagery.grid import Extent
from service.imagery.gridded_source import GriddedSource
from service.imagery.layer import Layer, Points, map_to, pixels_per_sample, window_of
from service.imagery.raster_file import crs_files, open_raster, reason
from service.imagery.reading import AS_STATED, Reading
from service.imagery.signature import ValueRange, range_to_show, signature, stamp
from service.imagery.source import Ground, SourceError, source_name

CACHE_BYTES = 128 << 20  # decoded blocks kept by GDAL, for all rasters together
# A tile stretched more than this many times straddles the projection's cut, such as the dateline of
# an oval map of the whole Earth. The tile counts as empty.
MAX_STRETCH = 100.0
EXTENT_SAMPLES = 33  # along each side, to find the extent in degrees
EXTENT_MARGIN = 0.02  # of the extent's sides: its edges may bend between samples


class Layout(NamedTuple):
    """What a raster's file holds: the number of bands, the first one's type, the CRS."""

    bands: int
    dtype: str
    crs: str


def stamp_of(files: Iterable[str], reading: Reading) -> str:
    """The stamp of a raster's files, read so."""
    # A range of values belongs to the bands and the nodata value that it was found with.
    said = Reading(bands=reading.bands, nodata=reading.nodata).text()
    return f"{stamp(files)} {said}".rstrip()


class RasterSource(GriddedSource):
    """One raster. Tiles lie on the worldwide grid, wherever their centre is inside the raster."""

    kind = "raster"

    def __init__(
        self,
        path: Path,
        name: str | None = None,
        former: str = "",
        reading: Reading = AS_STATED,
    ) -> None:
        """Opens and checks the raster; reads no pixels.

        Args:
            former: the source's signature at its last ingest; see `value_range`.

        Raises:
            SourceError: not a raster, without georeference, or outside the Earth.
        """
        self.path = path
        self.name = source_name(path, name)
        self._former = former
        self._reading = reading
        with about(path.name):
            self._file = open_raster(path, reading)
            self._raster, self._crs = self._file.raster, self._file.crs
            try:
                self._place()
            except BaseException:
                self.close()
                raise
            tags = {key.lower(): value for key, value in self._raster.tags().items()}
        self.notes = [self.bands.colours.text]
        self.licence = tags.get("licence") or tags.get("license") or ""
        self.attribution = tags.get("attribution") or tags.get("tifftag_copyright") or ""

    def _place(self) -> None:
        """Finds the bands, and where on Earth they lie."""
        self.bands = Bands(self._file, self._reading)
        self._size = self._raster.width, self._raster.height
        self._to_pixel = ~self._raster.transform
        try:
            self._wrap = wrap_width(self._crs)
            self._wrap_pixels = self._wrap * np.array([self._to_pixel.a, self._to_pixel.d])
            self.extent = self._find_extent()
            self._pixel_m = self._pixel_size_m(self.extent.middle)
            self.area_m2 = float(np.prod(self._size) * np.prod(self._pixel_m))
        except CPLE_NotSupportedError as error:
            raise SourceError(
                f"{self.path.name}: its CRS, {crs_name(self._crs)}, does not say where on Earth "
                "it lies (a building site's does not, nor another planet's): state one that does "
                "by --crs, or assign it with gdal_edit.py -a_srs"
            ) from error

    def close(self) -> None:
        """Releases the file."""
        with about(self.path.name):
            self._raster.close()

    def signature(self) -> str:
        """The stamp, and the range of the values where they are not bytes."""
        return signature(self.stamp(), self.value_range)

    def stamp(self) -> str:
        """Size and modification time of every file behind the pixels."""
        return stamp_of(self.files(), self._reading)

    def files(self) -> list[str]:
        """Every file behind the pixels."""
        beside = [] if self._raster.crs else map(str, crs_files(self.path))
        with about(self.path.name):
            return [str(self.path), *self._raster.files, *beside]

    def layout(self) -> Layout:
        """The bands and the CRS of the file."""
        named = ":".join(self._crs.to_authority() or ()) or crs_name(self._crs)
        return Layout(self._raster.count, self._raster.dtypes[0], named)

    def doubts(self) -> list[str]:
        with self._reads():
            found = [*filter(None, [self._file.doubt]), *self.bands.cover.doubts()]
        fills = self.value_range.fills if self.value_range else ()
        return found + [
            f"{self.path.name}: {value:.17g} lies far from all other values of the imagery and is "
            "taken for no imagery: --nodata states another value, --nodata nan that there is none"
            for value in fills
        ]

    @cached_property
    def value_range(self) -> ValueRange | None:
        """The values shown as 0 and 255; a mosaic sets the same range for all its sheets."""
        if not self.bands.deep:
            return None
        return range_to_show(
            self.path, self._former, self.stamp(), self.samples, self._reading.nodata is None
        )

    def samples(self) -> NDArray[np.generic]:
        """Some of the valid values."""
        with self._reads():
            return self.bands.samples()

    @contextmanager
    def _reads(self, part: str = "the values") -> Iterator[None]:
        try:
            # GDAL's own limit for decoded blocks is 5 % of the machine's memory.
            with about(self.path.name, GDAL_CACHEMAX=CACHE_BYTES):
                yield
        except RasterioError as error:
            raise SourceError(
                f"{self.path}: {part} cannot be read; the file is damaged: {reason(error)}"
            ) from error

    def resolution_m(self) -> float:
        """Ground metres per pixel at the raster's centre, along the coarser side."""
        return max(self._pixel_m)

    def contains(self, longitudes: NDArray[np.float64], latitude: float) -> NDArray[np.bool_]:
        at = self._pixels([LatLon(latitude, longitude) for longitude in longitudes.tolist()])
        return np.asarray(((at >= 0.0) & (at < self._size)).all(axis=1))

    def reaches(self, ground: Ground) -> bool:
        """Whether some of the ground may lie on the raster: quick, and never wrongly False."""
        return bool(self._maps_to(ground))

    def sample(self, ground: Ground, shape: tuple[int, int]) -> Layer:
        """See SampledSource: averaged down by whole pixels (overviews), then bilinear."""
        latitude, longitude = ground.centre
        with self._reads(f"the ground around {latitude:.6f}, {longitude:.6f}"):
            layers = [self._layer(part, shape) for part in self._maps_to(ground)]
        return reduce(Layer.over, layers) if layers else Layer.empty(shape)

    def _maps_to(self, ground: Ground) -> list[Affine]:
        """The maps to the ground's pixels, wherever the raster shows it.

        None where the raster does not show it; two where a map of the whole Earth begins and ends.
        Each of the two shows its own side alone: nothing is mixed across the last half pixel.
        """
        whole = map_to(self._corners(ground))
        east, south, _ = whole.column_vectors
        longest = max(np.hypot(*east) / ground.width_m, np.hypot(*south) / ground.height_m)
        if not longest * min(self._pixel_m) <= MAX_STRETCH:  # NaN: the CRS has no such ground
            return []
        times = (0, -1, 1) if self._wrap else (0,)
        shifted = (Affine.translation(*(n * self._wrap_pixels)) @ whole for n in times)
        return [part for part in shifted if window_of(part, self._size) is not None]

    def _layer(self, part: Affine, shape: tuple[int, int]) -> Layer:
        factors = np.maximum(1, pixels_per_sample(part, shape) // 1).astype(int)
        window = window_of(part, self._size, factors)
        if window is None:
            return Layer.empty(shape)
        reduced = (-(-window.height // factors[1]), -(-window.width // factors[0]))
        rgb, mask = self.bands.read(window, reduced, self.value_range)
        local = Affine.translation(-window.col_off, -window.row_off) @ part
        scale = Affine.scale(reduced[1] / window.width, reduced[0] / window.height)
        return Layer.sampled(rgb, mask, scale @ local, shape)

    def _corners(self, ground: Ground) -> Points:
        """Pixel coordinates of the ground's corners NW, NE, SE, SW, all near its centre's."""
        pixels = self._pixels([*ground.corners(), ground.centre])
        corners, centre = pixels[:4], pixels[4]
        if self._wrap:
            wrap = self._wrap_pixels
            corners -= np.round((corners - centre) @ wrap / (wrap @ wrap))[:, None] * wrap
        return corners

    def _pixels(self, points: Sequence[LatLon]) -> Points:
        """To (column, row), (N, 2); not finite where the CRS has no such point."""
        longitudes, latitudes = [p.longitude for p in points], [p.latitude for p in points]
        east, north = project(WGS84, self._crs, longitudes, latitudes)
        if self._wrap:  # a raster may begin at 180 degrees, or run on beyond
            middle = (self._raster.bounds.left + self._raster.bounds.right) / 2.0
            east = east - self._wrap * np.floor((east - middle) / self._wrap + 0.5)
        return np.stack(self._to_pixel @ (east, north), axis=1)

    def _pixel_size_m(self, at: LatLon) -> tuple[float, float]:
        """Ground metres per column and per row at a position."""
        here, eastward, northward = self._pixels([at, offset(at, 1.0, 0.0), offset(at, 0.0, 1.0)])
        across, down = 1.0 / np.hypot(eastward - here, northward - here)
        return float(across), float(down)

    def _find_extent(self) -> Extent:
        """A box in degrees around the raster; longitudes run on past 180 across the dateline.

        GDAL's transform_bounds makes a sliver of a Mercator map that is wider than the Earth.
        """
        steps = np.linspace(0.0, 1.0, EXTENT_SAMPLES)
        columns, lines = np.meshgrid(*np.outer(self._size, steps))
        xs, ys = self._raster.transform @ (columns.ravel(), lines.ravel())
        longitudes, latitudes = project(self._crs, WGS84, xs.tolist(), ys.tolist())
        if not (
            np.isfinite(longitudes).all()
            and np.abs(latitudes).max() <= 90.0
            and np.abs(longitudes).max() <= 360.0
        ):
            raise SourceError(
                f"{self.path.name}: its bounds {tuple(self._raster.bounds)} in "
                f"{self._crs.to_string()} lie outside the Earth: the georeference is "
                "wrong, or --crs states the right CRS"
            )
        east = longitudes - longitudes[longitudes.size // 2]
        longitudes = longitudes - 360.0 * np.round(east / 360.0) * (np.abs(east) > 180.0)
        right, up = EXTENT_MARGIN * np.ptp(longitudes), EXTENT_MARGIN * np.ptp(latitudes)
        west, east = float(longitudes.min() - right), float(longitudes.max() + right)
        south = float(max(-90.0, latitudes.min() - up))
        north = float(min(90.0, latitudes.max() + up))
        poles = () if self._crs.is_geographic else (90.0, -90.0)
        for pole in poles:
            if self.contains(np.zeros(1), pole).all():  # all meridians meet inside the raster
                west, south, east, north = -180.0, min(south, pole), 180.0, max(north, pole)
        return Extent(west, south, east, north)

"""Georeferenced rasters (GeoTIFF, COG, whatever GDAL reads) as a source of north-up tiles.

A tile is a square in the tangent plane at its centre, true north up. The four corners of its ground
are projected to the raster's pixels and the affine map through them is applied: for 64 m tiles the
map's error is below a centimetre in UTM, Web Mercator and geographic coordinates alike (it grows
with the square of the size; in a strip of tiles it is below 0.1 of their pixels). Knows nothing of
catalogues and encoders.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import cached_property, reduce
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio._err import CPLE_NotSupportedError
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from model.geo import LatLon, offset
from service.imagery import control_points
from service.imagery.bands import Bands
from service.imagery.crs import WGS84, Pair, crs_name, project, turn
from service.imagery.file_signature import Signature, stamp
from service.imagery.grid import Extent, GridError, check_metres, rows, tile_id
from service.imagery.gridded_source import GriddedSource
from service.imagery.parallelogram import Patch, Points, View
from service.imagery.source import Cut, Ground, SourceError, source_name
from service.imagery.value_range import Stretch

MIN_PIXELS_ACROSS = 16  # a tile with fewer source pixels shows nothing
CACHE_BYTES = 128 << 20  # decoded blocks kept by GDAL, for all rasters together
EVERY_PIXEL = np.ones(2, int)
# Times its size: so wide or high seems ground of which the CRS has one side at its other end, as an
# oval map of the whole Earth has at the dateline. Such a tile counts as empty.
TORN = 100.0
EXTENT_SAMPLES = 33  # points along each side from which the extent in degrees is found


class RasterSource(GriddedSource):
    """One raster. Tiles lie on the worldwide grid, wherever their centre is inside the raster."""

    kind = "raster"

    def __init__(self, path: Path, name: str | None = None, former: str = "") -> None:
        """Opens and checks; no pixels are read.

        Args:
            former: its signature when it was ingested last; see `stretch`.

        Raises:
            SourceError: not a raster, without georeference, or outside the Earth.
        """
        self.path = path
        self.name = source_name(path, name)
        self._former = Signature.parse(former)
        self._raster = _open(path)
        try:
            self._bands = Bands.of(self._raster)
            self._to_pixel = ~self._raster.transform
            self._turn = turn(self._raster.crs)
            self._turn_pixels = self._turn * np.array([self._to_pixel.a, self._to_pixel.d])
            self.extent = self._find_extent()
            self._finest_m = min(self._pixel_size_m(self._centre()))
        except CPLE_NotSupportedError as error:
            self.close()
            raise SourceError(
                f"{path.name}: its CRS, {crs_name(self._raster.crs)}, does not say where on Earth "
                "it lies (a building site's does not, nor another planet's): assign one that does, "
                "for example with gdal_edit.py -a_srs"
            ) from error
        except BaseException:
            self.close()
            raise
        tags = {key.lower(): value for key, value in self._raster.tags().items()}
        self.licence = tags.get("licence") or tags.get("license") or ""
        self.attribution = tags.get("attribution") or tags.get("tifftag_copyright") or ""

    def close(self) -> None:
        """Releases the file."""
        self._raster.close()

    def signature(self) -> str:
        """The stamp, and the range that values are shown in, where they are no bytes."""
        return str(Signature(self.stamp(), self.stretch))

    def stamp(self) -> str:
        """Size and modification time of every file behind the pixels."""
        return stamp([str(self.path), *self._raster.files])

    @property
    def deep(self) -> bool:
        """Whether its values are no bytes, so that they need a stretch."""
        return self._bands.deep

    @cached_property
    def stretch(self) -> Stretch | None:
        """The values shown as 0 and 255; a mosaic sets one for all its sheets.

        Raises:
            SourceError: no valid value was found.
        """
        if not self.deep:
            return None
        samples = map(RasterSource.samples, [self])
        return self._former.stretch_now(self.path, self.stamp(), samples)

    def samples(self) -> NDArray[np.generic]:
        """Some of its valid values.

        Raises:
            SourceError: they cannot be read.
        """
        try:
            with rasterio.Env(GDAL_CACHEMAX=CACHE_BYTES):
                return self._bands.samples(self._raster)
        except RasterioError as error:
            raise SourceError(f"{self.path}: the file is damaged: {error}") from error

    def resolution_m(self) -> float:
        """Ground metres per pixel at the raster's centre, along the coarser side."""
        return max(self._pixel_size_m(self._centre()))

    def count(self, size_m: float | None, stride_m: float | None) -> int:
        """The raster's ground area over the stride's square."""
        stride = check_metres("stride", stride_m or 0.0)
        pixel_m = self._pixel_size_m(self._centre())
        area = self._raster.width * self._raster.height * pixel_m[0] * pixel_m[1]
        return max(1, int(area / stride**2))

    def cuts(self, size_m: float | None, stride_m: float | None) -> Iterator[Cut]:
        """Grid points inside the raster, from north to south, row by row.

        Raises:
            GridError: size or stride not positive, or tiles of too few source pixels.
        """
        size = check_metres("tile size", size_m or 0.0)
        stride = check_metres("stride", stride_m or 0.0)
        coarsest = self.resolution_m()
        if size / coarsest < MIN_PIXELS_ACROSS:
            raise GridError(
                f"{self.path.name}: at {coarsest:.3g} m per pixel a tile of {size:g} m is "
                f"{size / coarsest:.2g} pixels wide; {MIN_PIXELS_ACROSS} are needed: use finer "
                "imagery or larger tiles"
            )
        for row in rows(self.extent, stride):
            inside = self._contains(row.longitudes, row.latitude)
            for column, longitude in zip(row.columns[inside], row.longitudes[inside], strict=True):
                name = tile_id(self.name, stride, row.row, int(column))
                yield Cut(name, LatLon(row.latitude, float(longitude)), size)

    def reaches(self, ground: Ground) -> bool:
        """Whether some of the ground may lie on the raster: quick, and never wrongly False."""
        return bool(self._patches(ground))

    def look(self, ground: Ground, shape: tuple[int, int]) -> View:
        """See GriddedSource: averaged down by whole pixels (overviews), then sampled bilinearly."""
        try:
            # GDAL's own limit for decoded blocks is 5 % of the machine's memory.
            with rasterio.Env(GDAL_CACHEMAX=CACHE_BYTES):
                views = [self._sample(patch, shape) for patch in self._patches(ground)]
        except RasterioError as error:
            latitude, longitude = ground.centre
            raise SourceError(
                f"{self.path}: the ground around {latitude:.6f}, {longitude:.6f} cannot be read; "
                f"the file is damaged: {error}"
            ) from error
        return reduce(View.over, views) if views else View.empty(shape)

    def _patches(self, ground: Ground) -> list[Patch]:
        """The ground in pixels, wherever the raster shows it: none where it does not, two at the
        seam of a map of the whole Earth.

        Nothing is mixed across that seam: half a pixel beside it shows its own side alone.
        """
        whole = Patch.through(self._corners(ground))
        longest = max(
            np.hypot(*whole.east) / ground.width_m, np.hypot(*whole.south) / ground.height_m
        )
        if not longest * self._finest_m <= TORN:  # NaN: the CRS has no such ground
            return []
        turns = (0, -1, 1) if self._turn else (0,)
        patches = (whole._replace(corner=whole.corner + n * self._turn_pixels) for n in turns)
        size = self._raster.width, self._raster.height
        return [patch for patch in patches if patch.window(EVERY_PIXEL, size) is not None]

    def _sample(self, patch: Patch, shape: tuple[int, int]) -> View:
        factors = np.maximum(1, patch.step(shape) // 1).astype(int)
        window = patch.window(factors, (self._raster.width, self._raster.height))
        if window is None:
            return View.empty(shape)
        reduced = (-(-window.height // factors[1]), -(-window.width // factors[0]))
        rgb, mask = self._bands.read(self._raster, window, reduced, self.stretch)
        scale = np.array([reduced[1] / window.width, reduced[0] / window.height])
        local = patch.moved(window.col_off, window.row_off).scaled(scale)
        weight = np.ones(shape, np.float32)
        if mask is not None or not local.inside(reduced):
            mask_or_all = np.full(reduced, 255, np.uint8) if mask is None else mask
            rgb = rgb * (mask_or_all > 0)[..., None]
            weight = local.sample(mask_or_all, shape).astype(np.float32) / 255.0
        light = local.sample(rgb, shape)
        # Without a declared mask, exact black is what a collar without imagery looks like; it is
        # counted but left, since shadows may be as black.
        seen = weight if mask is not None else light[..., 0] | light[..., 1] | light[..., 2]
        return View(light, weight, seen > 0)

    def _corners(self, ground: Ground) -> Points:
        """Pixel coordinates of the ground's corners, NW, NE, SE, SW, all on one side of a seam."""
        at = [*ground.corners(), ground.centre]
        pixels = self._pixels([p.longitude for p in at], [p.latitude for p in at])
        corners, centre = pixels[:4], pixels[4]
        if self._turn:
            one = self._turn_pixels
            corners -= np.round((corners - centre) @ one / (one @ one))[:, None] * one
        return corners

    def _pixels(self, longitudes: list[float], latitudes: list[float]) -> Points:
        """WGS84 degrees to (column, row), (N, 2); not finite where the CRS has no such point."""
        east, north = project(WGS84, self._raster.crs, longitudes, latitudes)
        if self._turn:  # a raster may run on beyond 180 degrees, or begin there
            middle = (self._raster.bounds.left + self._raster.bounds.right) / 2.0
            east = east - self._turn * np.floor((east - middle) / self._turn + 0.5)
        columns, lines = _apply(self._to_pixel, east, north)
        return np.stack([columns, lines], axis=1)

    def _contains(self, longitudes: NDArray[np.float64], latitude: float) -> NDArray[np.bool_]:
        if not len(longitudes):
            return np.zeros(0, dtype=bool)
        at = self._pixels(longitudes.tolist(), [latitude] * len(longitudes))
        size = np.array([self._raster.width, self._raster.height])
        return np.asarray(((at >= 0.0) & (at < size)).all(axis=1))

    def _centre(self) -> LatLon:
        west, south, east, north = self.extent
        return LatLon((south + north) / 2.0, (west + east) / 2.0)

    def _pixel_size_m(self, at: LatLon) -> tuple[float, float]:
        """Ground metres per column and per row at a place."""
        points = (at, offset(at, 1.0, 0.0), offset(at, 0.0, 1.0))
        here, east, north = self._pixels(
            [p.longitude for p in points], [p.latitude for p in points]
        )
        per_metre = np.hypot(east - here, north - here)
        return float(1.0 / per_metre[0]), float(1.0 / per_metre[1])

    def _find_extent(self) -> Extent:
        """A box in degrees around the raster; longitudes run on past 180 across the dateline."""
        steps = np.linspace(0.0, 1.0, EXTENT_SAMPLES)
        columns, lines = np.meshgrid(steps * self._raster.width, steps * self._raster.height)
        xs, ys = _apply(self._raster.transform, columns.ravel(), lines.ravel())
        longitudes, latitudes = project(self._raster.crs, WGS84, xs.tolist(), ys.tolist())
        if not (
            np.isfinite(longitudes).all()
            and np.abs(latitudes).max() <= 90.0
            and np.abs(longitudes).max() <= 360.0
        ):
            raise SourceError(
                f"{self.path.name}: its bounds {tuple(self._raster.bounds)} in "
                f"{self._raster.crs.to_string()} lie outside the Earth: the georeference is wrong"
            )
        turn = longitudes - longitudes[longitudes.size // 2]
        longitudes = longitudes - 360.0 * np.round(turn / 360.0) * (np.abs(turn) > 180.0)
        margin = 0.02 * np.ptp(latitudes), 0.02 * np.ptp(longitudes)
        box = Extent(
            float(longitudes.min() - margin[1]),
            float(max(-90.0, latitudes.min() - margin[0])),
            float(longitudes.max() + margin[1]),
            float(min(90.0, latitudes.max() + margin[0])),
        )
        return self._around_poles(box)

    def _around_poles(self, box: Extent) -> Extent:
        """All longitudes, where a pole lies inside the raster."""
        if self._raster.crs.is_geographic:
            return box
        for latitude in (90.0, -90.0):
            if self._contains(np.zeros(1), latitude).all():
                south, north = sorted((latitude, box.south if latitude > 0 else box.north))
                box = Extent(-180.0, south, 180.0, north)
        return box


def _apply(affine: Affine, x: NDArray[np.float64], y: NDArray[np.float64]) -> Pair:
    return affine.a * x + affine.b * y + affine.c, affine.d * x + affine.e * y + affine.f


def _open(path: Path) -> rasterio.DatasetReader:
    """The dataset, warped where only control points place it.

    Raises:
        SourceError: unreadable, or nothing says where on Earth it is.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            raster = rasterio.open(path)
    except RasterioError as error:
        raise SourceError(f"{path}: not a raster that can be read: {error}") from error
    if control_points.place(raster):
        return control_points.warped(raster, path)
    problem = None
    if raster.crs is None:
        problem = "it names no coordinate reference system (CRS)"
    elif raster.transform.is_identity or raster.transform.is_degenerate:
        problem = "it holds no georeference (its transform is the identity)"
    if problem is not None:
        raster.close()
        raise SourceError(f"{path.name}: {problem}: assign one, for example with gdal_edit.py")
    return raster

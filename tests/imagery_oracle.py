"""Where a tile's pixels lie in a raster, by PROJ alone: the oracle of the imagery's tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from pyproj import CRS, Transformer
from scipy.interpolate import RBFInterpolator

from service.imagery.raster import RasterSource
from service.imagery.source import Cut

ACROSS = 64  # source pixels of a tile, and pixels of its picture
WAVE = 32  # source pixels
LOOKED_AT = [(0.5, 0.5), *((v, h) for v in (0.2, 0.8) for h in (0.2, 0.8))]  # down, across


def ground(cut: Cut, pixels: int) -> NDArray[np.float64]:
    """Azimuthal equidistant: (P, P, 2) longitudes, latitudes of pixel centres."""
    local = CRS.from_proj4(
        f"+proj=aeqd +lat_0={cut.centre.latitude} +lon_0={cut.centre.longitude} +datum=WGS84"
    )
    steps = ((np.arange(pixels) + 0.5) / pixels - 0.5) * cut.size_m
    east, north = np.meshgrid(steps, -steps)
    to_degrees = Transformer.from_crs(local, "EPSG:4326", always_xy=True)
    return np.stack(to_degrees.transform(east, north), axis=-1)


def rows_and_columns(path: Path, cut: Cut, pixels: int) -> NDArray[np.float64]:
    """(2, P, P) rows and columns of the raster's pixels, centres at .0."""
    return pixels_at(path, *np.moveaxis(ground(cut, pixels), -1, 0)) - 0.5


def pixels_at(
    path: Path, longitudes: NDArray[np.float64], latitudes: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(2, ...) rows and columns of the raster; its first pixel spans 0 to 1."""
    with rasterio.open(path) as raster:
        points, points_crs = raster.gcps
        crs, t = points_crs if points else raster.crs, ~raster.transform
    to_raster = Transformer.from_crs("EPSG:4326", crs.to_wkt(), always_xy=True)
    x, y = to_raster.transform(longitudes, latitudes)
    if points:  # bent through every one of them
        places, pixels = [(p.x, p.y) for p in points], [(p.row, p.col) for p in points]
        bent = RBFInterpolator(places, pixels, kernel="thin_plate_spline")
        return np.moveaxis(bent(np.stack([x, y], -1).reshape(-1, 2)), -1, 0).reshape(2, *x.shape)
    return np.stack([t.d * x + t.e * y + t.f, t.a * x + t.b * y + t.c])


def tiles_of(source: RasterSource, path: Path) -> list[Cut]:
    """The tiles nearest to the middle and towards the corners, by independent places."""
    size_m = source.resolution_m() * ACROSS
    cuts = list(source.cuts(size_m, size_m / 4.0))
    centres = pixels_at(path, *np.array([cut.centre for cut in cuts]).T[::-1]).T
    with rasterio.open(path) as raster:
        wanted = [np.array(share) * raster.shape for share in LOOKED_AT]
    return [cuts[np.abs(centres - place).max(axis=1).argmin()] for place in wanted]


def with_waves(path: Path, axis: int, out: Path) -> Path:
    """A copy whose red and green say the row (axis 0) or column of each pixel: waves of WAVE."""
    with rasterio.open(path) as raster:
        height, width = raster.shape
        points, points_crs = raster.gcps
        where = {"crs": raster.crs, "transform": raster.transform}
    if points:
        where = {"crs": points_crs, "gcps": points}
    turns = (np.indices((height, width), np.float32)[axis] + 0.5) / WAVE
    bands = [np.cos(2.0 * np.pi * turns), np.sin(2.0 * np.pi * turns), np.zeros_like(turns)]
    with rasterio.open(
        out, "w", driver="GTiff", height=height, width=width, count=3, dtype="uint8", **where
    ) as copy:
        copy.write((128.0 + 100.0 * np.stack(bands)).round().astype(np.uint8))
    return out


def largest_error(path: Path, folder: Path) -> float:
    """The largest error of the position of a pixel of `tiles_of`, in source pixels.

    The waves' whole-numbered colours account for up to 0.06 of it.
    """
    errors = []
    for axis in (0, 1):
        source = RasterSource(with_waves(path, axis, folder / f"waves-{axis}.tif"))
        for cut in tiles_of(source, path):
            waves = source.read(cut, ACROSS).pixels[..., :2] - 128.0
            seen = np.arctan2(waves[..., 1], waves[..., 0]) / (2.0 * np.pi)
            true = (rows_and_columns(path, cut, ACROSS)[axis] + 0.5) / WAVE
            errors.append(np.abs((seen - true + 0.5) % 1.0 - 0.5).max() * WAVE)
    return float(max(errors))

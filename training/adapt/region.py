"""A region's imagery as one raster of true metres, whatever the rasters it comes from.

Rasters may be in degrees, in web Mercator or rotated. The region lies on a transverse Mercator
projection about its own middle: its north is true north and its metre a metre (within 20 km: less
than 0.3 degrees and 1e-5, at latitudes up to 60).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import CRSError, NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader, MemoryFile
from rasterio.warp import reproject, transform, transform_bounds
from rasterio.windows import Window

from model.atomic_write import write_atomically
from model.geo import LatLon
from model.images import Rgb
from training.adapt.photographs import AdaptError
from training.data.pairs import AerialPoint

MAX_PIXELS = 400_000_000  # 25 square kilometres at 0.25 m: 1.2 GB decoded
COLOURS = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
Points = NDArray[np.float64]
Mask = NDArray[np.bool_]


class Region(NamedTuple):
    """The region's raster, north up, and where it has imagery.

    crs: metres east and north of the region's middle. west_m, north_m: the raster's corner there.
    cover: bool (H, W), a pixel a cell.
    """

    raster: Path
    crs: CRS
    west_m: float
    north_m: float
    pixel_m: float
    cover: Mask

    def point(self, position: LatLon) -> AerialPoint:
        """The position's pixel."""
        ((east, north),) = project([position], self.crs)
        column, row = (east - self.west_m) / self.pixel_m, (self.north_m - north) / self.pixel_m
        return AerialPoint(self.raster, self.pixel_m, float(column), float(row))

    def covered(self, point: AerialPoint, size_m: float) -> float:
        """The share of the tile around the point that shows imagery."""
        half = size_m / self.pixel_m / 2.0
        rows, columns = (
            slice(max(0, round(middle - half)), max(0, round(middle + half)))
            for middle in (point.row, point.column)
        )
        return float(self.cover[rows, columns].sum()) / (2.0 * half) ** 2


def project(positions: Sequence[LatLon], crs: CRS) -> Points:
    """Positions in a CRS: (N, 2), east and north in its units; infinite where it has none."""
    latitudes = [position.latitude for position in positions]
    longitudes = [position.longitude for position in positions]
    return np.array(transform("EPSG:4326", crs, longitudes, latitudes), np.float64)[:2].T


def check_rasters(aerials: Sequence[Path]) -> None:
    """Raises AdaptError: a raster without georeference, or not of 8-bit colours."""
    for path in aerials:
        with _opened(path) as raster:
            bands = f"{raster.count} bands of {raster.dtypes[0]}"
            if raster.crs is None or raster.transform.is_identity:
                raise AdaptError(
                    f"{path} has no georeference (CRS {raster.crs}): give a GeoTIFF that states "
                    "its place, for example by `gdal_translate -a_srs … -a_ullr …`"
                )
            if raster.dtypes[0] != "uint8" or ColorInterp.palette in raster.colorinterp:
                raise AdaptError(
                    f"{path} has {bands}: convert it to 8-bit RGB, "
                    "for example by `gdal_translate -ot Byte -scale` or `-expand rgb`"
                )


def shown_by(aerials: Sequence[Path], positions: Sequence[LatLon]) -> Mask:
    """bool (N,): whether a position lies within one of the rasters."""
    shown = np.zeros(len(positions), bool)
    for path in aerials:
        with _opened(path) as raster:
            try:
                east, north = project(positions, raster.crs).T
            except CRSError as error:
                raise AdaptError(f"{path}: its CRS {raster.crs} has no place on Earth") from error
            columns, rows = ~raster.transform @ (east, north)
            # Infinity compares false.
            shown |= (
                (columns >= 0) & (columns <= raster.width) & (rows >= 0) & (rows <= raster.height)
            )
    return shown


def make_region(
    aerials: Sequence[Path],
    positions: Sequence[LatLon],
    *,
    pixel_m: float,
    margin_m: float,
    out: Path,
    fill: tuple[int, int, int],
) -> Region:
    """The ground of the positions and `margin_m` around, as the raster `out`.

    An earlier raster of the list goes before a later one where both have imagery.

    Raises:
        AdaptError: too much ground. OSError: the disk is full.
    """
    middle = (np.min(positions, axis=0) + np.max(positions, axis=0)) / 2.0
    crs = CRS.from_proj4(
        f"+proj=tmerc +lat_0={middle[0]:.9f} +lon_0={middle[1]:.9f} +k=1 +datum=WGS84 +units=m"
    )
    box = _box(aerials, project(positions, crs), crs, margin_m)
    width, height = (math.ceil(side / pixel_m) for side in (box[2] - box[0], box[3] - box[1]))
    if width * height > MAX_PIXELS:
        raise AdaptError(
            f"the photographs lie in {box[2] - box[0]:.0f} by {box[3] - box[1]:.0f} m: adapt to "
            f"at most {MAX_PIXELS * pixel_m**2 / 1e6:.0f} square kilometres at a time"
        )
    place = Affine(pixel_m, 0.0, box[0], 0.0, -pixel_m, box[3])
    image = np.empty((3, height, width), np.uint8)
    image[:] = np.array(fill, np.uint8)[:, None, None]
    cover = np.zeros((height, width), bool)
    for path in aerials:
        with _opened(path) as raster:
            _paste(raster, image, cover, place, crs)
    write_atomically(out, _geotiff(image, place, crs))
    return Region(out, crs, box[0], box[3], pixel_m, cover)


def _box(
    aerials: Sequence[Path], points: Points, crs: CRS, margin_m: float
) -> tuple[float, float, float, float]:
    """West, south, east, north of the points and the margin, as far as there is imagery."""
    bounds = []
    for path in aerials:
        with _opened(path) as raster:
            bounds.append(transform_bounds(raster.crs, crs, *_bounds(raster)))
    least, most = np.min(bounds, axis=0), np.max(bounds, axis=0)
    west, south = np.maximum(points.min(0) - margin_m, least[:2])
    east, north = np.minimum(points.max(0) + margin_m, most[2:])
    return float(west), float(south), float(east), float(north)


def _bounds(raster: DatasetReader) -> tuple[float, float, float, float]:
    """West, south, east, north in the raster's CRS, even if it is rotated."""
    corners = [(column, row) for column in (0, raster.width) for row in (0, raster.height)]
    eastings, northings = np.array([raster.transform @ corner for corner in corners]).T
    return eastings.min(), northings.min(), eastings.max(), northings.max()


def _paste(raster: DatasetReader, image: Rgb, cover: Mask, place: Affine, crs: CRS) -> None:
    """Resample a raster into the image (3, H, W) where nothing covers it yet."""
    height, width = cover.shape
    (west, north), (east, south) = place @ (0, 0), place @ (width, height)
    window = _window(raster, transform_bounds(crs, raster.crs, west, south, east, north))
    if window is None:
        return
    # A finer raster is averaged down as it is read.
    share = min(1.0, _pixels_per_pixel(raster, place, crs) ** -0.5)
    rows, columns = (max(1, round(side * share)) for side in (window.height, window.width))
    corner = Affine.translation(window.col_off, window.row_off)
    source = raster.transform @ corner @ Affine.scale(window.width / columns, window.height / rows)
    bands = raster.read(
        _colours(raster), window=window, out_shape=(3, rows, columns), resampling=Resampling.average
    )
    mask = raster.dataset_mask(window=window, out_shape=(rows, columns))
    colours, shown = np.zeros_like(image), np.zeros(cover.shape, np.uint8)
    for pixels, target, resampling in (
        (bands, colours, Resampling.bilinear),
        (mask, shown, Resampling.nearest),
    ):
        reproject(
            pixels, target, src_transform=source, src_crs=raster.crs, dst_transform=place,
            dst_crs=crs, resampling=resampling,
        )  # fmt: skip
    new = (shown > 0) & ~cover
    image[:, new] = colours[:, new]
    cover |= new


def _pixels_per_pixel(raster: DatasetReader, place: Affine, crs: CRS) -> float:
    """How many of the raster's pixels one of the region's pixels covers, at its corner."""
    corners = np.array([place @ corner for corner in ((0, 0), (1, 0), (0, 1))])
    there = transform(crs, raster.crs, *corners.T)
    origin, right, down = np.array(~raster.transform @ np.array(there[:2])).T
    return float(abs(np.linalg.det([right - origin, down - origin])))


def _window(raster: DatasetReader, bounds: tuple[float, float, float, float]) -> Window | None:
    """The whole pixels that hold a box of the raster's CRS; None: the raster lies elsewhere."""
    west, south, east, north = bounds
    corners = [(west, south), (west, north), (east, south), (east, north)]
    columns, rows = np.array([~raster.transform @ corner for corner in corners]).T
    left, top = (max(0, math.floor(side.min()) - 1) for side in (columns, rows))
    right = min(raster.width, math.ceil(columns.max()) + 1)
    bottom = min(raster.height, math.ceil(rows.max()) + 1)
    return Window(left, top, right - left, bottom - top) if left < right and top < bottom else None


def _colours(raster: DatasetReader) -> list[int]:
    """The bands of red, green and blue; unnamed, the first three, or a lone grey one."""
    bands = list(enumerate(raster.colorinterp, 1))
    named = [number for colour in COLOURS for number, kind in bands if kind == colour]
    if len(named) == 3:
        return named
    return [1, 2, 3] if raster.count >= 3 else [1, 1, 1]


def _geotiff(image: Rgb, place: Affine, crs: CRS) -> bytes:
    """In memory, so that a full disk leaves no part of a raster."""
    count, height, width = image.shape
    with MemoryFile() as memory:
        with memory.open(
            driver="GTiff", dtype="uint8", count=count, height=height, width=width, crs=crs,
            transform=place, tiled=True, compress="deflate", predictor=2, photometric="rgb",
        ) as raster:  # fmt: skip
            raster.write(image)
        return bytes(memory.getbuffer())


def _opened(path: Path) -> DatasetReader:
    """Raises AdaptError: not a raster."""
    try:
        with warnings.catch_warnings():  # check_rasters refuses what rasterio warns of
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            return rasterio.open(path)
    except RasterioError as error:
        raise AdaptError(f"{path} cannot be read as a raster: {error}") from error

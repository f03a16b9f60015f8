"""Pairs of a street panorama and the aerial imagery around it, and the reading of their images."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import rasterio
from PIL import Image
from rasterio.errors import RasterioError
from rasterio.windows import Window

from model.errors import SkyfixError
from model.file_kind import kind_of_file
from model.geo import LatLon
from model.images import Rgb, decode_image, filled, open_image
from model.panorama import Panorama, PanoramaGeometry
from model.panorama_metadata import read_panorama
from model.preprocessing import Preprocessing


class PairError(SkyfixError):
    """A pair cannot be read, or a dataset folder is not what its name says."""


@dataclass(frozen=True)
class AerialPoint:
    """A point in a north-up aerial image.

    `column`, `row` are pixel edges, fractions allowed: (0, 0) is the image's upper left corner.
    Both are NaN if they are the middle of an image that cannot be opened.
    """

    path: Path
    metres_per_pixel: float
    column: float
    row: float


@dataclass(frozen=True)
class Pair:
    """A street panorama and its point in an aerial image.

    Attributes:
        geometry: None, or with an unknown north: read from the panorama's own metadata.
        position: of the street; None: unknown.
        tile: id of the gallery tile that shows the street; empty: the pair's own id.
        semi_positives: ids of further gallery tiles that show the street nearer to their edge.
    """

    id: str
    street: Path
    aerial: AerialPoint
    geometry: PanoramaGeometry | None = None
    position: LatLon | None = None
    tile: str = ""
    semi_positives: tuple[str, ...] = ()

    @property
    def tile_id(self) -> str:
        """Id of the gallery tile that a search should find."""
        return self.tile or self.id


@dataclass(frozen=True)
class GalleryTile:
    """A tile of the gallery: its middle, which lies at `position` (None: unknown)."""

    id: str
    aerial: AerialPoint
    position: LatLon | None = None


def read_strip(pair: Pair, preprocessing: Preprocessing) -> tuple[Rgb, float]:
    """The panorama's strip (see `Preprocessing.strip`) and the fraction that faces north.

    Raises:
        ImageError, GeometryError: unreadable, or north is unknown.
    """
    data, geometry = pair.street.read_bytes(), pair.geometry
    if geometry is not None and geometry.north is not None:
        panorama = Panorama(open_image(data), geometry)
    else:
        panorama = read_panorama(data)
        if geometry is not None:
            heading = panorama.heading_deg
            if heading is not None:
                north = geometry.north_of(heading, geometry.horizontal_fov_deg)
                geometry = replace(geometry, north=north)
            panorama = Panorama(panorama.image, geometry)
    return preprocessing.read_strip(panorama), panorama.geometry.strip_north


def read_chip(point: AerialPoint, size_m: float, pixels: int, fill: tuple[int, int, int]) -> Rgb:
    """`size_m` metres of ground around the point as uint8 (pixels, pixels, 3), area-averaged.

    Ground outside the image is `fill`.

    Raises:
        PairError: the point lies outside the image.
    """
    return cut_chip(read_aerial(point.path), point, size_m, pixels, fill)


def cut_chip(
    image: Rgb, point: AerialPoint, size_m: float, pixels: int, fill: tuple[int, int, int]
) -> Rgb:
    """As `read_chip`, from the decoded image."""
    if not math.isfinite(point.column + point.row):
        raise PairError(f"the point of the street in {point.path} is unknown")
    height, width = image.shape[:2]
    half = size_m / point.metres_per_pixel / 2.0
    box = np.array([point.column - half, point.row - half, point.column + half, point.row + half])
    inside = box.clip(0.0, [width, height, width, height])
    scale = pixels / (2.0 * half)
    target = np.round((inside - box[[0, 1, 0, 1]]) * scale).astype(int)
    columns, rows = target[2] - target[0], target[3] - target[1]
    if columns < 1 or rows < 1:
        raise PairError(f"the place at pixel {point.column, point.row} lies outside {point.path}")
    # Shrinking only the window that is needed: a town's raster is tens of megabytes.
    left, top = map(math.floor, inside[:2])
    right, bottom = map(math.ceil, inside[2:])
    part = Image.fromarray(image[top:bottom, left:right]).resize(
        (columns, rows),
        Image.Resampling.BILINEAR,
        box=tuple(inside - np.array([left, top, left, top])),
        reducing_gap=3.0,
    )
    chip = filled(pixels, pixels, fill)
    chip[target[1] : target[3], target[0] : target[2]] = np.asarray(part)
    return chip


def raster_size(path: Path) -> tuple[int, int]:
    """(height, width) of an aerial image in pixels."""
    height, width = read_aerial(path).shape[:2]
    return height, width


@lru_cache(maxsize=4)
def read_aerial(path: Path) -> Rgb:
    """A whole aerial image. The last few are kept, because a town's pairs share one raster.

    Raises:
        ImageError, PairError: unreadable, or not RGB of uint8.
    """
    if path.suffix.lower() not in (".tif", ".tiff"):
        return decode_image(path.read_bytes())
    try:
        with rasterio.open(path) as raster:
            if raster.count < 3 or raster.dtypes[0] != "uint8":
                raise PairError(
                    f"{path} has {raster.count} bands of {raster.dtypes[0]}; expected RGB of uint8"
                )
            bands = raster.read((1, 2, 3), window=Window(0, 0, raster.width, raster.height))
    except RasterioError as error:  # some say only "see the previous exception"
        found = f"; the file is {kind}" if (kind := kind_of_file(path)) else ""
        raise PairError(f"{path} cannot be read: {error.__cause__ or error}{found}") from error
    return np.ascontiguousarray(np.moveaxis(bands, 0, -1))

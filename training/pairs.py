"""Pairs of a street panorama and the aerial imagery around it, read from files into arrays.

Knows nothing of losses or of the network's layers. What it reads is not yet augmented: a strip
holds the whole band, a chip more ground than the footprint, so that offsets and turns stay free.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import rasterio
from PIL import Image
from rasterio.windows import Window

from model.checkpoint import EncoderConfig
from model.errors import SkyfixError
from model.geo import LatLon, earth_centred
from model.images import Rgb, decode_image
from model.panorama import PanoramaGeometry, read_geometry
from model.preprocessing import Preprocessing

log = logging.getLogger(__name__)


class PairError(SkyfixError):
    """A pair cannot be read, or a dataset folder is not what its name says."""


@dataclass(frozen=True)
class AerialView:
    """Where a place lies in a north-up image of the ground.

    `column`, `row` are pixel edges, fractions allowed: (0, 0) is the image's upper left corner.
    """

    path: Path
    metres_per_pixel: float
    column: float
    row: float


@dataclass(frozen=True)
class Pair:
    """A street panorama and the aerial view of the same place.

    `geometry` None: read from the panorama's own metadata. `position` None: unknown. `tile`: id of
    the reference that shows the place, where it is not the pair's own (empty: the same id).
    `semi_positives`: ids of further references that show it, though nearer to their edge.
    """

    id: str
    street: Path
    aerial: AerialView
    geometry: PanoramaGeometry | None = None
    position: LatLon | None = None
    tile: str = ""
    semi_positives: tuple[str, ...] = ()

    @property
    def tile_id(self) -> str:
        """Id of the reference that a search should find."""
        return self.tile or self.id


@dataclass(frozen=True)
class Reference:
    """A tile of the gallery, seen at its middle, which lies at `position` (None: unknown)."""

    id: str
    aerial: AerialView
    position: LatLon | None = None


def own_references(pairs: Sequence[Pair]) -> list[Reference]:
    """A reference for each pair, where every street stands at the middle of a tile of its own."""
    return [Reference(pair.id, pair.aerial, pair.position) for pair in pairs]


def read_strip(pair: Pair, preprocessing: Preprocessing) -> tuple[Rgb, float]:
    """The panorama's strip (see `Preprocessing.strip`) and the fraction that faces north.

    Raises:
        ImageError, GeometryError: unreadable, or north is unknown.
    """
    data = pair.street.read_bytes()
    geometry = pair.geometry or read_geometry(data).geometry
    return preprocessing.read_strip(data, geometry), geometry.strip_north


def read_chip(view: AerialView, size_m: float, pixels: int, fill: tuple[int, int, int]) -> Rgb:
    """`size_m` metres of ground around the place as uint8 (pixels, pixels, 3), area-averaged.

    Ground outside the image is `fill`.

    Raises:
        PairError: the place lies outside the image.
    """
    image = _aerial_image(view.path)
    height, width = image.shape[:2]
    half = size_m / view.metres_per_pixel / 2.0
    box = np.array([view.column - half, view.row - half, view.column + half, view.row + half])
    inside = box.clip(0.0, [width, height, width, height])
    scale = pixels / (2.0 * half)
    target = np.round((inside - box[[0, 1, 0, 1]]) * scale).astype(int)
    columns, rows = target[2] - target[0], target[3] - target[1]
    if columns < 1 or rows < 1:
        raise PairError(f"the place at pixel {view.column, view.row} lies outside {view.path}")
    # Shrinking only the window that is needed: a town's raster is tens of megabytes.
    window = _window(inside)
    part = Image.fromarray(image[window[1] : window[3], window[0] : window[2]]).resize(
        (columns, rows),
        Image.Resampling.BILINEAR,
        box=tuple(inside - np.array(window)[[0, 1, 0, 1]]),
        reducing_gap=3.0,
    )
    chip = np.empty((pixels, pixels, 3), np.uint8)
    chip[:] = fill
    chip[target[1] : target[3], target[0] : target[2]] = np.asarray(part)
    return chip


def _window(box: np.ndarray) -> tuple[int, int, int, int]:
    left, top, right, bottom = box
    return math.floor(left), math.floor(top), math.ceil(right), math.ceil(bottom)


def raster_size(path: Path) -> tuple[int, int]:
    """(height, width) of an aerial image in pixels."""
    height, width = _aerial_image(path).shape[:2]
    return height, width


@lru_cache(maxsize=4)
def _aerial_image(path: Path) -> Rgb:
    """A whole aerial image; a town's pairs share one raster, so the last few are kept."""
    if path.suffix.lower() in (".tif", ".tiff"):
        with rasterio.open(path) as raster:
            if raster.count < 3 or raster.dtypes[0] != "uint8":
                raise PairError(
                    f"{path} has {raster.count} bands of {raster.dtypes[0]}; expected RGB of uint8"
                )
            bands = raster.read((1, 2, 3), window=Window(0, 0, raster.width, raster.height))
        return np.ascontiguousarray(np.moveaxis(bands, 0, -1))
    return decode_image(path.read_bytes())


@dataclass(frozen=True)
class Arrays:
    """Pairs as arrays, one row each.

    strips: uint8 (N, h, w, 3). norths: float64 (N,), fraction of the turn. chips: uint8
    (N, P, P, 3), the footprint plus `margin` pixels on every side at the input's resolution.
    positions: float64 (N, 3), earth-centred metres, NaN where unknown.
    """

    strips: np.ndarray
    norths: np.ndarray
    chips: np.ndarray
    positions: np.ndarray
    margin: int

    def __len__(self) -> int:
        return len(self.strips)


def margin_pixels(config: EncoderConfig, offset_m: float) -> int:
    """Pixels of the network's input that `offset_m` metres of ground cover, rounded up."""
    return math.ceil(offset_m * config.preprocessing.input_size / config.aerial_footprint_m)


def read_arrays(
    pairs: Sequence[Pair],
    config: EncoderConfig,
    offset_m: float,
    *,
    workers: int = 2,
    advance: Callable[[], None] = lambda: None,
    skip_share: float = 0.0,
) -> Arrays:
    """Decode and resample every pair once; `advance` is called for each.

    Args:
        skip_share: up to this share of the pairs may be unreadable and is left out, logged by
            name. 0, because row i is then pair i, which measuring relies on.

    Raises:
        PairError: more pairs cannot be read; says how many, and names the first.
    """
    preprocessing = config.preprocessing
    margin = margin_pixels(config, offset_m)
    side = preprocessing.input_size + 2 * margin
    size_m = config.aerial_footprint_m * side / preprocessing.input_size
    count = len(pairs)
    arrays = Arrays(
        np.empty((count, *preprocessing.strip_size, 3), np.uint8),
        np.empty(count, np.float64),
        np.empty((count, side, side, 3), np.uint8),
        np.full((count, 3), np.nan),
        margin,
    )
    failures: dict[int, str] = {}

    def read(index: int) -> None:
        pair = pairs[index]
        try:
            arrays.strips[index], arrays.norths[index] = read_strip(pair, preprocessing)
            arrays.chips[index] = read_chip(pair.aerial, size_m, side, preprocessing.fill)
        except (SkyfixError, OSError) as error:
            failures[index] = f"{pair.id}: {error}"
        if pair.position is not None:
            arrays.positions[index] = earth_centred(pair.position)
        advance()

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(read, range(count)))
    return _without(arrays, failures, skip_share) if failures else arrays


def _without(arrays: Arrays, failures: dict[int, str], share: float) -> Arrays:
    """The arrays less the failed rows, moved up in place: they can fill half the memory."""
    count = len(arrays)
    first = failures[min(failures)]
    if len(failures) > share * count:
        raise PairError(f"{len(failures)} of {count} pairs cannot be read; first: {first}")
    log.warning("%d of %d pairs cannot be read and are left out:", len(failures), count)
    for index in sorted(failures):
        log.warning("  %s", failures[index])
    kept = [index for index in range(count) if index not in failures]
    rows = (arrays.strips, arrays.norths, arrays.chips, arrays.positions)
    for array in rows:
        for target, source in enumerate(kept):
            if target != source:
                array[target] = array[source]
    strips, norths, chips, positions = (array[: len(kept)] for array in rows)
    return Arrays(strips, norths, chips, positions, arrays.margin)

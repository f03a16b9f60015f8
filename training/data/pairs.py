"""Pairs of a street panorama and the aerial imagery around it, read from files into arrays.

Knows nothing of losses or of the network's layers. What it reads is not yet augmented: a strip
holds the whole band, a chip more ground than the footprint, so that offsets and turns stay free.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import re
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
import rasterio
from PIL import Image
from rasterio.errors import RasterioError
from rasterio.windows import Window

from model.checkpoint import EncoderConfig
from model.errors import SkyfixError
from model.geo import LatLon, earth_centred
from model.images import Rgb, decode_image, filled, open_image
from model.panorama import Panorama, PanoramaGeometry
from model.panorama_metadata import read_panorama
from model.preprocessing import Preprocessing
from training import distributed as processes

SKIP_SHARE = 0.01  # of the training pairs may be unreadable and is left out by name
MEMORY_SHARE = 0.4  # of the memory available may be filled by the pairs of one call
FILL_SHARE = 0.05  # of the aerial views may be fill before it is told

log = logging.getLogger(__name__)


class PairError(SkyfixError):
    """A pair cannot be read, or a dataset folder is not what its name says."""


@dataclass(frozen=True)
class AerialView:
    """Where a place lies in a north-up image of the ground.

    `column`, `row` are pixel edges, fractions allowed: (0, 0) is the image's upper left corner;
    NaN where they are the middle of an image that cannot be opened.
    """

    path: Path
    metres_per_pixel: float
    column: float
    row: float


@dataclass(frozen=True)
class Pair:
    """A street panorama and the aerial view of the same place.

    `geometry` None, or its north: read from the panorama's own metadata. `position` None: unknown.
    `tile`: id of the reference that shows the place, where not the pair's own (empty: the same id).
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


def read_chip(view: AerialView, size_m: float, pixels: int, fill: tuple[int, int, int]) -> Rgb:
    """`size_m` metres of ground around the place as uint8 (pixels, pixels, 3), area-averaged.

    Ground outside the image is `fill`.

    Raises:
        PairError: the place lies outside the image.
    """
    return _cut(_aerial_image(view.path), view, size_m, pixels, fill)


def _cut(
    image: Rgb, view: AerialView, size_m: float, pixels: int, fill: tuple[int, int, int]
) -> Rgb:
    if not math.isfinite(view.column + view.row):
        raise PairError(f"where the place lies in {view.path} is unknown")
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
    chip = filled(pixels, pixels, fill)
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
        raise PairError(f"{path} cannot be read: {error.__cause__ or error}") from error
    return np.ascontiguousarray(np.moveaxis(bands, 0, -1))


@dataclass(frozen=True)
class Arrays:
    """Pairs as arrays, one row each.

    strips: uint8 (N, h, w, 3). norths: float64 (N,), fraction of the turn. chips: uint8
    (N, P, P, 3), the footprint plus `margin` pixels on every side at the input's resolution.
    positions: float64 (N, 3), earth-centred metres, NaN where unknown. tiles: int64 (N,), the row
    of the first pair of the same tile; None: every pair has a tile of its own.
    """

    strips: np.ndarray
    norths: np.ndarray
    chips: np.ndarray
    positions: np.ndarray
    margin: int
    tiles: np.ndarray | None = None

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
    cache: Path | None = None,
    memory_share: float = MEMORY_SHARE,
) -> Arrays:
    """Decode and resample every pair once; `advance` is called for each.

    Args:
        skip_share: up to this share of the pairs may be unreadable and is left out, logged by
            name. 0, because row i is then pair i, which measuring relies on.
        cache: folder for the arrays where they would fill more than `memory_share` of the memory
            available, in a file without a name that is gone with the process. Each process of a
            `torchrun` has its own. None: memory, whatever the size.

    Raises:
        PairError: more pairs cannot be read; says how many, and names the first. Or `cache` has
            not the room; nothing was decoded then.
    """
    preprocessing = config.preprocessing
    margin = margin_pixels(config, offset_m)
    side = preprocessing.input_size + 2 * margin
    size_m = config.aerial_footprint_m * side / preprocessing.input_size
    count = len(pairs)
    strips, chips = _room(
        [(count, *preprocessing.strip_size, 3), (count, side, side, 3)], cache, memory_share
    )
    norths, positions = np.empty(count, np.float64), np.full((count, 3), np.nan)
    arrays = Arrays(strips, norths, chips, positions, margin, _tile_numbers(pairs))
    shown = np.full((count, 2), np.nan)
    failures: dict[int, str] = {}

    def read(index: int) -> None:
        pair = pairs[index]
        try:
            strips[index], norths[index] = read_strip(pair, preprocessing)
            image = _aerial_image(pair.aerial.path)
            chips[index] = _cut(image, pair.aerial, size_m, side, preprocessing.fill)
            shown[index] = _shown(image, pair.aerial, config.aerial_footprint_m)
        except (SkyfixError, OSError) as error:
            failures[index] = f"{pair.id}: {error}"
        if pair.position is not None:
            positions[index] = earth_centred(pair.position)
        advance()

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(read, range(count)))
    if failures:
        arrays = _without(arrays, pairs, failures, skip_share)
    _tell_fill(shown[np.isfinite(shown[:, 0])], config.aerial_footprint_m)
    return arrays


def _room(
    shapes: Sequence[tuple[int, ...]], cache: Path | None, memory_share: float
) -> list[np.ndarray]:
    """uint8 arrays of these shapes, in memory or in `cache`. Raises PairError."""
    size = sum(map(math.prod, shapes))
    # As if all processes of a torchrun ran on this machine.
    if cache is None or size * processes.count() <= memory_share * _available_memory():
        return [np.empty(shape, np.uint8) for shape in shapes]
    free = shutil.disk_usage(next(one for one in (cache, *cache.parents) if one.exists())).free
    full = PairError(
        f"the pairs take {size / 1e9:.1f} GB, too much for the memory, and the disk of {cache} has "
        f"only {free / 1e9:.1f} GB free: give a --cache on another disk, or fewer pairs"
    )
    if size > free:
        raise full
    cache.mkdir(parents=True, exist_ok=True)
    try:
        arrays = [_in_file(shape, cache) for shape in shapes]
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise full from error
    log.info("%.1f GB of pairs lie in a file in %s, too large for the memory", size / 1e9, cache)
    return arrays


def _in_file(shape: tuple[int, ...], folder: Path) -> np.ndarray:
    with TemporaryFile(dir=folder) as file:
        # Taken now: a write into a mapped file on a disk that is full ends the process.
        os.posix_fallocate(file.fileno(), 0, math.prod(shape))
        return np.asarray(np.memmap(file, np.uint8, "r+", shape=shape))


def _available_memory() -> float:
    """Bytes, within a container's limit; infinite where the system does not say (not Linux)."""
    known = [math.inf]
    system, container = Path("/proc/meminfo"), Path("/sys/fs/cgroup/memory.max")
    if system.is_file() and (found := re.search(r"MemAvailable: *(\d+) kB", system.read_text())):
        known.append(1024.0 * int(found[1]))
    if container.is_file() and (limit := container.read_text().strip()).isdigit():
        known.append(float(limit))
    return min(known)


def _tile_numbers(pairs: Sequence[Pair]) -> np.ndarray:
    """The row of the first pair of the same tile, int64: row i where every tile is another."""
    first: dict[str, int] = {}
    numbers = [first.setdefault(pair.tile_id, row) for row, pair in enumerate(pairs)]
    return np.array(numbers, np.int64)


def _shown(image: Rgb, view: AerialView, footprint_m: float) -> tuple[float, float]:
    """The share of the footprint that the image shows, and the width in metres of the largest
    square around the place that it shows whole."""
    height, width = image.shape[:2]
    row, column = view.row, view.column
    to_edges = np.array([column, width - column, row, height - row]) * view.metres_per_pixel
    left, right, up, down = to_edges.clip(-footprint_m / 2, footprint_m / 2)
    return (left + right) * (up + down) / footprint_m**2, 2.0 * to_edges.min()


def _tell_fill(shown: np.ndarray, footprint_m: float) -> None:
    """Warn of a footprint that the tiles do not fill; shown: (N, 2) of `_shown`."""
    if not len(shown) or (fill := 1.0 - shown[:, 0].mean()) <= FILL_SHARE:
        return
    width_m = math.floor(np.median(shown[:, 1]))
    remedy = f"; consider --set encoder.aerial_footprint_m={width_m}, as wide as the tiles show"
    log.warning(
        "%.0f %% of the aerial views is fill: the footprint of %g m reaches beyond the tiles%s",
        100.0 * fill, footprint_m, remedy if 0 < width_m < footprint_m else "",
    )  # fmt: skip


def _without(
    arrays: Arrays, pairs: Sequence[Pair], failures: dict[int, str], share: float
) -> Arrays:
    """The arrays less the failed rows, moved up in place: they can fill half the memory."""
    count = len(arrays)
    first = failures[min(failures)]
    if len(failures) > share * count:
        limit = f", more than the {share:.0%} that may be left out" if share else ""
        raise PairError(f"{len(failures)} of {count} pairs cannot be read{limit}; first: {first}")
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
    tiles = _tile_numbers([pairs[index] for index in kept])
    return Arrays(strips, norths, chips, positions, arrays.margin, tiles)

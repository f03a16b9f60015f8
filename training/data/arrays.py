"""Pairs read into arrays, in memory or in a file.

Nothing is augmented yet: a strip holds the whole band, and a chip more ground than the footprint,
so that offsets and rotations stay possible.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import re
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np

from model.checkpoint import EncoderConfig
from model.errors import SkyfixError
from model.geo import earth_centred
from model.images import Rgb
from training import distributed
from training.data.pairs import AerialPoint, Pair, PairError, cut_chip, read_aerial, read_strip
from training.progress import progress_bar

SKIP_SHARE = 0.01  # of the training pairs may be unreadable; they are left out by name
MEMORY_SHARE = 0.4  # of the available memory may hold the pairs of one call
FILL_SHARE = 0.05  # of the aerial views may be fill without a warning

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Arrays:
    """Pairs as arrays, one row each.

    strips: uint8 (N, h, w, 3). norths: float64 (N,), fractions of the width. chips: uint8
    (N, P, P, 3), the footprint plus `margin` pixels on every side at the input's resolution.
    positions: float64 (N, 3), earth-centred metres, NaN if unknown. tiles: int64 (N,), the row of
    the first pair of the same tile; None: every pair has a tile of its own.
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
    skip_share: float = 0.0,
    cache: Path | None = None,
    memory_share: float = MEMORY_SHARE,
) -> Arrays:
    """Decode and resample every pair once, with a progress bar.

    Args:
        skip_share: up to this share of the pairs may be unreadable; they are left out and logged.
            Evaluations use 0, so that row i is pair i.
        cache: folder for arrays that would fill more than `memory_share` of the available memory.
            They lie in a file without a name, which vanishes with the process; each process of a
            `torchrun` has its own. None: memory, whatever the size.

    Raises:
        PairError: more pairs cannot be read; the message counts them and names the first. Or
            `cache` lacks the room; nothing was decoded then.
    """
    preprocessing = config.preprocessing
    margin = margin_pixels(config, offset_m)
    side = preprocessing.input_size + 2 * margin
    size_m = config.aerial_footprint_m * side / preprocessing.input_size
    count = len(pairs)
    strips, chips = _allocate(
        [(count, *preprocessing.strip_size, 3), (count, side, side, 3)], cache, memory_share
    )
    norths = np.empty(count, np.float64)
    arrays = Arrays(strips, norths, chips, _positions(pairs), margin, _tile_numbers(pairs))
    shown = np.full((count, 2), np.nan)
    failures: dict[int, str] = {}

    def read(index: int) -> None:
        pair = pairs[index]
        try:
            strips[index], norths[index] = read_strip(pair, preprocessing)
            image = read_aerial(pair.aerial.path)
            chips[index] = cut_chip(image, pair.aerial, size_m, side, preprocessing.fill)
            shown[index] = _shown(image, pair.aerial, config.aerial_footprint_m)
        except (SkyfixError, OSError) as error:
            failures[index] = f"{pair.id}: {error}"
        advance()

    with ThreadPoolExecutor(workers) as pool, progress_bar("reading pairs", count) as advance:
        list(pool.map(read, range(count)))
    if failures:
        arrays = _without(arrays, pairs, failures, skip_share)
    _warn_of_fill(shown[np.isfinite(shown[:, 0])], config.aerial_footprint_m)
    return arrays


def _allocate(
    shapes: Sequence[tuple[int, ...]], cache: Path | None, memory_share: float
) -> list[np.ndarray]:
    """uint8 arrays of these shapes, in memory or in `cache`. Raises PairError."""
    size = sum(map(math.prod, shapes))
    # As if all processes of a torchrun ran on this machine.
    if cache is None or size * distributed.process_count() <= memory_share * _available_memory():
        return [np.empty(shape, np.uint8) for shape in shapes]
    existing = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
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
        # Reserve the room now: a write into a mapped file on a full disk kills the process.
        os.posix_fallocate(file.fileno(), 0, math.prod(shape))
        return np.asarray(np.memmap(file, np.uint8, "r+", shape=shape))


def _available_memory() -> float:
    """Bytes, within a container's limit; infinite if the system states none (not Linux)."""
    known = [math.inf]
    system, container = Path("/proc/meminfo"), Path("/sys/fs/cgroup/memory.max")
    if system.is_file() and (found := re.search(r"MemAvailable: *(\d+) kB", system.read_text())):
        known.append(1024.0 * int(found[1]))
    if container.is_file() and (limit := container.read_text().strip()).isdigit():
        known.append(float(limit))
    return min(known)


def _positions(pairs: Sequence[Pair]) -> np.ndarray:
    unknown = (math.nan,) * 3
    known = [earth_centred(pair.position) if pair.position else unknown for pair in pairs]
    return np.array(known, np.float64).reshape(-1, 3)


def _tile_numbers(pairs: Sequence[Pair]) -> np.ndarray:
    """int64 (N,): the row of the first pair of the same tile."""
    first: dict[str, int] = {}
    numbers = [first.setdefault(pair.tile_id, row) for row, pair in enumerate(pairs)]
    return np.array(numbers, np.int64)


def _shown(image: Rgb, point: AerialPoint, footprint_m: float) -> tuple[float, float]:
    """The share of the footprint that the image shows, and the width in metres of the largest
    square around the point that the image shows completely."""
    height, width = image.shape[:2]
    row, column = point.row, point.column
    to_edges = np.array([column, width - column, row, height - row]) * point.metres_per_pixel
    left, right, up, down = to_edges.clip(-footprint_m / 2, footprint_m / 2)
    return (left + right) * (up + down) / footprint_m**2, 2.0 * to_edges.min()


def _warn_of_fill(shown: np.ndarray, footprint_m: float) -> None:
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
    arrays: Arrays, pairs: Sequence[Pair], failures: dict[int, str], skip_share: float
) -> Arrays:
    """The arrays less the failed rows, moved up in place: a copy may not fit in memory."""
    count = len(arrays)
    first = failures[min(failures)]
    if len(failures) > skip_share * count:
        limit = f", more than the {skip_share:.0%} that may be left out" if skip_share else ""
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

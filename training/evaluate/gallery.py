"""Galleries: tiles as descriptors, and the right tiles of each street.

Images are read and encoded a few at a time: only descriptors and positions stay in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from model.encoder import Encoder
from model.geo import LatLon, earth_centred
from model.images import Rgb
from training.data.pairs import AerialPoint, GalleryTile, Pair, raster_size, read_chip
from training.evaluate.recall import EvaluationError
from training.progress import progress_bar

CHUNK = 64  # images in memory at a time, and as many being read

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Gallery:
    """N tiles for Nq streets.

    Attributes:
        descriptors: float32 (N, D).
        tiles_at, streets_at: metres, (N, 2) and (Nq, 2) on one plane or (N, 3) and (Nq, 3)
            earth-centred; None if a position is unknown.
        right: int64 (Nq, M), the tiles that a search should find, padded with -1; None if only
            metres decide.
        ignored: int64 (Nq, M), tiles that the hit rate does not count, padded with -1.
    """

    descriptors: NDArray[np.float32]
    tiles_at: NDArray[np.float64] | None
    streets_at: NDArray[np.float64] | None
    right: NDArray[np.int64] | None = None
    ignored: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.descriptors)


def own_tiles(encoder: Encoder, pairs: Sequence[Pair]) -> Gallery:
    """A tile around each panorama, which is its right tile.

    Panoramas at the same point of the same tile share it: two copies would tie.
    """
    gallery_tiles: dict[tuple[str, AerialPoint], GalleryTile] = {}
    for pair in pairs:
        own = GalleryTile(pair.tile_id, pair.aerial, pair.position)
        gallery_tiles.setdefault((pair.tile_id, pair.aerial), own)
    row = {key: number for number, key in enumerate(gallery_tiles)}
    gallery = _encoded(encoder, list(gallery_tiles.values()), pairs)
    return replace(gallery, right=np.array([[row[pair.tile_id, pair.aerial]] for pair in pairs]))


def tiles_within(gallery: Gallery, radius_m: float) -> Gallery:
    """The same tiles; all within `radius_m` of the street are right.

    Raises:
        EvaluationError: a position is unknown.
    """
    if gallery.tiles_at is None or gallery.streets_at is None:
        raise EvaluationError(f"tiles within {radius_m:g} m: a pair has no position")
    found = cKDTree(gallery.tiles_at).query_ball_point(gallery.streets_at, radius_m)
    return replace(gallery, right=_padded(found))


def dataset_tiles(
    encoder: Encoder, pairs: Sequence[Pair], gallery_tiles: Sequence[GalleryTile]
) -> Gallery:
    """The dataset's own tiles, even without a query; semi-positives are ignored.

    Raises:
        EvaluationError: a pair's tile is not among them.
    """
    row = {tile.id: number for number, tile in enumerate(gallery_tiles)}
    lost = [pair for pair in pairs if pair.tile_id not in row]
    if lost:
        raise EvaluationError(
            f"tile {lost[0].tile_id!r} of pair {lost[0].id!r} is not among the "
            f"{len(gallery_tiles)} tiles of the gallery ({len(lost)} such pairs)"
        )
    return replace(
        _encoded(encoder, gallery_tiles, pairs),
        right=np.array([[row[pair.tile_id]] for pair in pairs]),
        ignored=_padded([[row.get(tile, -1) for tile in pair.semi_positives] for pair in pairs]),
    )


def overlapping_tiles(encoder: Encoder, pairs: Sequence[Pair], stride_m: float) -> Gallery:
    """A lattice of tiles over the raster that all pairs share; streets are anywhere in it.

    Raises:
        EvaluationError: the pairs do not share one raster.
    """
    rasters = {pair.aerial.path for pair in pairs}
    if len(rasters) != 1:
        raise EvaluationError(f"the grid protocol needs one raster, not {len(rasters)}")
    points = lattice(pairs[0].aerial, encoder.aerial_footprint_m, stride_m)
    if not points:
        raise EvaluationError(
            f"{pairs[0].aerial.path} is narrower than one tile of {encoder.aerial_footprint_m:g} m"
        )
    return Gallery(
        _encode_tiles(encoder, points), _plane(points), _plane([pair.aerial for pair in pairs])
    )


def lattice(point: AerialPoint, footprint_m: float, stride_m: float) -> list[AerialPoint]:
    """Tile centres every `stride_m` over the point's raster, whole tiles only, row by row."""
    height, width = raster_size(point.path)
    half, step = (metres / point.metres_per_pixel for metres in (footprint_m / 2, stride_m))
    return [
        replace(point, column=float(column), row=float(row))
        for row in np.arange(half, height - half + 1e-6, step)
        for column in np.arange(half, width - half + 1e-6, step)
    ]


def read_in_chunks(
    items: Sequence[T], read: Callable[[T], R], shown: str, *, size: int = CHUNK
) -> Iterator[list[R]]:
    """`read` of every item, `size` at a time; threads read the next chunk meanwhile.

    A progress bar with the text `shown` counts the items of used chunks.
    """
    upcoming: list[Future[R]] = []
    with ThreadPoolExecutor(2) as pool, progress_bar(shown, len(items)) as advance:
        for start in range(0, len(items) + size, size):
            current = upcoming
            upcoming = [pool.submit(read, item) for item in items[start : start + size]]
            if current:
                yield [future.result() for future in current]
                advance(len(current))


def _encoded(
    encoder: Encoder, gallery_tiles: Sequence[GalleryTile], pairs: Sequence[Pair]
) -> Gallery:
    return Gallery(
        _encode_tiles(encoder, [tile.aerial for tile in gallery_tiles]),
        _positions([tile.position for tile in gallery_tiles]),
        _positions([pair.position for pair in pairs]),
    )


def _encode_tiles(encoder: Encoder, points: Sequence[AerialPoint]) -> NDArray[np.float32]:
    preprocessing = encoder.config.preprocessing

    def read(point: AerialPoint) -> Rgb:
        size_m, side = encoder.aerial_footprint_m, preprocessing.input_size
        return read_chip(point, size_m, side, preprocessing.fill)

    chunks = read_in_chunks(points, read, "encoding tiles")
    return np.concatenate([encoder.encode_aerials(chips) for chips in chunks])


def _positions(positions: Sequence[LatLon | None]) -> NDArray[np.float64] | None:
    known = [earth_centred(position) for position in positions if position is not None]
    return np.array(known) if len(known) == len(positions) else None


def _plane(points: Sequence[AerialPoint]) -> NDArray[np.float64]:
    return np.array([[point.column, -point.row] for point in points]) * points[0].metres_per_pixel


def _padded(rows: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """Rows of different lengths as one array, padded with -1."""
    width = max(map(len, rows), default=0)
    return np.array([[*row, *[-1] * (width - len(row))] for row in rows], np.int64)

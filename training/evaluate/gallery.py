"""What a query is searched in: reference tiles as descriptors, and which of them are right.

Pictures are read and encoded a few at a time: only descriptors and positions stay in memory.
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
from training.data.pairs import AerialView, Pair, Reference, raster_size, read_chip
from training.evaluate.recall import EvaluationError
from training.progress import bar

CHUNK = 64  # pictures in memory at a time, and as many being read

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Gallery:
    """N tiles for Nq streets.

    Attributes:
        descriptors: float32 (N, D).
        tiles_at, streets_at: metres, (N, 2) and (Nq, 2) on one plane or (N, 3) and (Nq, 3)
            earth-centred; None where a position is unknown.
        right: int64 (Nq, M), the tiles that a search should find, -1 for none; None where
            nothing but metres says what is right.
        ignored: int64 (Nq, M), tiles that do not count in the hit rate, -1 for none.
    """

    descriptors: NDArray[np.float32]
    tiles_at: NDArray[np.float64] | None
    streets_at: NDArray[np.float64] | None
    right: NDArray[np.int64] | None = None
    ignored: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.descriptors)


def own_tiles(encoder: Encoder, pairs: Sequence[Pair]) -> Gallery:
    """One tile around each panorama, which is its right one.

    Panoramas at the same place of the same tile share it: two copies would tie.
    """
    references: dict[tuple[str, AerialView], Reference] = {}
    for pair in pairs:
        own = Reference(pair.tile_id, pair.aerial, pair.position)
        references.setdefault((pair.tile_id, pair.aerial), own)
    row = {key: number for number, key in enumerate(references)}
    gallery = _encoded(encoder, list(references.values()), pairs)
    return replace(gallery, right=np.array([[row[pair.tile_id, pair.aerial]] for pair in pairs]))


def tiles_within(gallery: Gallery, radius_m: float) -> Gallery:
    """The same tiles; right is each within `radius_m` of the street.

    Raises:
        EvaluationError: a position is unknown.
    """
    if gallery.tiles_at is None or gallery.streets_at is None:
        raise EvaluationError(f"tiles within {radius_m:g} m: a pair has no position")
    found = cKDTree(gallery.tiles_at).query_ball_point(gallery.streets_at, radius_m)
    return replace(gallery, right=_padded(found))


def dataset_tiles(
    encoder: Encoder, pairs: Sequence[Pair], references: Sequence[Reference]
) -> Gallery:
    """The dataset's own references, those without a query too; semi-positives are ignored.

    Raises:
        EvaluationError: a pair's tile is not among them.
    """
    row = {one.id: i for i, one in enumerate(references)}
    lost = [pair for pair in pairs if pair.tile_id not in row]
    if lost:
        raise EvaluationError(
            f"tile {lost[0].tile_id!r} of pair {lost[0].id!r} is not among the "
            f"{len(references)} references ({len(lost)} such pairs)"
        )
    return replace(
        _encoded(encoder, references, pairs),
        right=np.array([[row[pair.tile_id]] for pair in pairs]),
        ignored=_padded([[row.get(one, -1) for one in pair.semi_positives] for pair in pairs]),
    )


def overlapping_tiles(encoder: Encoder, pairs: Sequence[Pair], stride_m: float) -> Gallery:
    """A lattice of tiles over the pairs' one raster; the panoramas stand anywhere among them.

    Raises:
        EvaluationError: the pairs do not share one raster.
    """
    rasters = {pair.aerial.path for pair in pairs}
    if len(rasters) != 1:
        raise EvaluationError(f"the grid protocol needs one raster, not {len(rasters)}")
    views = lattice(pairs[0].aerial, encoder.aerial_footprint_m, stride_m)
    if not views:
        raise EvaluationError(
            f"{pairs[0].aerial.path} is narrower than one tile of {encoder.aerial_footprint_m:g} m"
        )
    return Gallery(
        _encode_tiles(encoder, views), _plane(views), _plane([pair.aerial for pair in pairs])
    )


def lattice(view: AerialView, footprint_m: float, stride_m: float) -> list[AerialView]:
    """Tile centres every `stride_m` over the view's raster, whole tiles only, row by row."""
    height, width = raster_size(view.path)
    half, step = (metres / view.metres_per_pixel for metres in (footprint_m / 2, stride_m))
    return [
        replace(view, column=float(column), row=float(row))
        for row in np.arange(half, height - half + 1e-6, step)
        for column in np.arange(half, width - half + 1e-6, step)
    ]


def in_chunks(
    items: Sequence[T], read: Callable[[T], R], *, size: int = CHUNK, workers: int = 2
) -> Iterator[list[R]]:
    """`read` of every item, `size` at a time, the next ones being read meanwhile."""
    upcoming: list[Future[R]] = []
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(items), size):
            current, upcoming = (
                upcoming,
                [pool.submit(read, one) for one in items[start : start + size]],
            )
            if current:
                yield [one.result() for one in current]
        yield [one.result() for one in upcoming]


def _encoded(encoder: Encoder, references: Sequence[Reference], pairs: Sequence[Pair]) -> Gallery:
    return Gallery(
        _encode_tiles(encoder, [one.aerial for one in references]),
        _positions([one.position for one in references]),
        _positions([pair.position for pair in pairs]),
    )


def _encode_tiles(encoder: Encoder, views: Sequence[AerialView]) -> NDArray[np.float32]:
    preprocessing = encoder.config.preprocessing

    def read(view: AerialView) -> Rgb:
        size_m, side = encoder.aerial_footprint_m, preprocessing.input_size
        return read_chip(view, size_m, side, preprocessing.fill)

    described = []
    with bar("encoding tiles", len(views)) as advance:
        for chips in in_chunks(views, read):
            described.append(encoder.encode_aerials(chips))
            for _ in chips:
                advance()
    return np.concatenate(described)


def _positions(places: Sequence[LatLon | None]) -> NDArray[np.float64] | None:
    known = [earth_centred(one) for one in places if one is not None]
    return np.array(known) if len(known) == len(places) else None


def _plane(views: Sequence[AerialView]) -> NDArray[np.float64]:
    return np.array([[one.column, -one.row] for one in views]) * views[0].metres_per_pixel


def _padded(rows: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """Rows of different lengths as one array, filled up with -1."""
    width = max(map(len, rows), default=0)
    return np.array([[*row, *[-1] * (width - len(row))] for row in rows], np.int64)

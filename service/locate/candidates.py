"""The nearest tiles of panoramas, for which several headings may have been tried."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.heading_estimate import Rolls
from service.locate.hints import DEFAULT_RADIUS_M, Hints

if TYPE_CHECKING:
    from service.index.search import TileIndex

Descriptors = NDArray[np.float32]
Mask = NDArray[np.bool_]


class Search(NamedTuple):
    """One panorama's search.

    rolls: the R headings that are tried.
    descriptors: (R, D), one for each heading.
    depth: how many tiles to find.
    allowed: rows that may be found; None: all.
    """

    rolls: Rolls
    descriptors: Descriptors
    depth: int
    allowed: Mask | None


@dataclass(frozen=True)
class Candidates:
    """The nearest rows of one panorama, best first, each once.

    headings_deg: heading of the centre column for each row: the best between the rolls.
    """

    rows: list[int]
    distances: list[float]
    headings_deg: list[float]


def allowed_rows(index: TileIndex, hints: Hints) -> Mask | None:
    """Rows that the place hints allow; None when nothing is restricted."""
    masks = []
    if hints.near is not None:
        masks.append(index.tiles.within(hints.near, hints.radius_m or DEFAULT_RADIUS_M))
    if hints.bbox is not None:
        masks.append(index.tiles.in_bbox(hints.bbox))
    return np.logical_and.reduce(masks) if masks else None


def find_candidates(index: TileIndex, searches: Sequence[Search]) -> list[Candidates]:
    """One search for all unrestricted panoramas together, one for each restricted one."""
    free = [number for number, search in enumerate(searches) if search.allowed is None]
    restricted = [[n] for n, search in enumerate(searches) if search.allowed is not None]
    found: dict[int, Candidates] = {}
    for group in [free, *restricted] if free else restricted:
        blocks = [searches[number].descriptors for number in group]
        depth = max(searches[number].depth for number in group)
        allowed = searches[group[0]].allowed
        distances, rows = index.search(np.concatenate(blocks), depth, allowed)
        ends = np.cumsum([len(block) for block in blocks])[:-1]
        parts = zip(group, np.split(distances, ends), np.split(rows, ends), strict=True)
        for number, own_distances, own_rows in parts:
            found[number] = _best_per_tile(own_distances, own_rows, searches[number], index.vectors)
    return [found[number] for number in range(len(searches))]


def _best_per_tile(
    distances: NDArray[np.float32], rows: NDArray[np.int64], search: Search, tiles: Descriptors
) -> Candidates:
    """Merge the rolls of one panorama: each tile once, at its best roll.

    distances, rows: (R, k). tiles: all descriptors. Exact for the nearest tiles: a tile among the
    best k over all rolls is among the best k of its own best roll.
    """
    order = np.argsort(distances, axis=None, kind="stable")
    _, first = np.unique(rows.reshape(-1)[order], return_index=True)
    kept = order[np.sort(first)[: search.depth]]
    nearest = rows.reshape(-1)[kept]
    headings = [search.rolls.first_deg] * len(nearest)
    if search.rolls.count > 1:
        # For unit vectors, up to a constant. Not by @: the threads of OpenBLAS look for work
        # busily after a product, and took 18 ms of the cores for 1 (docs/decisions.md).
        squared = -2.0 * np.einsum("td,rd->tr", tiles[nearest], search.descriptors)
        best = kept // max(rows.shape[1], 1)
        headings = search.rolls.heading_between(squared, best).tolist()
    return Candidates(nearest.tolist(), distances.reshape(-1)[kept].tolist(), headings)

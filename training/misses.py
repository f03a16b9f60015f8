"""Which streets do not find their own tile first among the tiles of all pairs, and by how much."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.encoder import Encoder
from training.pairs import Arrays
from training.protocols import centred_tiles

CLOSE = 0.02  # of cosine


class Search(NamedTuple):
    """Every street searched among the tiles of all pairs.

    street, aerial: float32 (N, D), unit length. tiles: int64 (N,), the row of the first pair of
    the same tile. positions: float64 (N, 3), metres, NaN where unknown.
    """

    street: NDArray[np.float32]
    aerial: NDArray[np.float32]
    tiles: NDArray[np.int64]
    positions: NDArray[np.float64]

    @classmethod
    def of(cls, encoder: Encoder, arrays: Arrays) -> Search:
        street = encoder.encode_strips(list(arrays.strips), list(arrays.norths))
        aerial = encoder.encode_aerials(list(centred_tiles(arrays)))
        tiles = np.arange(len(arrays)) if arrays.tiles is None else arrays.tiles
        return cls(street, aerial, tiles, arrays.positions)

    def best(self, row: int, count: int) -> NDArray[np.int64]:
        """The nearest tiles of a street, each once, as rows."""
        distinct = np.unique(self.tiles)
        nearest = np.argsort(-(self.aerial[distinct] @ self.street[row]), kind="stable")
        return distinct[nearest[:count]]

    def cosine(self, row: int, tile: int) -> float:
        return float(self.aerial[tile] @ self.street[row])

    def metres(self, row: int, tile: int) -> float:
        """Between a street and another's, whose tile it is; NaN where one is unknown."""
        return float(np.linalg.norm(self.positions[tile] - self.positions[row]))


class Miss(NamedTuple):
    """A street whose own tile is not found first.

    rank: of its own tile, at least 2. lost_by: cosine that the tile found first is nearer.
    metres: from the street to that tile's; NaN where unknown.
    """

    row: int
    rank: int
    lost_by: float
    metres: float


def missed(search: Search) -> list[Miss]:
    """Those that lost by most come first."""
    misses = []
    for row, own in enumerate(search.tiles):
        order = search.best(row, len(search.tiles))
        if order[0] != own:
            lost_by = search.cosine(row, order[0]) - search.cosine(row, own)
            rank = int(np.flatnonzero(order == own)[0]) + 1
            misses.append(Miss(row, rank, lost_by, search.metres(row, order[0])))
    return sorted(misses, key=lambda miss: -miss.lost_by)


def told(misses: Sequence[Miss], count: int) -> str:
    """In a line, of so many streets."""
    second = sum(miss.rank == 2 for miss in misses)
    close = sum(miss.lost_by < CLOSE for miss in misses)
    near, same = (sum(miss.metres <= metres for miss in misses) for metres in (25.0, 64.0))
    return (
        f"{len(misses)} of {count} are not first: {second} second, {close} lost by less than "
        f"{CLOSE} of cosine; what was found first is within 25 m of {near}, within 64 m of {same}"
    )

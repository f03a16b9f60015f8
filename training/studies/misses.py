"""Which streets do not find their own tile first among the tiles of all pairs, and by how much."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from training.evaluate.protocols import Search
from training.evaluate.recall import ranks

CLOSE = 0.02  # of cosine


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
    """Those that lost by most come first. As in recall, a tie counts against the street."""
    misses = []
    rank = ranks(search.street, search.aerial, search.right)
    for row in np.flatnonzero(rank).tolist():
        own = search.right[row]
        first = next(tile for tile in search.best(row, 2) if tile != own)
        lost_by = search.cosine(row, first) - search.cosine(row, own)
        misses.append(Miss(row, int(rank[row]) + 1, lost_by, search.metres(row, first)))
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

"""Which streets do not find their own tile first among the tiles of all pairs, and by how much."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from training.evaluate.encoded_pairs import EncodedPairs
from training.evaluate.recall import ranks

CLOSE = 0.02  # of cosine


class Miss(NamedTuple):
    """A street that finds another tile first.

    rank: of its own tile, at least 2. lost_by: cosine by which the first tile is nearer. metres:
    from the street to the first tile's street; NaN if unknown.
    """

    row: int
    rank: int
    lost_by: float
    metres: float


def missed(encoded: EncodedPairs) -> list[Miss]:
    """The misses, the largest loss first. As in recall, a tie counts against the street."""
    misses = []
    rank = ranks(encoded.street, encoded.aerial, encoded.right)
    for row in np.flatnonzero(rank).tolist():
        own = encoded.right[row]
        first = next(tile for tile in encoded.best(row, 2) if tile != own)
        lost_by = encoded.cosine(row, first) - encoded.cosine(row, own)
        misses.append(Miss(row, int(rank[row]) + 1, lost_by, encoded.metres(row, first)))
    return sorted(misses, key=lambda miss: -miss.lost_by)


def summary(misses: Sequence[Miss], count: int) -> str:
    """The misses among `count` streets, in a line."""
    second = sum(miss.rank == 2 for miss in misses)
    close = sum(miss.lost_by < CLOSE for miss in misses)
    within_25, within_64 = (sum(miss.metres <= metres for miss in misses) for metres in (25, 64))
    return (
        f"{len(misses)} of {count} are not first: {second} second, {close} lost by less than "
        f"{CLOSE} of cosine; the first tile is within 25 m for {within_25}, within 64 m for "
        f"{within_64}"
    )

"""Pairs in memory as descriptors: what a training run, the figures and the misses search."""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.encoder import Encoder
from training.data.arrays import Arrays
from training.evaluate.recall import nearest, recall_at, recall_depths, recall_within


class EncodedPairs(NamedTuple):
    """The streets of pairs, and all their tiles, each once.

    street: float32 (N, D). aerial: float32 (M, D). Both have unit rows. rows: int64 (M,), a pair
    that shows the tile. right: int64 (N,), each street's own tile. positions: float64 (N, 3),
    metres, NaN if unknown.
    """

    street: NDArray[np.float32]
    aerial: NDArray[np.float32]
    rows: NDArray[np.int64]
    right: NDArray[np.int64]
    positions: NDArray[np.float64]

    def best(self, row: int, count: int) -> NDArray[np.int64]:
        """The nearest tiles of a street, nearest first."""
        nearest_first = np.argsort(-(self.aerial @ self.street[row]), kind="stable")
        return nearest_first[:count]

    def cosine(self, row: int, tile: int) -> float:
        """Cosine similarity of a street and a tile."""
        return float(self.aerial[tile] @ self.street[row])

    def metres(self, row: int, tile: int) -> float:
        """Distance from a street to a street that shows the tile; NaN if either is unknown."""
        return float(np.linalg.norm(self.positions[self.rows[tile]] - self.positions[row]))


def encode_pairs(encoder: Encoder, arrays: Arrays) -> EncodedPairs:
    """Encode the streets and the distinct tiles of pairs."""
    street = encoder.encode_strips(list(arrays.strips), list(arrays.norths))
    rows, right = _distinct_chips(arrays)
    tiles = centred_tiles(arrays)
    aerial = encoder.encode_aerials([tiles[row] for row in rows])
    return EncodedPairs(street, aerial, rows, right, arrays.positions)


def _distinct_chips(arrays: Arrays) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of chips, without copies of the same tile, (M,); and each street's index into them."""
    if arrays.tiles is None or len(np.unique(arrays.tiles)) == len(arrays):
        return np.arange(len(arrays)), np.arange(len(arrays))
    keys = [
        (tile, hashlib.sha256(chip.tobytes()).digest())
        for tile, chip in zip(arrays.tiles.tolist(), arrays.chips, strict=True)
    ]
    first = {key: row for row, key in reversed(list(enumerate(keys)))}
    rows = np.array(sorted(first.values()))
    return rows, np.searchsorted(rows, [first[key] for key in keys])


def centred_tiles(arrays: Arrays) -> NDArray[np.uint8]:
    """The chips without their margin: (N, S, S, 3)."""
    end = arrays.chips.shape[1] - arrays.margin
    return arrays.chips[:, arrays.margin : end, arrays.margin : end]


def measure_centre(encoder: Encoder, arrays: Arrays) -> dict[str, Any]:
    """The "centre" protocol on pairs in memory, by which a training run measures itself."""
    encoded = encode_pairs(encoder, arrays)
    street, aerial = encoded.street, encoded.aerial
    metrics: dict[str, Any] = dict(recall_at(street, aerial, encoded.right))
    if np.isfinite(encoded.positions).all():
        found = encoded.positions[encoded.rows[nearest(street, aerial)]]
        metrics |= recall_within(found, encoded.positions)
    return metrics | {"N": len(aerial), "K": recall_depths(len(aerial))["1%"]}

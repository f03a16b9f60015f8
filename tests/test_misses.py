"""Descriptors on the unit circle: the nearest tile is known without computing."""

import math

import numpy as np
import pytest

from training.evaluate.encoded_pairs import EncodedPairs
from training.evaluate.recall import recall_at
from training.studies.misses import Miss, missed, summary


def directions(*degrees):
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)


def test_the_largest_misses_come_first():
    positions = np.array([[0.0, 0, 0], [30, 0, 0], [100, 0, 0], [0, 400, 0]])
    # Street 1 is nearest to tile 0 and farthest from its own; street 3 to tile 2, then its own.
    encoded = EncodedPairs(
        directions(0, 10, 40, 45), directions(0, 80, 40, 60), np.arange(4), np.arange(4), positions
    )
    first, second = missed(encoded)
    assert (first.row, first.rank) == (1, 4)
    assert first.lost_by == pytest.approx(
        math.cos(math.radians(10)) - math.cos(math.radians(70)), abs=1e-6
    )
    assert first.metres == 30
    assert (second.row, second.rank) == (3, 2)
    assert second.metres == pytest.approx(math.hypot(100, 400))


def test_streets_of_one_tile_are_not_misses_of_each_other():
    """Row 1 shows the tile of row 0, so the tile's copy in row 1 is not a rival."""
    encoded = EncodedPairs(
        directions(0, 5), directions(0), np.array([0]), np.array([0, 0]), np.zeros((2, 3))
    )
    assert missed(encoded) == []
    assert list(encoded.best(1, 5)) == [0]


def test_the_number_of_misses_agrees_with_recall_also_for_equal_tiles():
    """Tile 1 is a copy of tile 0, so their streets do not find their own tile for certain."""
    random = np.random.default_rng(0)
    aerial = random.normal(size=(50, 4)).astype(np.float32)
    aerial /= np.linalg.norm(aerial, axis=1, keepdims=True)
    aerial[1] = aerial[0]
    street = aerial + 0.2 * random.normal(size=aerial.shape).astype(np.float32)
    street /= np.linalg.norm(street, axis=1, keepdims=True)
    misses = missed(EncodedPairs(street, aerial, np.arange(50), np.arange(50), np.zeros((50, 3))))
    assert {0, 1} <= {miss.row for miss in misses}
    assert 1 - len(misses) / 50 == pytest.approx(recall_at(street, aerial)["1"])


def test_an_unknown_position_gives_no_distance():
    positions = np.array([[np.nan] * 3, [0.0, 0, 0]])
    (miss,) = missed(
        EncodedPairs(directions(90, 90), directions(0, 90), np.arange(2), np.arange(2), positions)
    )
    assert miss.row == 0
    assert math.isnan(miss.metres)
    assert summary([miss], 2).endswith("within 25 m for 0, within 64 m for 0")


def test_the_summary_counts_misses():
    misses = [Miss(0, 2, 0.3, 500.0), Miss(1, 2, 0.01, 20.0), Miss(2, 7, 0.019, 50.0)]
    assert summary(misses, 40) == (
        "3 of 40 are not first: 2 second, 2 lost by less than 0.02 of cosine; the first tile "
        "is within 25 m for 1, within 64 m for 2"
    )

"""Headings from norths, and a north between the rolls that were tried. Pure numpy."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Numbers = NDArray[np.float64]

MIN_ROLLS = 3  # a parabola needs three points


def north_between_rolls(distances: ArrayLike, best: ArrayLike) -> Numbers:
    """The north with the least squared distance, as a fraction of the turn, (n,).

    A descriptor changes smoothly with the heading. So this is the vertex of the parabola through
    the best roll and its two neighbours, at most half a step from the best roll. With fewer than
    MIN_ROLLS rolls it is the best roll.

    Args:
        distances: (n, R) squared distances of n tiles to R rolls, evenly spaced from north 0.
        best: (n,) the nearest roll of each tile.
    """
    distances, best = np.asarray(distances, np.float64), np.asarray(best, np.int64)
    rolls = distances.shape[1]
    step = np.zeros(len(best))
    if rolls >= MIN_ROLLS:
        rows = np.arange(len(best))
        before, at, after = (distances[rows, (best + by) % rolls] for by in (-1, 0, 1))
        bend = before - 2.0 * at + after
        np.divide(before - after, 2.0 * bend, out=step, where=bend > 0.0)
    between: Numbers = (best + step.clip(-0.5, 0.5)) / rolls % 1.0 % 1.0  # -1e-20 % 1.0 is 1.0
    return between


def heading_of(north: float) -> float:
    """Heading of the centre column of a full panorama whose `north` fraction is given."""
    return (0.5 - north) * 360.0

"""A heading between those that were tried. Pure numpy."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Numbers = NDArray[np.float64]

FEWEST = 3  # tried headings that a parabola can be laid through


def north_between_rolls(distances: ArrayLike, best: ArrayLike) -> Numbers:
    """Where the squared distance is least, as a fraction of the turn.

    The vertex of the parabola through the best roll and its two neighbours: a descriptor changes
    smoothly with the heading. At most half a step from the best roll; with fewer than FEWEST
    rolls, the roll itself.

    Args:
        distances: (n, R) from one tile each to R rolls, evenly spaced over the turn from 0.
        best: (n,) the roll that counts as nearest.
    """
    distances, best = np.asarray(distances, np.float64), np.asarray(best, np.int64)
    rolls = distances.shape[1]
    step = np.zeros(len(best))
    if rolls >= FEWEST:
        rows = np.arange(len(best))
        before, at, after = (distances[rows, (best + one) % rolls] for one in (-1, 0, 1))
        bend = before - 2.0 * at + after
        np.divide(before - after, 2.0 * bend, out=step, where=bend > 0.0)
    between: Numbers = (best + step.clip(-0.5, 0.5)) / rolls % 1.0 % 1.0  # -1e-20 % 1.0 is 1.0
    return between

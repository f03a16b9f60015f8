"""The headings that are tried, and the heading between them. Pure numpy."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Numbers = NDArray[np.float64]

MIN_ROLLS = 3  # a parabola needs three points


@dataclass(frozen=True)
class Rolls:
    """Evenly spaced headings of the centre column that are tried, in degrees."""

    first_deg: float
    step_deg: float
    count: int

    @classmethod
    def around(cls, count: int) -> Rolls:
        """The whole turn; the norths are evenly spaced from 0."""
        return cls(180.0, -360.0 / count, count)

    @classmethod
    def within(cls, tolerance_deg: float, heading_deg: float, widest_step_deg: float) -> Rolls:
        """From heading - tolerance to heading + tolerance, the heading itself included.

        A tolerance from 45 degrees on is cut to a multiple of the step. Then quarter turns of a
        roll are other rolls, and no window has more views than the whole turn.
        """
        if tolerance_deg >= 45.0:
            tolerance_deg -= tolerance_deg % widest_step_deg
        each_side = math.ceil(tolerance_deg / widest_step_deg)
        step_deg = tolerance_deg / max(each_side, 1)
        return cls(heading_deg - tolerance_deg, step_deg, 2 * each_side + 1)

    @property
    def headings_deg(self) -> list[float]:
        """Every heading, in the order of the rolls."""
        return [self.first_deg + roll * self.step_deg for roll in range(self.count)]

    @property
    def middle_deg(self) -> float:
        """The stated heading, or the middle one of the whole turn."""
        return self.headings_deg[self.count // 2]

    @property
    def closed(self) -> bool:
        """Whether the last roll is the first one's neighbour."""
        return self.count * abs(self.step_deg) >= 360.0

    def heading_between(self, distances: ArrayLike, best: ArrayLike) -> Numbers:
        """The heading with the least squared distance, (n,); see `roll_between`."""
        rolls = roll_between(distances, best, closed=self.closed)
        return self.first_deg + self.step_deg * rolls


def roll_between(distances: ArrayLike, best: ArrayLike, *, closed: bool) -> Numbers:
    """The position among the rolls with the least squared distance, (n,).

    A descriptor changes smoothly with the heading. So this is the vertex of the parabola through
    the best roll and its two neighbours, at most half a step from the best roll. With fewer than
    MIN_ROLLS rolls it is the best roll.

    Args:
        distances: (n, R) squared distances of n tiles to R evenly spaced rolls.
        best: (n,) the nearest roll of each tile.
        closed: the last roll is the first one's neighbour. Otherwise the parabola of an outermost
            roll is the one of the three outermost, and the result lies between the outermost.
    """
    distances, best = np.asarray(distances, np.float64), np.asarray(best, np.int64)
    rolls = distances.shape[1]
    if rolls < MIN_ROLLS:
        return best.astype(np.float64)
    middle = best if closed else best.clip(1, rolls - 2)
    rows = np.arange(len(best))
    before, at, after = (distances[rows, (middle + by) % rolls] for by in (-1, 0, 1))
    bend = before - 2.0 * at + after
    step = (best - middle).astype(np.float64)  # stays at the best roll where no parabola fits
    np.divide(before - after, 2.0 * bend, out=step, where=bend > 0.0)
    between: Numbers = (middle + step).clip(best - 0.5, best + 0.5)
    return between if closed else between.clip(0.0, rolls - 1.0)


def north_between_rolls(distances: ArrayLike, best: ArrayLike) -> Numbers:
    """The north with the least squared distance, as a fraction of the turn, (n,).

    As `roll_between`, for R rolls evenly spaced around the turn from north 0.
    """
    rolls = np.asarray(distances).shape[1]
    between: Numbers = roll_between(distances, best, closed=True) / rolls % 1.0 % 1.0
    return between  # twice, because -1e-20 % 1.0 is 1.0


def heading_of(north: float) -> float:
    """Heading of the centre column of a full panorama whose `north` fraction is given."""
    return (0.5 - north) * 360.0

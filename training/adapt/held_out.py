"""Which photographs are held out: whole blocks of ground that no training tile shows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from training.adapt.photographs import AdaptError

LEAST = 20  # photographs: fewer neither train nor measure anything
SHARE = (0.2, 0.3)  # least and most share of the photographs that is held out
PLACEMENTS = 64  # sides and corners of the blocks that are tried

Points = NDArray[np.float64]
Rows = NDArray[np.int64]


class Split(NamedTuple):
    """Rows of the photographs: (N1,), (N2,) and (N3,), sorted. side_m: of a block.

    between: neither, because their tiles overlap those of held-out photographs.
    """

    training: Rows
    held_out: Rows
    between: Rows
    side_m: float


def hold_out(places: Points, clearance_m: float, seed: int) -> Split:
    """Hold out about a fifth of the photographs by square blocks of ground.

    Of many placements, the one that leaves the fewest photographs unused between both.

    Args:
        places: (N, 2), metres.
        clearance_m: photographs nearer than this on both axes share ground.

    Raises:
        AdaptError: too few photographs, or they lie so near each other that none can be held out.
    """
    if len(places) < LEAST:
        raise AdaptError(
            f"{len(places)} photographs can be used, but at least {LEAST} are needed: add more"
        )
    draw = np.random.default_rng(seed)
    span = float(np.ptp(places, axis=0).max())
    found = [
        split
        for _ in range(PLACEMENTS)
        if (split := _placed(places, clearance_m, span * draw.uniform(0.15, 0.6), draw)) is not None
    ]
    best = min(found, key=lambda split: len(split.between), default=None)
    if best is None or len(best.training) < len(best.held_out):
        raise AdaptError(
            f"all {len(places)} photographs lie within {span:.0f} m, so that too few are "
            f"{clearance_m:g} m apart: none can be held out. Add photographs of other streets"
        )
    return best


def _placed(
    places: Points, clearance_m: float, side_m: float, draw: np.random.Generator
) -> Split | None:
    """Blocks of that side at a random corner, taken in random order; None: no useful share."""
    least, most = (share * len(places) for share in SHARE)
    cells = np.floor((places - draw.uniform(0.0, side_m, 2)) / side_m)
    blocks, block, counts = np.unique(cells, axis=0, return_inverse=True, return_counts=True)
    taken = np.zeros(len(blocks), bool)
    for candidate in draw.permutation(len(blocks)):
        held = counts[taken].sum()
        if held < least and held + counts[candidate] <= most:
            taken[candidate] = True
    held_out = taken[block.reshape(-1)]
    if held_out.sum() < least:
        return None
    away, _ = cKDTree(places[held_out]).query(places, p=np.inf)
    clear = away >= clearance_m
    training, between = np.flatnonzero(clear), np.flatnonzero(~clear & ~held_out)
    return Split(training, np.flatnonzero(held_out), between, side_m)

"""Headings by the imagery: the best of 36 at the photograph's own tile.

Stated headings are checked in the same way, because one wrong mounting turns all of them alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.encoder import Encoder
from model.heading_estimate import heading_of
from training.adapt.photographs import AdaptError
from training.data.pairs import Pair
from training.evaluate.gallery import own_tiles
from training.evaluate.recall import best_north
from training.evaluate.street_views import Condition, encode_streets

ROLLS = 36
NEAR_DEG = 20.0  # headings that agree: a compass, and half a roll
MOST = 0.5  # share of the photographs that must fit better turned
CHECKED = 100  # photographs; more would only cost time

Degrees = NDArray[np.float64]


class CommonTurn(NamedTuple):
    """The turn by which most photographs fit their tiles, and the share that it fits."""

    degrees: float
    share: float


def fitted_headings(encoder: Encoder, pairs: Sequence[Pair]) -> Degrees:
    """The heading of each photograph's centre column that fits its own tile best, (N,), 0 to 360.

    In whole degrees: another machine's rounding changes nothing. The pairs' own headings do not
    count.
    """
    gallery = own_tiles(encoder, pairs)
    assert gallery.right is not None  # own_tiles has a right tile for each pair
    aerial = gallery.descriptors[gallery.right[:, 0]]
    rolls = Condition(rolls=ROLLS)
    norths = [
        best_north(streets.descriptors[rolls], aerial[streets.rows.start : streets.rows.stop])
        for streets in encode_streets(encoder, [_headed(pair) for pair in pairs], {rolls}, 0)
    ]
    return np.array([round(heading_of(north)) % 360.0 for north in np.concatenate(norths)])


def check_headings(stated_deg: Degrees, fitted_deg: Degrees, table: str) -> None:
    """Raises AdaptError: most photographs fit better when all are turned by the same angle."""
    turn = common_turn(stated_deg, fitted_deg)
    if turn is not None:
        by = round(turn.degrees)
        raise AdaptError(
            f"{turn.share:.0%} of {len(stated_deg)} photographs fit their tiles when turned by "
            f"{by} degrees: their stated headings are off by that. Give a {table} with the column "
            f"heading_deg, {by} degrees added, or leave the headings empty to have them estimated"
        )


def common_turn(stated_deg: Degrees, fitted_deg: Degrees) -> CommonTurn | None:
    """The turn that most headings lack, 0 to 360; None if the stated headings are right.

    Without any relation, a ninth of the photographs would agree with each turn.
    """
    turns = (fitted_deg - stated_deg) % 360.0
    away = np.abs((turns[:, None] - turns[None] + 180.0) % 360.0 - 180.0)
    agreeing = away <= NEAR_DEG
    best = int(agreeing.sum(1).argmax())
    share = float(agreeing[best].mean())
    among = np.exp(1j * np.radians(turns[agreeing[best]]))
    degrees = float(np.degrees(np.angle(among.mean()))) % 360.0
    is_right = min(degrees, 360.0 - degrees) <= NEAR_DEG
    return None if is_right or share <= MOST else CommonTurn(degrees, share)


def _headed(pair: Pair) -> Pair:
    """With any heading: reading a strip needs one, and the rolls replace it."""
    assert pair.geometry is not None
    return replace(pair, geometry=replace(pair.geometry, north=0.5))

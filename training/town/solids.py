"""Solids: everything upright with straight sides (houses, hedges, fences, trunks, cars).

A solid is an oriented box with a roof, one row of a float table. The height raster says where
solids stand; the row says exactly where their sides are and how they look, so that walls seen
from the street are sharp although the raster is coarse.

Convention: local metres, x east, y SOUTH (as raster columns and rows), z up. The box's own axes
are u = (UX, UY) and v = (-UY, UX). Side +v is the front.
"""

from typing import NamedTuple

import numpy as np

from training.town.numba_options import F32, U16, Triple, compiled, inlined, span

Pair = tuple[float, float]  # along two axes, metres

# Columns of the table.
X, Y, UX, UY, HALF_U, HALF_V, EAVES, RISE, ROOF, OVERHANG, KIND, SEED = range(12)
WALL, TOP, TRIM = 12, 15, 18  # three columns each, sRGB 0..255
STOREY, BAY, WINDOW, SILL, GLASS_HEIGHT, DOOR, GARAGE, GARAGE_HALF, SHOP, TEXTURE = range(21, 31)
COLUMNS = 31
NOWHERE = -99.0  # a door or garage that is not there

FLAT, GABLE, HIP, LEAN = range(4)  # roofs
HOUSE, HEDGE, FENCE, TRUNK, CAR, CABIN, POLE = range(7)  # kinds
PLAIN, BRICK, SIDING = range(3)  # wall textures
PLUS_U, MINUS_U, PLUS_V, MINUS_V = range(4)  # sides


class Roof(NamedTuple):
    shape: int = FLAT
    rise: float = 0.0  # metres above the walls
    overhang: float = 0.0


LEVEL = Roof()


def solid(
    x: float, y: float, u: Pair, half: Pair, height: float, kind: int, wall: Triple,
    top: Triple | None = None, roof: Roof = LEVEL, seed: int = 0,
) -> F32:  # fmt: skip
    """One row without windows or doors; `height`: of its walls, in metres."""
    row = np.zeros(COLUMNS, np.float32)
    row[X : HALF_V + 1] = (x, y, *u, *half)
    row[EAVES : SEED + 1] = (height, roof.rise, roof.shape, roof.overhang, kind, seed % 65536)
    row[WALL : WALL + 3] = wall
    row[TOP : TOP + 3] = wall if top is None else top
    row[STOREY : STOREY + 2] = (2.8, 1e3)
    row[DOOR] = row[GARAGE] = NOWHERE
    return row


@inlined
def in_frame(b: F32, x: float, y: float) -> tuple[float, float]:
    """(u, v): a point in the axes of a row that starts with X, Y, UX, UY."""
    dx, dy = x - b[X], y - b[Y]
    return dx * b[UX] + dy * b[UY], dy * b[UX] - dx * b[UY]


@compiled
def roof_height(b: F32, u: float, v: float) -> float:
    """Metres above ground of the roof over (u, v); outside the walls it is the overhang."""
    if b[ROOF] == GABLE:
        return float(b[EAVES] + b[RISE] * (1.0 - abs(v) / b[HALF_V]))
    if b[ROOF] == HIP:
        inside = min(b[HALF_V] - abs(v), b[HALF_U] - abs(u))
        return float(b[EAVES] + b[RISE] * inside / min(b[HALF_V], b[HALF_U]))
    if b[ROOF] == LEAN:
        return float(b[EAVES] + b[RISE] * 0.5 * (1.0 - v / b[HALF_V]))
    return float(b[EAVES])


@compiled
def stamp_solids(table: F32, first: int, metres: float, height: U16, owner: U16) -> None:
    """Write rows first.. of the table into height (cm) and owner (row + 1); the higher wins."""
    for i in range(first, table.shape[0]):
        b = table[i]
        # Thin things get half a cell of slack: their exact sides come from the table.
        slack = b[OVERHANG] if b[KIND] == HOUSE else 0.6 * metres
        reach = np.hypot(b[HALF_U] + slack, b[HALF_V] + slack)
        r0, r1 = span(b[Y] - reach, b[Y] + reach, metres, height.shape[0])
        c0, c1 = span(b[X] - reach, b[X] + reach, metres, height.shape[1])
        for r in range(r0, r1):
            for c in range(c0, c1):
                u, v = in_frame(b, (c + 0.5) * metres, (r + 0.5) * metres)
                if abs(u) <= b[HALF_U] + slack and abs(v) <= b[HALF_V] + slack:
                    top = np.uint16(max(0.0, 100.0 * roof_height(b, u, v)))
                    if top > height[r, c]:
                        height[r, c] = top
                        owner[r, c] = i + 1


@compiled
def side_hit(b: F32, x: float, y: float, dx: float, dy: float) -> tuple[float, int, float]:
    """Where a level ray meets the walls: (distance, or -1 for a miss; side; metres along it)."""
    ou, ov = in_frame(b, x, y)
    du = dx * b[UX] + dy * b[UY]
    dv = dy * b[UX] - dx * b[UY]
    du = du if abs(du) > 1e-9 else 1e-9
    dv = dv if abs(dv) > 1e-9 else 1e-9
    near_u = (-np.sign(du) * b[HALF_U] - ou) / du
    near_v = (-np.sign(dv) * b[HALF_V] - ov) / dv
    far = min((np.sign(du) * b[HALF_U] - ou) / du, (np.sign(dv) * b[HALF_V] - ov) / dv)
    near = max(near_u, near_v)
    if near > far or near < 0.0:
        return -1.0, 0, 0.0
    if near_u > near_v:
        return near, (MINUS_U if du > 0 else PLUS_U), ov + near * dv
    return near, (MINUS_V if dv > 0 else PLUS_V), ou + near * du


@compiled
def top_normal(b: F32, u: float, v: float) -> Triple:
    """Unit normal (x, y, z) of the roof over (u, v)."""
    nu, nv = 0.0, 0.0
    if b[ROOF] == GABLE:
        nv = np.sign(v) * b[RISE] / b[HALF_V]
    elif b[ROOF] == HIP:
        slope = b[RISE] / min(b[HALF_V], b[HALF_U])
        if b[HALF_V] - abs(v) < b[HALF_U] - abs(u):
            nv = np.sign(v) * slope
        else:
            nu = np.sign(u) * slope
    elif b[ROOF] == LEAN:
        nv = 0.5 * b[RISE] / b[HALF_V]
    length = 1.0 / np.sqrt(1.0 + nu * nu + nv * nv)
    return ((nu * b[UX] - nv * b[UY]) * length, (nu * b[UY] + nv * b[UX]) * length, length)

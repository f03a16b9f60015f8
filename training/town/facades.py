"""How solids look: walls with windows and doors, cars, hedges, roofs. Colours are sRGB 0..255."""

import numpy as np

from training.town import solids as box
from training.town.light import linear
from training.town.noise import chance
from training.town.numba_options import F32, Triple, compiled, inlined, scaled, triple
from training.town.solids import in_frame, top_normal


@compiled
def _house_wall(b: F32, side: int, along: float, z: float) -> Triple:
    half = b[box.HALF_V] if side == box.PLUS_U or side == box.MINUS_U else b[box.HALF_U]
    seed = int(b[box.SEED])
    if side == box.PLUS_V:
        if abs(along - b[box.DOOR]) < 0.55 and z < 2.15:
            d = 0.55 if abs(along - b[box.DOOR]) < 0.46 else 1.0
            return b[box.TRIM + 1] * d, b[box.TRIM] * d, b[box.TRIM + 2] * d
        if abs(along - b[box.GARAGE]) < b[box.GARAGE_HALF] and z < 2.3:
            line = 0.82 if z % 0.55 < 0.07 else 1.0
            return scaled(triple(b, box.TRIM), line)
        if b[box.SHOP] > 0.0 and z < 3.9:
            if z > 3.0:
                red, green, blue = chance(seed, 1, 7), chance(seed, 2, 7), chance(seed, 3, 7)
                return 90 + 150 * red, 80 + 130 * green, 70 + 150 * blue
            if (along + half) % 2.4 > 0.15 and z > 0.4:
                glow = 30.0 * chance(seed, int((along + half) / 2.4), 5)
                return 48 + glow, 58 + glow, 66 + glow
            return triple(b, box.TRIM)
    level = int(z / b[box.STOREY])
    bays = max(1, int(2.0 * half / b[box.BAY]))
    bay = 2.0 * half / bays
    k = int((along + half) / bay)
    across = abs(along + half - (k + 0.5) * bay) - 0.5 * b[box.WINDOW]
    up = z - level * b[box.STOREY] - b[box.SILL]
    if across < 0.09 and -0.09 < up < b[box.GLASS_HEIGHT] + 0.09 and b[box.BAY] < 100.0:
        pick = chance(seed + 31 * side, k, level)
        if z < b[box.EAVES] - 0.15 and pick < 0.86:
            bar = abs(across + 0.5 * b[box.WINDOW]) < 0.04
            if across > 0.0 or up < 0.0 or up > b[box.GLASS_HEIGHT] or bar:
                return triple(b, box.TRIM)
            sky = 26.0 * up / b[box.GLASS_HEIGHT]
            curtain = 70.0 if pick < 0.2 and up > 0.3 else 25.0 * pick
            return 42 + sky + curtain, 50 + sky * 1.2 + curtain, 58 + sky * 1.5 + curtain
    shade = 1.0
    if b[box.TEXTURE] == box.BRICK:
        shade = 0.93 + 0.12 * chance(int(along * 4.2) + seed, int(z * 11.0), side)
    elif b[box.TEXTURE] == box.SIDING and z % 0.22 < 0.04:
        shade = 0.88
    if z < 0.35:
        shade *= 0.72
    elif z > b[box.EAVES] - 0.25:
        shade *= 0.8  # the shadow under the eaves
    return scaled(triple(b, box.WALL), shade)


@compiled
def _car_side(b: F32, side: int, along: float, z: float) -> Triple:
    long_side = side == box.PLUS_V or side == box.MINUS_V
    if b[box.KIND] == box.CABIN:
        van = b[box.HALF_U] > 1.7
        glazed = 1.0 + 0.1 * van < z < b[box.EAVES] - (0.75 if van and not long_side else 0.13)
        if long_side:
            pillar = abs(along - 0.1) < 0.05 or abs(along) > b[box.HALF_U] - 0.14
            glazed = glazed and not pillar and (not van or 0.5 < along * (side * 2 - 5) < 9.0)
        else:
            glazed = glazed and abs(along) < b[box.HALF_V] - 0.12
        if not glazed:
            return triple(b, box.WALL)
        glare = 40.0 * max(0.0, z - 1.0)
        return 40.0 + glare, 45.0 + glare, 50.0 + glare
    wheel = (abs(along) - 0.62 * b[box.HALF_U]) ** 2 + (z - 0.32) ** 2
    if long_side and wheel < 0.115:
        return (150.0, 150.0, 152.0) if wheel < 0.03 else (24.0, 24.0, 25.0)
    if z < 0.2:
        return 20.0, 20.0, 22.0
    if not long_side and 0.5 < z < 0.72 and abs(along) > b[box.HALF_V] - 0.4:
        return (235.0, 235.0, 220.0) if side == box.PLUS_U else (150.0, 20.0, 22.0)
    shade = 0.82 if z < 0.45 else 1.0
    return scaled(triple(b, box.WALL), shade)


@compiled
def side_colour(b: F32, side: int, along: float, z: float) -> Triple:
    """sRGB (0..255) of a point on a side, from its place along the wall and its height."""
    kind = b[box.KIND]
    if kind == box.HOUSE:
        return _house_wall(b, side, along, z)
    if kind == box.CAR or kind == box.CABIN:
        return _car_side(b, side, along, z)
    seed = int(b[box.SEED])
    if kind == box.HEDGE:
        shade = 0.7 + 0.5 * chance(int(along * 5.0), int(z * 6.0), seed)
        shade *= 0.6 + 0.4 * z / b[box.EAVES]
    elif kind == box.FENCE:
        shade = (0.85 + 0.15 * chance(int(along * 7.0), 3, seed)) if along % 0.14 > 0.02 else 0.6
    elif kind == box.TRUNK:
        round_side = 1.0 - 0.6 * (along / max(b[box.HALF_U], 0.05)) ** 2
        shade = round_side * (0.75 + 0.4 * chance(int(along * 20.0), int(z * 3.0), seed))
    else:
        shade = 1.0
    return scaled(triple(b, box.WALL), shade)


@compiled
def _panels(b: F32, u: float, v: float) -> int:
    """-1 outside the solar panels; else 0 on a joint, 1 on glass."""
    seed = int(b[box.SEED])
    if chance(seed, 11, 1) > 0.22 or b[box.HALF_V] < 3.0:
        return -1
    side = 1.0 if chance(seed, 12, 1) < 0.5 else -1.0
    pu = u - b[box.HALF_U] * (0.9 * chance(seed, 13, 1) - 0.45)
    pv = side * v - 0.48 * b[box.HALF_V]
    if abs(pu) < 0.35 * b[box.HALF_U] and abs(pv) < 0.28 * b[box.HALF_V]:
        return 0 if abs(pu) % 1.0 < 0.12 or abs(pv) % 1.6 < 0.12 else 1
    return -1


@compiled
def top_colour(b: F32, u: float, v: float, grain: float) -> Triple:
    """sRGB of the upper surface at (u, v); `grain` is noise of unit variance."""
    kind = b[box.KIND]
    colour = triple(b, box.TOP)
    shade = 1.0 + 0.05 * grain
    if kind == box.CAR:
        if 0.30 < u / b[box.HALF_U] < 0.36 or abs(v) > b[box.HALF_V] - 0.06:
            shade = 0.6
        return scaled(colour, shade)
    if kind == box.CABIN:
        if u > 0.5 * b[box.HALF_U] or u < -0.7 * b[box.HALF_U]:
            return 38.0, 42.0, 47.0
        return colour
    if kind == box.HEDGE:
        shade = 1.0 + 0.2 * grain
    if kind != box.HOUSE:
        return scaled(colour, shade)
    seed = int(b[box.SEED])
    if b[box.ROOF] == box.FLAT:
        edge = min(b[box.HALF_U] - abs(u), b[box.HALF_V] - abs(v))
        if edge < 0.35:
            return 0.5 * colour[0] + 95.0, 0.5 * colour[1] + 95.0, 0.5 * colour[2] + 93.0
        cu, cv = int(np.floor(u / 4.0)), int(np.floor(v / 4.0))
        if edge > 2.0 and chance(seed, cu, cv) < 0.13:
            pu, pv = u / 4.0 - cu, v / 4.0 - cv
            if 0.25 < pu < 0.7 and 0.3 < pv < 0.75:
                lit = 205.0 if pu < 0.6 and pv < 0.65 else 70.0
                return lit, lit, lit + 3.0
        return scaled(colour, shade)
    panel = _panels(b, u, v)
    if panel >= 0:
        return (110.0, 116.0, 124.0) if panel == 0 else (28.0, 36.0, 58.0)
    if b[box.ROOF] == box.GABLE and abs(v) < 0.18:  # the ridge
        shade *= 1.15
    elif chance(seed, 14, 1) < 0.4:
        shade *= 0.94 if abs(u) % 0.8 < 0.2 else 1.02  # standing seams or sheet joints
    else:
        shade *= 0.95 if abs(v) % 0.7 < 0.25 else 1.02  # courses of tiles
    return scaled(colour, shade)


@inlined
def upper_side(b: F32, x: float, y: float, grain: float) -> tuple[Triple, Triple]:
    """Linear colour and unit normal of the upper surface at (x, y)."""
    u, v = in_frame(b, x, y)
    return linear(top_colour(b, u, v, grain)), top_normal(b, u, v)

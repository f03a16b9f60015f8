"""Drawing a level sphere around a camera, column by column, each marched outward from near to far.

Ground and the sides and tops of solids fill a column's rows from the bottom up; crowns fill rows
in between, with gaps, so that a ray can pass under or through them. Walls are met exactly
(solids.side_hit), the rest to within a step (0.1 m near, 0.3 m from 30 m on). The ground is flat
and ends at scene.FAR_M; behind it stands a painted line of far trees and hills.
"""

import numpy as np

from training.town import solids as box
from training.town.facades import side_colour, upper_side
from training.town.light import Light, dot, linear, received, received_from_above, sky_colour
from training.town.noise import CLOUDY, LEAFY, sample
from training.town.numba_options import F32, F64, U8, Triple, compiled, inlined, scaled, triple
from training.town.scene import FAR_M, Scene
from training.town.solids import roof_height, side_hit
from training.town.surfaces import CROP, GRAVEL, WATER
from training.town.vegetation import CROWN_BASE, CROWN_TOP, RADIUS, T_SEED, TX, TY, crown_slab

_OPEN, _GROUND, _DONE = range(3)  # states of a row while its column is marched
_EARTH = (0.12, 0.13, 0.06)  # linear, of the ground past the raster's edge


@inlined
def _put(column: F32, row: int, colour: Triple, clear: float, light: Light) -> None:
    """Set a row's colour; haze in front of the row lets the share `clear` through."""
    veil = 0.9 * (1.0 - clear)
    for k in range(3):
        column[row, k] = colour[k] * clear + light.horizon[k] * veil


@inlined
def _lit(shade: F32, metres: float, x: float, y: float, z: float) -> float:
    """Share of the four cells around (x, y) whose shadow ends below z, bilinear."""
    gx, gy = x / metres - 0.5, y / metres - 0.5
    c, r = int(gx), int(gy)
    if gx < 0 or gy < 0 or c + 1 >= shade.shape[1] or r + 1 >= shade.shape[0]:
        return 1.0
    fx, fy = gx - c, gy - r
    z += 0.12
    a, b = 1.0 if shade[r, c] < z else 0.0, 1.0 if shade[r, c + 1] < z else 0.0
    d, e = 1.0 if shade[r + 1, c] < z else 0.0, 1.0 if shade[r + 1, c + 1] < z else 0.0
    upper, lower = a + (b - a) * fx, d + (e - d) * fx
    return upper + (lower - upper) * fy


@inlined
def _rough(noise: F32, m: int, x: float, y: float, dist: float) -> float:
    """Relief of the ground as brightness: clumps of plants, and near the camera grit."""
    relief = 0.12 * sample(noise, LEAFY, x * 4.3, y * 4.3) if m <= CROP else 0.0
    if dist < 25.0:
        near = (0.025 if m >= GRAVEL else 0.13) / (1.0 + dist * 0.15)
        relief += near * sample(noise, LEAFY, x * 27.0, y * 27.0)
        relief += near * sample(noise, LEAFY, 99 + x * 73.0, y * 73.0)
    return max(relief, -0.7)


@inlined
def _ground(
    column: F32, state: U8, below: F64, camera: F64, dx: float, dy: float, s: Scene
) -> None:
    """Colour the rows that the march left as ground, bilinear in the ground's raster."""
    light, ground, tints, noise, shade = s.light, s.ground, s.tints, s.noise, s.shade
    material, metres = s.material, s.metres
    for row in range(state.size):
        if state[row] != _GROUND:
            continue
        dist = below[row]
        x, y = camera[0] + dx * dist, camera[1] + dy * dist
        gx, gy = x / metres - 0.5, y / metres - 0.5
        c, r = int(gx), int(gy)
        clear = np.exp(-dist / light.haze_m)
        if gx < 0 or gy < 0 or c + 1 >= ground.shape[1] or r + 1 >= ground.shape[0]:
            _put(column, row, _EARTH, clear, light)
            continue
        fx, fy = gx - c, gy - r
        m = material[int(gy + 0.5), int(gx + 0.5)]
        ax, ay = x + s.left, y + s.top
        shine = (1.0 + _rough(noise, m, ax, ay, dist)) / 255.0
        level = _lit(shade, metres, x, y, 0.0) * light.sun[2]
        mirror = 0.0
        if m == WATER:
            ripple = 1.0 + 0.2 * sample(noise, LEAFY, ax * 3.0, ay * 3.0)
            mirror = min(0.12 + 0.012 * dist, 0.7) * ripple
        for k in range(3):
            upper = ground[r, c, k] * (1 - fx) + ground[r, c + 1, k] * fx
            lower = ground[r + 1, c, k] * (1 - fx) + ground[r + 1, c + 1, k] * fx
            tone = ((upper + (lower - upper) * fy) * shine) ** 2
            tone *= tints[m, k] * (light.diffuse[k] + light.direct[k] * level)
            tone += (0.8 * light.horizon[k] - tone) * mirror
            column[row, k] = tone * clear + 0.9 * light.horizon[k] * (1.0 - clear)


@inlined
def _side_light(b: F32, side: int, along: float, z: float, lit: float, light: Light) -> Triple:
    """Linear colour of a point on a solid's side."""
    sign = 1.0 if side in (box.PLUS_U, box.PLUS_V) else -1.0
    if side <= box.MINUS_U:
        facing = sign * (b[box.UX] * light.sun[0] + b[box.UY] * light.sun[1])
    else:
        facing = sign * (b[box.UX] * light.sun[1] - b[box.UY] * light.sun[0])
    if b[box.KIND] == box.TRUNK or b[box.KIND] == box.HEDGE:
        facing = 0.3 + 0.5 * facing
    bounce = 0.72 + 0.25 * light.direct[0] * light.sun[2]  # off the sunny ground
    return received(linear(side_colour(b, side, along, z)), bounce, max(facing, 0.0) * lit, light)


@inlined
def _leaf_light(
    t: F32, leaf: F32, x: float, y: float, z: float, clump: float, lit: float, light: Light
) -> Triple:
    """Linear colour of leaves at a point of a crown: lit side, dim underside, clumps."""
    middle, half = 0.5 * (t[CROWN_TOP] + t[CROWN_BASE]), 0.5 * (t[CROWN_TOP] - t[CROWN_BASE])
    nx, ny, nz = (x - t[TX]) / t[RADIUS], (y - t[TY]) / t[RADIUS], (z - middle) / half
    length = 1.0 / max(np.sqrt(nx * nx + ny * ny + nz * nz), 0.2)
    toward = dot((nx, ny, nz), light.sun) * length
    facing = min(max(0.5 + 0.6 * toward, 0.05), 1.1) * (0.4 + 0.6 * lit)
    return received(scaled(triple(leaf, 0), clump), 0.75 + 0.3 * nz * length, facing, light)


@inlined
def _crown(
    column: F32, state: U8, slopes: F64, low: int, i: int, px: float, py: float, dist: float,
    eye: float, s: Scene,
) -> None:  # fmt: skip
    """Fill the open rows of crown i where the ray stands at distance `dist`, leaf by leaf."""
    t, leaf, noise = s.trees[i], s.leaves[i], s.noise
    lower, upper, reach = crown_slab(t, px - t[TX], py - t[TY], noise)
    if reach >= 1.0:
        return
    height = slopes.shape[0]
    first = int((0.5 - np.arctan((upper - eye) / dist) / np.pi) * height)
    last = min(int((0.5 - np.arctan((lower - eye) / dist) / np.pi) * height), low)
    x, y = px - t[TX] + t[T_SEED], py - t[TY]
    clear = np.exp(-dist / s.light.haze_m)
    lit = -1.0
    for row in range(max(first, 0), last + 1):
        z = eye + slopes[row] * dist
        if state[row] != _OPEN or z < lower or z > upper:
            continue
        leafy = sample(noise, LEAFY, 8.1 * x + 5.3 * z, 8.1 * y - 6.1 * z)
        leafy += sample(noise, LEAFY, 8.1 * x - 3.0 * y, 9.7 * z)
        coarse = sample(noise, LEAFY, 1.9 * x + 1.2 * y, 2.4 * z)
        coarse += sample(noise, LEAFY, 77 + 2.3 * y - 1.1 * z, 2.1 * x + 1.3 * z)
        depth = min(1.0 - reach, 2.0 * min(z - lower, upper - z) / (t[CROWN_TOP] - t[CROWN_BASE]))
        if 0.455 * leafy + 0.35 * coarse > 1.6 * leaf[3] - 1.5 + 2.4 * depth:
            continue
        if lit < 0.0:
            lit = _lit(s.shade, s.metres, px, py, 0.5 * (upper + lower))
        clump = max(0.25, 1.1 - 0.182 * leafy - 0.154 * coarse) * (1.0 - 0.7 * min(depth, 0.6))
        _put(column, row, _leaf_light(t, leaf, px, py, z, clump, lit, s.light), clear, s.light)
        state[row] = _DONE


@inlined
def _meet(b: F32, camera: F64, dx: float, dy: float) -> tuple[float, int, float, float]:
    """side_hit from the camera, and the height of the wall where it is met."""
    entry, side, along = side_hit(b, camera[0], camera[1], dx, dy)
    sign = 1.0 if side in (box.PLUS_U, box.PLUS_V) else -1.0
    if side <= box.MINUS_U:
        return entry, side, along, roof_height(b, sign * b[box.HALF_U], along)
    return entry, side, along, roof_height(b, along, sign * b[box.HALF_V])


@inlined
def _solid(
    column: F32, state: U8, slopes: F64, low: int, who: int, hit: tuple[float, int, float, float],
    camera: F64, dx: float, dy: float, dist: float, top: float, s: Scene,
) -> int:  # fmt: skip
    """Fill rows with the wall that was met and with the top below the ray; the lowest open row."""
    b, light, eye = s.solids[who - 1], s.light, camera[2]
    entry, side, along, wall = hit
    clear = np.exp(-entry / light.haze_m)
    x, y = camera[0] + dx * (entry - 0.3), camera[1] + dy * (entry - 0.3)
    while low >= 0 and slopes[low] * entry <= wall - eye:
        if state[low] == _OPEN:
            z = eye + slopes[low] * entry
            lit = _lit(s.shade, s.metres, x, y, z)
            _put(column, low, _side_light(b, side, along, z, lit, light), clear, light)
        low -= 1
    px, py = camera[0] + dx * dist, camera[1] + dy * dist
    while low >= 0 and slopes[low] * dist <= top - eye:
        if state[low] == _OPEN:
            shadow = s.shade[int(py / s.metres), int(px / s.metres)]
            grain = sample(s.noise, CLOUDY, (px + s.left) * 5.0, (py + s.top) * 5.0)
            lit = 1.0 if shadow < top + 0.3 else 0.0
            colour, normal = upper_side(b, px, py, grain)
            _put(column, low, received_from_above(colour, normal, lit, light), clear, light)
        low -= 1
    return low


@compiled
def draw_level(out: F32, camera: F64, heading: float, s: Scene) -> None:
    """Fill out (columns, rows, 3), linear light, from `camera` (x, y, height), the middle column
    at `heading` radians, the middle row level.
    """
    columns, rows = out.shape[0], out.shape[1]
    eye, per_metre = camera[2], 1.0 / s.metres
    # A field costs time in a loop.
    owner, tree, height, solids = s.owner, s.tree, s.height, s.solids
    slopes = np.tan((0.5 - (np.arange(rows) + 0.5) / rows) * np.pi)
    below = np.where(slopes < 0.0, -eye / np.minimum(slopes, -1e-9), 0.0)  # where rows meet ground
    for col in range(columns):
        azimuth = heading + ((col + 0.5) / columns - 0.5) * 2.0 * np.pi
        dx, dy = np.sin(azimuth), -np.cos(azimuth)
        column, state = out[col], np.zeros(rows, np.uint8)
        low, dist, last, hit = rows - 1, 0.3, 0, (-1.0, 0, 0.0, 0.0)
        while dist < FAR_M and low >= 0:
            px, py = camera[0] + dx * dist, camera[1] + dy * dist
            c, r = int(px * per_metre), int(py * per_metre)
            inside = px >= 0 and py >= 0 and c < owner.shape[1] and r < owner.shape[0]
            who = int(owner[r, c]) if inside else 0
            if who != last:
                last = who
                if who > 0:
                    hit = _meet(solids[who - 1], camera, dx, dy)
            met = who > 0 and 0.0 <= hit[0] <= dist
            reach = hit[0] if met else dist
            while low >= 0 and slopes[low] * reach <= -eye:  # ground up to here
                if state[low] == _OPEN:
                    state[low] = _GROUND
                low -= 1
            if inside and tree[r, c] > 0:
                i = int(tree[r, c]) - 1
                _crown(column, state, slopes, low, i, px, py, dist, eye, s)
            if met:
                top = 0.01 * height[r, c]
                low = _solid(column, state, slopes, low, who, hit, camera, dx, dy, dist, top, s)
            dist += min(max(0.1, 0.01 * dist), 0.3)
        _ground(column, state, below, camera, dx, dy, s)
        _backdrop(column, state, low, slopes, azimuth, eye, s)


@inlined
def _backdrop(
    column: F32, state: U8, low: int, slopes: F64, azimuth: float, eye: float, s: Scene
) -> None:
    """What lies past the march: plain ground, a line of far trees and hills, the sky."""
    light, noise, plain = s.light, s.noise, s.plain
    dx, dy = np.sin(azimuth), -np.cos(azimuth)
    turn = azimuth / (2.0 * np.pi) * 512.0  # one lap of the noise tile
    hills = 0.012 + 0.014 * max(sample(noise, CLOUDY, turn, 3.0 * s.seed), -0.8)
    trees = 0.018 + 0.016 * sample(noise, CLOUDY, 6.0 * turn, 7.0 * s.seed)
    trees += 0.005 * sample(noise, LEAFY, 3.0 * turn, 5.0 * s.seed)
    full = light.diffuse[0] + light.direct[0] * light.sun[2]
    for row in range(low, -1, -1):
        if state[row] != _OPEN:
            continue
        slope = slopes[row]
        if slope >= max(trees, hills):
            dz = slope / np.sqrt(1.0 + slope * slope)
            flat = np.sqrt(1.0 - dz * dz)
            colour, away = sky_colour(light, noise, dx * flat, dy * flat, dz), 0.0
        elif slope < 0.0:
            shade = 0.8 * full * (1.0 + 0.15 * sample(noise, CLOUDY, 4.0 * turn, 900.0 * slope))
            colour, away = scaled(plain, shade), min(-eye / slope, 600.0)
        elif slope < trees:
            dark = 0.35 + 0.12 * sample(noise, LEAFY, 8.0 * turn, 700.0 * slope)
            colour, away = scaled(plain, dark), 220.0
        else:
            colour, away = scaled(plain, 0.5), 600.0
        _put(column, row, colour, np.exp(-away / light.haze_m), light)

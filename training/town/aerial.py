"""The town from above on one day: an orthophoto, north-up."""

import numpy as np

from training.town import solids as box
from training.town.day import Day
from training.town.facades import upper_side
from training.town.light import Film, develop, film, linear, received_from_above
from training.town.noise import CLOUDY, LEAFY, sample
from training.town.numba_options import U8, Triple, compiled, scaled, triple
from training.town.scene import Scene, scene
from training.town.surfaces import WATER
from training.town.town import Town
from training.town.vegetation import CONE, CROWN_BASE, CROWN_TOP, RADIUS, SHAPE, T_SEED, TX, TY


def render_aerial(town: Town, day: Day) -> U8:
    """uint8 (H, W, 3) of the whole raster, row 0 = north edge, with that day's shadows and cars.

    A true orthophoto: no lean of buildings or trees.
    """
    out = np.zeros(town.ground.shape, np.uint8)
    _look_down(scene(town, day), film(day), out)
    return out


@compiled
def _leaves_here(s: Scene, i: int, x: float, y: float) -> bool:
    """Whether a crown has leaves, or without them a branch, at this point."""
    full, phase = s.leaves[i, 3], s.trees[i, T_SEED]
    if sample(s.noise, LEAFY, phase + x * 3.1, y * 3.1) < 3.0 * full - 0.6:
        return True
    return bool(full < 0.5 and abs(sample(s.noise, LEAFY, x * 2.0, y * 2.0)) < 0.25)


@compiled
def _crown(s: Scene, i: int, x: float, y: float, top: float) -> tuple[Triple, Triple]:
    """Linear colour and normal of a crown's upper side, in clumps, darker towards its foot."""
    t, leaf, noise = s.trees[i], s.leaves[i], s.noise
    steep = 0.975 if t[SHAPE] == CONE else 0.75
    nx, ny = steep * (x - t[TX]) / t[RADIUS], steep * (y - t[TY]) / t[RADIUS]
    length = 1.0 / np.sqrt(nx * nx + ny * ny + 0.64)
    # Clumps of leaves: a slope read off the noise, toward the sun.
    east, south = x + 0.4 * s.light.sun[0], y + 0.4 * s.light.sun[1]
    lump = sample(noise, LEAFY, t[T_SEED] + x * 1.7, y * 1.7)
    lump -= sample(noise, LEAFY, t[T_SEED] + east * 1.7, south * 1.7)
    leafy = sample(noise, LEAFY, t[T_SEED] + x * 3.1, y * 3.1)
    deep = (top - t[CROWN_BASE]) / (t[CROWN_TOP] - t[CROWN_BASE])
    shade = max((0.55 + 0.45 * deep) * (1.0 + 0.13 * leafy + 0.28 * lump), 0.25)
    return scaled(triple(leaf, 0), shade), (nx * length, ny * length, 0.8 * length)


@compiled
def _ground(s: Scene, r: int, c: int, x: float, y: float) -> Triple:
    """Linear colour of the ground in the day's season."""
    m, g = s.material[r, c], s.ground
    red, green, blue = linear(triple(g[r, c], 0))
    wave = 1.0
    if m == WATER:
        wave += 0.06 * sample(s.noise, LEAFY, x * 1.5 + 97.0 * s.light.sun[0], y * 1.5)
    return red * s.tints[m, 0] * wave, green * s.tints[m, 1] * wave, blue * s.tints[m, 2] * wave


@compiled
def _look_down(s: Scene, film: Film, out: U8) -> None:
    """The topmost thing in every pixel, in the day's light and shadow."""
    for r in range(out.shape[0]):
        y = (r + 0.5) * s.metres
        for c in range(out.shape[1]):
            x = (c + 0.5) * s.metres
            who, i = int(s.owner[r, c]), int(s.tree[r, c]) - 1
            top, normal = 0.0, (0.0, 0.0, 1.0)
            if s.crown_top[r, c] > s.height[r, c] and _leaves_here(s, i, x, y):
                top = 0.01 * s.crown_top[r, c]
                colour, normal = _crown(s, i, x, y, top)
            elif who > 0:
                top, b = 0.01 * s.height[r, c], s.solids[who - 1]
                channel = LEAFY if b[box.KIND] == box.HEDGE else CLOUDY
                colour, normal = upper_side(b, x, y, sample(s.noise, channel, x * 5.0, y * 5.0))
            else:
                colour = _ground(s, r, c, x, y)
            lit = 1.0 - min(max((s.shade[r, c] - top - 0.1) * 4.0, 0.0), 1.0)
            tone = received_from_above(colour, normal, lit, s.light)
            develop(tone, film, 4.0, r, c, out[r, c])

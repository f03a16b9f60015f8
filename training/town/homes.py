"""A home on its plot: house, wing, garage and drive, yard, hedges and fences."""

import numpy as np

from training.town import solids as box
from training.town.numba_options import F32, triple
from training.town.plots import BOARDS, GREENS, SLABS, TRIMS, Plot
from training.town.solids import LEVEL, Pair, Roof
from training.town.surfaces import LAWN, PAVED, WATER


def home(plot: Plot) -> None:
    """Put a home on the plot if the house fits; nothing else happens if it does not."""
    style, rng = plot.style, plot.rng
    depth = rng.uniform(24, 38)
    half = (rng.uniform(0.26, 0.42) * plot.width, rng.uniform(3.6, 5.8))
    u = rng.normal(0, 0.04 * plot.width)
    v = -rng.uniform(*style.setback) - plot.kerb - half[1]
    if not plot.free(u, v, half, 0.8):
        return
    _lawn(plot, depth)
    storeys = min(2, max(1, round(rng.normal(style.storeys, 0.5))))
    house = building(plot, u, v, half, storeys, flat=0.06)
    _drive(plot, u, v, half, house)
    plot.take(u, v, half)
    path = -0.5 * (v + half[1])
    plot.pave(u + float(house[box.DOOR]), -path, (0.6, path), plot.register.pick(SLABS), PAVED)
    if rng.uniform() < 0.4:
        _wing(plot, u, v, half, house)
    _back_yard(plot, v - half[1], depth)
    boundary(plot, depth)


def building(plot: Plot, u: float, v: float, half: Pair, storeys: int, flat: float) -> F32:
    """Stand a house with its windows and front door. `flat`: share of flat roofs."""
    style, rng, pick = plot.style, plot.rng, plot.register.pick
    storey = rng.uniform(2.6, 3.1)
    shape = box.HIP if rng.uniform() < style.hips else box.GABLE
    roof = Roof(shape, min(half) * rng.uniform(0.35, 0.85), rng.uniform(0.3, 0.8))
    if rng.uniform() < flat:
        roof = LEVEL
    wall, top = pick(style.walls), pick(style.roofs)
    row = plot.put(u, v, half, storeys * storey + 0.3, box.HOUSE, wall, top, roof)
    row[box.TRIM : box.TRIM + 3] = pick(TRIMS)
    row[box.STOREY], row[box.BAY] = storey, rng.uniform(2.2, 4.2)
    row[box.WINDOW], row[box.GLASS_HEIGHT] = rng.uniform(0.9, 1.9), rng.uniform(1.0, 1.6)
    row[box.SILL] = rng.uniform(0.7, 1.05)
    row[box.DOOR] = rng.uniform(-0.4, 0.4) * half[0]
    row[box.TEXTURE] = rng.choice([box.PLAIN, box.BRICK, box.SIDING])
    return row


def _lawn(plot: Plot, depth: float) -> None:
    style, rng = plot.style, plot.rng
    tint = np.array(style.grass) * rng.uniform(0.84, 1.2) + rng.normal(0, 4, 3)
    if rng.uniform() < 0.3 * style.dryness + 0.06:  # bare earth or gravel instead
        tint = np.array(style.dirt) * rng.uniform(0.8, 1.1)
    stripes = -0.07 if rng.uniform() < 0.2 else 0.0
    if plot.free(0, -2.6 - 0.5 * depth, (0.46 * plot.width, 0.5 * depth - 1.2)):
        half = (0.5 * plot.width, 0.5 * depth - 0.6)
        plot.pave(0, -0.5 * depth - 2.0, half, triple(tint, 0), LAWN, stripes)


def _drive(plot: Plot, u: float, v: float, half: Pair, house: F32) -> None:
    """A garage in the front wall, or beside the house, or only a stand; and the drive to it."""
    rng, pick = plot.rng, plot.register.pick
    side, wide = float(rng.choice([-1, 1])), float(rng.choice([1.45, 2.6]))
    if half[0] > wide + 2.2 and rng.uniform() < 0.6:
        at = side * (half[0] - wide - 0.4)
        house[box.GARAGE], house[box.GARAGE_HALF] = at, wide
        if abs(house[box.DOOR] - at) < wide + 0.8:
            house[box.DOOR] = at - side * (wide + 1.2)
        at, end = u + at, v + half[1]
    else:
        at, end = u + side * (half[0] + wide + 0.3), v - 0.5 * half[1]
        if rng.uniform() < 0.5 and plot.free(at, v - half[1], (wide, 2.8), 0.2):
            end = v - half[1] + 2.8
            _garage(plot, at, v - half[1], wide)
    plot.pave(at, end / 2 + 0.2, (wide, -end / 2 + 0.3), pick(SLABS), PAVED)
    plot.take(at, end / 2, (wide, -end / 2))
    if end < -4.5:
        for offset in (-0.5 * wide, 0.5 * wide) if wide > 2 else (0.0,):
            plot.park(at + offset, end - 3.2 if end < -8 else -4.6)
    if rng.uniform() < 0.5:  # a bin or a letter box
        tone = pick(((52, 70, 58), (60, 62, 66), (150, 52, 44), (70, 84, 110)))
        plot.put(at + side * (wide + 0.5), -0.9, (0.28, 0.28), 1.05, box.POLE, tone)


def _garage(plot: Plot, u: float, v: float, wide: float) -> None:
    style, rng, pick = plot.style, plot.rng, plot.register.pick
    roof = Roof(rng.choice([box.FLAT, box.GABLE, box.LEAN]), 0.9, 0.2)
    wall, top = pick(style.walls), pick(style.roofs)
    row = plot.put(u, v, (wide, 2.8), 2.5, box.HOUSE, wall, top, roof)
    row[box.TRIM : box.TRIM + 3] = pick(TRIMS)
    row[box.GARAGE], row[box.GARAGE_HALF] = 0.0, wide - 0.25
    plot.take(u, v, (wide, 2.8))


def _wing(plot: Plot, u: float, v: float, half: Pair, house: F32) -> None:
    """A lower part behind or before the house, in the same materials, its ridge turned."""
    rng = plot.rng
    front = rng.uniform() < 0.4
    size = (rng.uniform(0.35, 0.5) * half[0], rng.uniform(2.0, 3.4))
    at = float(rng.choice([-1, 1])) * (half[0] - size[0] - 0.1)
    wv = v + (half[1] + 0.4 * size[1] if front else -half[1] - 0.6 * size[1])
    hides_door = abs(at - house[box.DOOR]) < size[0] + 0.6
    hides_garage = abs(at - house[box.GARAGE]) < size[0] + house[box.GARAGE_HALF]
    if front and (hides_door or hides_garage or wv + size[1] > -plot.kerb):
        return
    row = house.copy()
    row[box.X], row[box.Y] = plot.point(u + at, wv)
    row[box.UX], row[box.UY] = -plot.u[1], plot.u[0]
    row[box.HALF_U], row[box.HALF_V] = size[1], size[0]
    row[box.EAVES] = min(float(house[box.EAVES]), 3.1)
    row[box.RISE] = 0.0 if house[box.ROOF] == box.FLAT else 0.7 * size[0]
    row[box.DOOR] = row[box.GARAGE] = box.NOWHERE
    plot.register.solids.append(row)
    plot.take(u + at, wv, size)


def _back_yard(plot: Plot, back: float, depth: float) -> None:
    """Patio, pool, shed."""
    rng, pick = plot.rng, plot.register.pick
    if rng.uniform() < 0.4:
        u = rng.uniform(-0.2, 0.2) * plot.width
        plot.pave(u, back - 2, (2.5, 2.0), pick(SLABS), PAVED)
    if rng.uniform() < 0.12 and plot.free(0, back - 7, (3.5, 2.5), 0.5):
        plot.pave(0, back - 7, (3.6, 2.6), (190, 184, 172), PAVED)
        plot.pave(0, back - 7, (2.7, 1.7), (64, 148, 172), WATER)
        plot.take(0, back - 7, (3.6, 2.6))
    u = float(rng.choice([-1, 1])) * (0.5 * plot.width - 3)
    half = (rng.uniform(1.2, 2.4), rng.uniform(1, 1.8))
    if rng.uniform() < 0.45 and plot.free(u, 2 - depth, half, 0.3):
        roof = Roof(rng.choice([box.GABLE, box.LEAN]), 0.6, 0.15)
        wall, top = pick(BOARDS), pick(plot.style.roofs)
        plot.put(u, 2 - depth, half, 2.2, box.HOUSE, wall, top, roof)
        plot.take(u, 2 - depth, half)


def boundary(plot: Plot, depth: float) -> None:
    """Hedges or fences on some sides of the plot; in front they are lower and leave a gap."""
    style, rng = plot.style, plot.rng
    draw = rng.uniform()
    if draw > style.hedges + style.fences:
        return
    hedge = draw < style.hedges
    kind, palette = (box.HEDGE, GREENS) if hedge else (box.FENCE, BOARDS)
    height = rng.uniform(0.7, 2.2) if hedge else rng.uniform(0.9, 1.9)
    thick = rng.uniform(0.3, 0.7) if hedge else 0.06
    tint = plot.register.pick(palette)
    w, front = plot.width, -plot.kerb
    for u, v, long_u, long_v, share in (
        (0.3 - 0.5 * w, 0.5 * (front - depth), 0.0, 0.5 * (depth + front), 1.0),
        (0.5 * w - 0.3, 0.5 * (front - depth), 0.0, 0.5 * (depth + front), 1.0),
        (0.0, -depth, 0.5 * w, 0.0, 1.0),
        (-0.36 * w, front, 0.13 * w, 0.0, 0.55),
        (0.36 * w, front, 0.13 * w, 0.0, 0.55),
    ):
        half = (max(long_u, thick), max(long_v, thick))
        if rng.uniform() < 0.7 and plot.free(u, v, half):
            plot.put(u, v, half, height * share, kind, tint)

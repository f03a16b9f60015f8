"""Which plot along which street becomes what: homes, shops, farms, nothing; and street poles."""

import numpy as np

from training.town import solids as box
from training.town.ground import HOMES, SHOPS, Ground
from training.town.homes import boundary, building, home
from training.town.layout import LANE, Street
from training.town.numba_options import Triple
from training.town.plots import Plot, Register
from training.town.solids import Roof, solid
from training.town.style import RURAL, Style
from training.town.surfaces import GRAVEL, PAVED, SOIL, WATER

_DECKS: tuple[Triple, ...] = ((150, 148, 146), (178, 174, 168), (112, 110, 108), (206, 204, 200))
_BAY_M = 2.7  # width of a parking bay


def settle(lines: list[Street], ground: Ground, style: Style, seed: int) -> Register:
    """Fill both sides of every street with plots, as the land use of the block says."""
    rng = np.random.default_rng([seed, 6])
    taken = (ground.clearance_m < 1.2) | (ground.at_metres(ground.canvas.material) == WATER)
    register = Register(style, rng, taken)
    for street in lines:
        for side in (-1.0, 1.0):
            _line(street, side, ground, register)
        _poles(street, register)
    return register


def _line(street: Street, side: float, ground: Ground, register: Register) -> None:
    """One side of a street, plot after plot."""
    style, rng = register.style, register.rng
    s, length = rng.uniform(2, 10), street.length_m
    while True:
        width = rng.uniform(*style.lot) * (1.6 if style.pattern == RURAL else 1.0)
        if s + width > length:
            return
        kerb, tangent = street.at(s + width / 2, side * street.half_m)
        ux, uy = -side * tangent[0]
        plot = Plot(register, kerb[0], (ux, uy), width)
        behind = np.array([plot.point(0, -22)])
        s += _fill(plot, int(ground.use_at(behind)[0]), street.rank)


def _fill(plot: Plot, use: int, rank: int) -> float:
    """Build what suits the place; returns the frontage used."""
    style, rng = plot.style, plot.rng
    if use == SHOPS and rank != LANE:
        return _shop(plot)
    if use == HOMES and rng.uniform() < style.houses * (0.4 if rank == LANE else 1):
        home(plot)
    elif style.pattern == RURAL and rng.uniform() < 0.05:
        _farm(plot)
    elif rng.uniform() < 0.15:
        boundary(plot, 3.0)
    return plot.width


def _shop(plot: Plot) -> float:
    """A commercial building, perhaps behind its car park; returns the frontage that was used."""
    rng = plot.rng
    half = (rng.uniform(7, 19), rng.uniform(6, 14))
    parking = rng.uniform() < 0.45
    u, v = half[0], -(22.0 if parking else rng.uniform(3.6, 5)) - half[1]
    if not plot.free(u, v, half, 0.5):
        return 8.0
    storeys = int(rng.choice([1, 2, 3, 5], p=(0.45, 0.3, 0.17, 0.08)))
    row = building(plot, u, v, half, storeys, flat=0.8)
    row[box.SHOP] = rng.uniform() < 0.75
    row[box.EAVES] += 1.2
    row[box.RISE] = min(row[box.RISE], 3.0)
    row[box.TOP : box.TOP + 3] = plot.register.pick(_DECKS)
    plot.take(u, v, half)
    if parking and plot.free(u, -11.5, (half[0], 8.0)):
        _car_park(plot, u, half[0])
    return 2 * half[0] + float(rng.choice([0.3, 4.0]))


def _car_park(plot: Plot, u: float, half_width: float) -> None:
    """Two rows of bays and a way in."""
    tone = plot.rng.uniform(92, 132)
    tar = (tone, tone - 1, tone - 3)
    plot.pave(u, -11.5, (half_width, 9.0), tar, PAVED, _BAY_M)
    plot.pave(u, -2.0, (3.0, 2.2), tar, PAVED)
    for k in np.arange(_BAY_M - half_width, half_width - 2, _BAY_M):
        for dv in (-5.6, 5.6):
            plot.park(u + float(k), -11.5 + dv)
    plot.take(u, -11.5, (half_width, 9.0))


def _farm(plot: Plot) -> None:
    """A farmhouse behind a long drive, one to three barns, a gravel yard."""
    style, rng, pick = plot.style, plot.rng, plot.register.pick
    half = (rng.uniform(5, 8), rng.uniform(4, 5.5))
    v = -rng.uniform(14, 30)
    if not plot.free(0, v, half, 3):
        return
    plot.pave(14, 0.5 * v - 6, (2.0, -0.5 * v + 6), style.dirt, GRAVEL)
    plot.pave(14, v - 16, (14, 9), style.dirt, SOIL)
    building(plot, 0, v, half, 2, flat=0.0)
    plot.take(0, v, half)
    plot.take(14, 0.5 * v - 6, (2.0, -0.5 * v + 6))
    for _ in range(int(rng.integers(1, 4))):
        barn = (rng.uniform(6, 14), rng.uniform(4, 8))
        u, w = rng.uniform(-12, 30), v - rng.uniform(14, 34)
        if plot.free(u, w, barn, 1.5):
            wall = pick(((214, 212, 206), (140, 62, 50), (150, 150, 148), (176, 170, 156)))
            roof = pick(((196, 196, 194), (150, 152, 152), (128, 92, 80)))
            shape = Roof(box.GABLE, 0.55 * barn[1], 0.3)
            plot.put(u, w, barn, rng.uniform(3.5, 6), box.HOUSE, wall, roof, shape)
            plot.take(u, w, barn)


def _poles(street: Street, register: Register) -> None:
    """Lamp or power poles on one side of some streets."""
    rng, size = register.rng, register.taken.shape[0]
    if rng.uniform() < 0.45 or street.length_m < 40:
        return
    side = float(rng.choice([-1, 1])) * (street.half_m + 1.3)
    tone: Triple = (110, 92, 76) if rng.uniform() < 0.6 else (140, 142, 144)
    height, gap = rng.uniform(6, 9), rng.uniform(28, 45)
    along = np.arange(gap / 2, street.length_m, gap)
    for (x, y), (ux, uy) in zip(*street.at(along, side), strict=True):
        inside = 1 < x < size - 1 and 1 < y < size - 1
        if inside and not register.taken[int(y), int(x)]:
            register.solids.append(solid(x, y, (ux, uy), (0.11, 0.11), height, box.POLE, tone))

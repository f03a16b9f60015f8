"""Cars of one day: parked off the street, along the kerb, and moving."""

import math

import numpy as np

from training.town import solids as box
from training.town.day import Day
from training.town.layout import LOCAL, MAIN, Street
from training.town.numba_options import F32, F64, triple
from training.town.solids import solid
from training.town.town import Town

_PAINTS = np.array(
    [(232, 232, 230), (30, 31, 34), (150, 153, 156), (96, 99, 103), (128, 26, 28), (38, 62, 108),
     (196, 190, 176), (58, 78, 66), (206, 206, 208), (180, 120, 40)], float
)  # fmt: skip
_PAINT_SHARES = (0.24, 0.16, 0.17, 0.13, 0.07, 0.08, 0.04, 0.03, 0.06, 0.02)


def traffic(
    town: Town, day: Day, around: tuple[float, float] | None = None, within_m: float = 0.0
) -> F32:
    """(N, 4) cars of the day: x, y in local metres, direction in radians, a seed.

    With `around`, at least those within `within_m` metres of it, and the same ones: every stand
    and every street draws for itself.
    """
    rng = np.random.default_rng([day.seed, town.spec.seed, 9])
    rows = [town.stands[rng.uniform(size=len(town.stands)) < day.traffic]]
    for k, street in enumerate(town.streets):
        low, high = street.box
        if around is None or (np.all(low - within_m < around) and np.all(high + within_m > around)):
            own = np.random.default_rng([day.seed, town.spec.seed, 11, k])
            rows += _on_street(street, day, own)
    cars = np.concatenate(rows)
    if around is not None:
        cars = cars[np.hypot(cars[:, 0] - around[0], cars[:, 1] - around[1]) < within_m]
    seeds = np.floor(np.abs(np.modf(cars[:, :1] * 12.9898 + cars[:, 1:2] * 78.233)[0]) * 65536)
    return np.concatenate([cars, (seeds + day.seed) % 65536], axis=1).astype(np.float32)


def _on_street(street: Street, day: Day, rng: np.random.Generator) -> list[F32]:
    """Cars along the kerb of some streets, and moving ones, on the right."""
    if street.length_m < 40:
        return []
    rows = []
    kerbside = rng.uniform() < 0.6 and street.rank == LOCAL and street.half_m > 2.7
    gap = 90 if street.rank == MAIN else 260
    for side in (-1.0, 1.0):
        if kerbside:
            s = np.arange(12, street.length_m - 12, 6.5)
            s = s[rng.uniform(size=len(s)) < 0.35 * day.traffic]
            rows.append(_cars(*street.at(s, side * (street.half_m - 1.0)), side))
        count = rng.poisson(day.traffic * street.length_m / gap)
        s = np.sort(rng.uniform(0, street.length_m, count))
        s = s[np.diff(s, prepend=-9.0) > 7.0]
        rows.append(_cars(*street.at(s, side * 0.48 * street.half_m), side))
    return rows


def _cars(point: F64, tangent: F64, side: float) -> F32:
    angle = np.arctan2(tangent[:, 1], tangent[:, 0]) + (np.pi if side < 0 else 0)
    return np.concatenate([point, angle[:, None]], axis=1).astype(np.float32)


def car_solids(cars: F32) -> F32:
    """(2 N, box.COLUMNS) rows: a body and a cabin for each car; one in seven is a van."""
    rows = [part for car in cars for part in _car(*(float(v) for v in car))]
    return np.array(rows, np.float32).reshape(len(rows), box.COLUMNS)


def _car(x: float, y: float, angle: float, seed: float) -> list[F32]:
    rng = np.random.default_rng(int(seed))
    paint = triple(rng.choice(_PAINTS, p=_PAINT_SHARES) + rng.normal(0, 5), 0)
    angle += rng.normal(0, 0.03)
    u, van = (math.cos(angle), math.sin(angle)), rng.uniform() < 0.15
    size, tall = rng.uniform(0.92, 1.1), rng.uniform(1.4, 1.75)
    body = solid(x, y, u, (2.25 * size, 0.92), 0.85 + 0.25 * van, box.CAR, paint, seed=int(seed))
    back, half, height = (0.25, 1.85, 2.0) if van else (0.2, 1.2 * size, tall)
    x, y = x - back * u[0], y - back * u[1]
    return [body, solid(x, y, u, (half, 0.82), height, box.CABIN, paint, seed=int(seed))]

"""Poses: where a camera stood and which way it looked."""

from typing import NamedTuple

import numpy as np

from training.town.layout import LANE
from training.town.numba_options import F64, Flags
from training.town.town import Town, TownError


class Pose(NamedTuple):
    """A camera in the town's CRS; angles in degrees."""

    id: str
    east_m: float
    north_m: float
    heading_deg: float  # clockwise from true north, of the panorama's centre column
    camera_height_m: float
    pitch_deg: float  # positive: the centre column looks up
    roll_deg: float  # positive: the camera leans to its right


def sample_poses(
    town: Town, count: int, seed: int, min_spacing_m: float = 10.0, margin_m: float = 45.0
) -> list[Pose]:
    """`count` poses anywhere along the roads, all lanes, any heading, at least `min_spacing_m`
    apart and `margin_m` from the raster's edge, never inside a solid or under one.

    Raises TownError when the town's roads cannot hold that many.
    """
    rng = np.random.default_rng([seed, town.spec.seed, 10])
    apart = min_spacing_m + 0.01  # poses are rounded to millimetres
    candidates = _candidates(town, margin_m, rng)
    chosen = _spread(candidates[rng.permutation(len(candidates))], count, apart)
    if len(chosen) < count:  # a random order packs roads to about 75 %; end to end packs them full
        chosen = _spread(candidates, len(candidates), apart)
        chosen = chosen[rng.permutation(len(chosen))[:count]]
    if len(chosen) < count:
        raise TownError(
            f"town {town.spec.seed} of {town.spec.size_m:g} m holds {len(chosen)} poses "
            f"{min_spacing_m:g} m apart, not {count}: ask for fewer, nearer ones, or a larger town"
        )
    headings, heights = rng.uniform(0, 360, count), rng.uniform(1.6, 3.0, count)
    angles = np.stack([headings, heights, *rng.normal(0, 1.0, (2, count))], axis=1)
    poses = []
    for k, (x, y) in enumerate(chosen):
        east, north = town.to_crs(float(x), float(y))
        heading, height, pitch, roll = (round(float(a), 2) for a in angles[k])
        place = round(east, 3), round(north, 3)
        poses.append(Pose(f"{k:05d}", *place, heading, height, pitch, roll))
    return poses


def _candidates(town: Town, margin_m: float, rng: np.random.Generator) -> F64:
    """Free places every metre along all roads, with a lane offset that drifts slowly."""
    size, found = town.spec.size_m, [np.zeros((0, 2))]
    for street in town.streets:
        if street.length_m <= (30 if street.rank == LANE else 8):  # short ones are turning circles
            continue
        s = np.arange(1.0, street.length_m - 1.0, 1.0)
        knots = rng.uniform(-1, 1, len(s) // 15 + 2) * max(street.half_m - 1.1, 0.3)
        offset = np.interp(s, np.arange(len(knots)) * 15.0, knots)
        places, _ = street.at(s, offset)
        found.append(places[np.all((places >= margin_m) & (places <= size - margin_m), axis=1)])
    places = np.concatenate(found)
    return places[~blocked(town, places)]


def blocked(town: Town, places: F64) -> Flags:
    """(N,) whether something stands, or leaves hang low, within 0.6 m of places (N, 2)."""
    found = np.zeros(len(places), bool)
    for dx, dy in ((0, 0), (0.6, 0), (-0.6, 0), (0, 0.6), (0, -0.6)):
        c, r = ((places + np.array([dx, dy])) / town.spec.resolution_m).astype(int).T
        in_leaves = (town.crown_top[r, c] > 0) & (town.crown_base[r, c] < 320)
        found |= (town.owner[r, c] > 0) | in_leaves
    return found


def _spread(places: F64, count: int, spacing_m: float) -> F64:
    """Take places in order, skipping any nearer than spacing_m to one taken, up to count."""
    cells: dict[tuple[int, int], list[int]] = {}
    taken: list[int] = []
    for k, (x, y) in enumerate(places):
        cx, cy = int(x // spacing_m), int(y // spacing_m)
        near = (n for i in (-1, 0, 1) for j in (-1, 0, 1) for n in cells.get((cx + i, cy + j), ()))
        if all(np.hypot(x - places[n, 0], y - places[n, 1]) >= spacing_m for n in near):
            cells.setdefault((cx, cy), []).append(k)
            taken.append(k)
            if len(taken) == count:
                break
    return places[taken]

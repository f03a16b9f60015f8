"""Routes: ways along connected streets, in the right lane, with bends, speeds and stops."""

from collections import Counter, defaultdict
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.ndimage import uniform_filter1d
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from training.town.layout import LANE, LOCAL, MAIN
from training.town.numba_options import F64
from training.town.poses import blocked
from training.town.town import Town, TownError

SPEEDS = {MAIN: 14.0, LOCAL: 9.0, LANE: 6.0}  # metres a second where nothing slows a vehicle

_MEET_M = 3.0  # centre lines that come so near meet in a junction
_APART_M = 12  # junctions nearer than that on a street are one
_STEP_M = 0.5  # between the places of a route
_ROUNDING_M = 16.0  # length of the bend that a right angle becomes, of about 6 m radius
_LANE_M = 2.5  # a vehicle keeps at most so far to the right of the centre line
_SHARPEST = 0.5  # bend, in 1/m
_FASTER, _BRAKING, _SIDEWAYS = 1.5, 2.0, 2.0  # most metres a second squared
_STOP_SHARE, _STOP_AHEAD_M, _STOP_S = 0.3, 9.0, (3.0, 20.0)  # at junctions; least, mean of the rest

Indices = npt.NDArray[np.signedinteger]


class Network(NamedTuple):
    """Pieces of street between junctions, each once in each direction.

    stations: for each piece (N, 4), about 1 m apart: x, y, half the carriageway, speed.
    onward: for each piece those that a vehicle can drive on along, one at least.
    """

    stations: dict[int, F64]
    onward: dict[int, list[int]]


class Route(NamedTuple):
    """Where a vehicle is when: (N,) each, about half a metre apart."""

    places: F64  # (N, 2) local metres
    metres: F64  # driven since the start
    seconds: F64

    def at(self, metres: F64) -> tuple[F64, F64, F64]:
        """Places (K, 2), directions of travel (K,) in degrees and seconds (K,) there."""
        columns = (*self.places.T, np.degrees(_directions(self.places)), self.seconds)
        x, y, direction, seconds = (np.interp(metres, self.metres, column) for column in columns)
        return np.stack([x, y], 1), direction, seconds


def network(town: Town, margin_m: float = 45.0) -> Network:
    """The streets at least `margin_m` from the raster's edge on which a vehicle can go on for ever,
    past nothing that stands in its lane.

    Raises TownError where there are none.
    """
    stations, owners = _stations(town)
    places, size = stations[:, :2], town.spec.size_m
    met, junctions = _junctions(places, owners)
    inside = np.all((places >= margin_m) & (places <= size - margin_m), axis=1)
    runs = [
        np.arange(a, b + 1)
        for a, b in pairwise(met)
        if owners[a] == owners[b] and junctions[a] != junctions[b] and inside[a : b + 1].all()
    ]
    runs += [run[::-1] for run in runs]
    leaving = defaultdict(list)
    for k, run in enumerate(runs):
        leaving[junctions[run[0]]].append(k)
    onward = {
        k: [
            m
            for m in leaving[junctions[run[-1]]]
            if runs[m][0] != run[-1] and _passable(town, stations[np.append(run, runs[m])])
        ]
        for k, run in enumerate(runs)
    }
    while dead := {k for k, after in onward.items() if not after}:
        onward = {k: [m for m in onward[k] if m not in dead] for k in onward.keys() - dead}
    if not onward:
        raise TownError(
            f"town {town.spec.seed} of {size:g} m has no streets to drive round: "
            "ask for a larger town"
        )
    return Network({k: stations[runs[k]] for k in sorted(onward)}, onward)


def _stations(town: Town) -> tuple[F64, Indices]:
    """Stations (N, 4) of all streets, see `Network`, and the number of each one's street (N,)."""
    found, owners = [], []
    for k, street in enumerate(town.streets):
        if street.length_m > 8:  # shorter ones are turning circles
            count = round(street.length_m) + 1
            places, _ = street.at(np.linspace(0, street.length_m, count))
            kind = np.tile([street.half_m, SPEEDS[street.rank]], (count, 1))
            found.append(np.hstack([places, kind]))
            owners += [k] * count
    return np.concatenate(found), np.array(owners)


def _junctions(places: F64, owners: Indices) -> tuple[Indices, Indices]:
    """The stations that lie in junctions, and for every station (N,) the number of its junction."""
    near = cKDTree(places).query_pairs(_MEET_M, output_type="ndarray").T
    near = near[:, owners[near[0]] != owners[near[1]]]
    met = np.unique(near)
    along = np.stack([met[:-1], met[1:]])[:, np.diff(met) < _APART_M]
    near = np.hstack([near, along[:, owners[along[0]] == owners[along[1]]]])
    graph = coo_array((np.ones(near.shape[1]), near), shape=2 * owners.shape)
    return met, connected_components(graph, directed=False)[1]


def _passable(town: Town, stations: F64) -> bool:
    places, *_ = _lane(stations)
    return bool(_bends(places).max() < _SHARPEST and not blocked(town, places).any())


def _lane(stations: F64) -> tuple[F64, F64, F64]:
    """The lane along stations (N, 4), see `Network`: places (M, 2), speeds (M,), and the metres
    (M,) from the first station along the others.
    """
    along, window = _driven(stations[:, :2]), round(_ROUNDING_M / _STEP_M)
    metres = np.arange(0, along[-1], _STEP_M)
    sharp = np.stack([np.interp(metres, along, column) for column in stations.T], 1)
    longer = np.pad(sharp, ((window, window), (0, 0)), "reflect", reflect_type="odd")
    smooth = uniform_filter1d(longer, window, axis=0)[window:-window]
    direction = _directions(smooth[:, :2])
    right = np.stack([np.cos(direction), np.sin(direction)], 1)  # y runs south
    offset = np.minimum(0.48 * smooth[:, 2:3], _LANE_M)
    return smooth[:, :2] + offset * right, smooth[:, 3], metres


def drive_along(streets: Network, length_m: float, rng: np.random.Generator) -> Route:
    """A route at least so long, at each junction along the piece that was driven least."""
    piece = int(rng.choice(list(streets.stations)))
    start = int(rng.integers(len(streets.stations[piece])))
    way, visits, junctions = [streets.stations[piece][start:]], Counter([piece]), []
    while (count := sum(map(len, way))) < 1.5 * length_m + 10:  # bends are cut short
        junctions.append(count)
        piece = min(streets.onward[piece], key=lambda k: (visits[k], rng.uniform()))
        visits[piece] += 1
        way.append(streets.stations[piece])
    stations = np.concatenate(way)
    places, speeds, metres = _lane(stations)
    stops = np.searchsorted(metres, _driven(stations[:, :2])[junctions] - _STOP_AHEAD_M)
    seconds = _seconds(places, speeds * rng.uniform(0.8, 1.1), stops[stops > 0], rng)
    return Route(places, _driven(places), seconds)


def _seconds(places: F64, speeds: F64, stops: Indices, rng: np.random.Generator) -> F64:
    """Seconds (N,) since the start: slower in bends, halting at some of the `stops`."""
    metres, halts = _driven(places), stops[rng.uniform(size=len(stops)) < _STOP_SHARE]
    squared = np.minimum(speeds**2, _SIDEWAYS / np.maximum(_bends(places), 1e-6))
    squared[halts] = 0.0
    for way, rate in ((1, _FASTER), (-1, _BRAKING)):  # v² grows by 2 a in a metre
        growth = 2 * rate * way * metres[::way]
        squared = (np.minimum.accumulate(squared[::way] - growth) + growth)[::way]
    speed = np.sqrt(np.maximum(squared, 0.1))  # a halt is a crawl: time never stands still
    lasting = 2 * np.diff(metres) / (speed[1:] + speed[:-1])
    lasting[halts] += _STOP_S[0] + rng.exponential(_STOP_S[1], len(halts))
    return np.append(0.0, np.cumsum(lasting))


def _driven(places: F64) -> F64:
    """(N,) metres from the first place along the others."""
    return np.append(0.0, np.cumsum(np.hypot(*np.diff(places, axis=0).T)))


def _directions(places: F64) -> F64:
    """(N,) radians clockwise from north along places (N, 2), without jumps."""
    east, south = np.gradient(places, axis=0).T
    return np.unwrap(np.arctan2(east, -south))


def _bends(places: F64) -> F64:
    """(N,) curvature of the line through places (N, 2), in 1/m."""
    return np.abs(np.gradient(_directions(places), _driven(places)))

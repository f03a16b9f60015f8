"""Streets: a lattice of lines, jittered, smoothly bent, with pieces left out and spurs added.

Local metres: x east, y SOUTH, origin at the raster's north-west corner.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from training.town.numba_options import F64, Flags
from training.town.style import BRICKWORK, GRID, RURAL, SUBURB, Style

MAIN, LOCAL, LANE = range(3)  # classes of street

_PIECE_M = 4.0  # length of the straight pieces that a street is made of
_BEYOND_M = 60.0  # how far streets run past the raster's edge


@dataclass(frozen=True)
class Street:
    """A centre line, (N, 2) metres about 4 m apart, and what kind of street runs along it."""

    points: F64
    rank: int  # MAIN, LOCAL or LANE
    half_m: float  # half the carriageway
    unpaved: bool = False

    @cached_property
    def length_m(self) -> float:
        return float(np.hypot(*np.diff(self.points, axis=0).T).sum())

    @cached_property
    def box(self) -> tuple[F64, F64]:
        """Smallest and largest coordinates."""
        return self.points.min(axis=0), self.points.max(axis=0)

    def at(self, metres: npt.ArrayLike, right_m: npt.ArrayLike = 0.0) -> tuple[F64, F64]:
        """Points (N, 2) at these distances along the centre line, `right_m` metres to its right,
        and unit tangents (N, 2).
        """
        steps = np.diff(self.points, axis=0)
        lengths = np.hypot(*steps.T)
        starts = np.concatenate([[0.0], np.cumsum(lengths)[:-1]])
        wanted = np.atleast_1d(np.asarray(metres, float))
        i = np.clip(np.searchsorted(starts, wanted, side="right") - 1, 0, len(steps) - 1)
        tangent = steps[i] / lengths[i, None]
        normal = np.stack([-tangent[:, 1], tangent[:, 0]], 1)
        centre = self.points[i] + tangent * (wanted - starts[i])[:, None]
        return centre + np.asarray(right_m)[..., None] * normal, tangent


@dataclass(frozen=True)
class Lattice:
    """The smooth, invertible-enough map between block coordinates and local metres."""

    centre_m: float
    style: Style
    phases: list[float]

    def _displacement(self, p: F64) -> F64:
        amplitude, wavelength = self.style.bend
        k = 2 * np.pi / wavelength
        a, b, c, d = self.phases
        east = np.sin(k * p[..., 1] + a) + 0.5 * np.sin(1.9 * k * (p[..., 0] + p[..., 1]) + b)
        south = np.sin(k * p[..., 0] + c) + 0.5 * np.sin(1.7 * k * (p[..., 0] - p[..., 1]) + d)
        return amplitude * np.stack([east, south], axis=-1)

    def to_metres(self, nodes: F64) -> F64:
        turned = _rotated(nodes * self.style.spacing, self.style.angle)
        return turned + self.centre_m + self._displacement(turned)

    def to_nodes(self, metres: F64) -> F64:
        """The inverse, by five fixed-point rounds (residue under a metre at these bends)."""
        goal = metres - self.centre_m
        turned = goal
        for _ in range(5):
            turned = goal - self._displacement(turned)
        return _rotated(turned, -self.style.angle) / self.style.spacing


def _rotated(points: F64, angle: float) -> F64:
    """Points (..., 2) turned about the origin, from the first axis towards the second."""
    (x, y), c, s = np.moveaxis(points, -1, 0), np.cos(angle), np.sin(angle)
    return np.stack([c * x - s * y, s * x + c * y], -1)


def lattice(size_m: float, style: Style, seed: int) -> Lattice:
    rng = np.random.default_rng([seed, 2])
    return Lattice(size_m / 2, style, rng.uniform(0, 2 * np.pi, 4).tolist())


def streets(size_m: float, style: Style, grid: Lattice, seed: int) -> list[Street]:
    """All streets of a town, main ones first, deterministic in the seed."""
    rng = np.random.default_rng([seed, 3])
    found = []
    for rank, nodes, gaps in _courses(size_m, style, rng):
        half = style.road_half[rank] * rng.uniform(0.92, 1.12)
        unpaved = rank == LANE and rng.uniform() < 0.75
        for run in np.split(nodes, np.flatnonzero(gaps[: len(nodes) - 1]) + 1):
            if len(run) > 1:
                points = _even(grid.to_metres(_spline(run)))
                found += _clip(Street(points, rank, half, unpaved), size_m)
    found += _spurs(found, size_m, style, rng)
    return sorted(found, key=lambda street: street.rank)


def _courses(
    size_m: float, style: Style, rng: np.random.Generator
) -> Iterator[tuple[int, F64, Flags]]:
    """Streets through the lattice: rank, nodes (N, 2), and behind which nodes a piece is missing.

    A caller may draw from `rng` between two streets.
    """
    reach = int(np.ceil((0.75 * size_m + _BEYOND_M) / min(style.spacing)))
    side = 2 * reach + 1
    # The first axis counts half blocks, so that T-junctions have nodes.
    halves, wholes = np.arange(2 * side) / 2 - reach, np.arange(side) - reach
    nodes: F64 = np.stack(np.meshgrid(halves, wholes, indexing="ij"), -1)
    nodes += rng.uniform(-style.jitter, style.jitter, nodes.shape)
    main_along = rng.integers(reach - 2, reach + 3)
    main_across = rng.integers(reach - 1, reach + 2)
    for j in range(side):  # lines along the first axis
        rank = MAIN if j == main_along else LOCAL
        gaps = rng.uniform(size=side) < (0 if rank == MAIN else style.gaps)
        if style.pattern == RURAL and rank != MAIN and j % 2:
            rank = LANE
        yield rank, nodes[:, j], np.repeat(gaps, 2)
    for i in range(side):  # lines along the second axis
        rank = MAIN if i == main_across else LOCAL
        gaps = rng.uniform(size=side) < (0 if rank == MAIN else style.gaps)
        if style.pattern in (BRICKWORK, SUBURB) and rank != MAIN:  # staggered
            for k in np.flatnonzero(~gaps[:-1]):
                yield rank, nodes[2 * i + k % 2, k : k + 2], gaps[:0]
        else:
            yield rank, nodes[2 * i], gaps


def _spline(nodes: F64) -> F64:
    """Catmull-Rom through the nodes, 24 points a span."""
    p = np.concatenate([[2 * nodes[0] - nodes[1]], nodes, [2 * nodes[-1] - nodes[-2]]])
    t = np.linspace(0, 1, 24, endpoint=False)[:, None]
    a, b, c, d = (p[k : k + len(nodes) - 1, None] for k in range(4))
    spans = 2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2
    spans = 0.5 * (spans + (3 * b - a - 3 * c + d) * t**3)
    return np.concatenate([spans.reshape(-1, 2), nodes[-1:]])


def _even(points: F64) -> F64:
    """The same line with points about _PIECE_M apart."""
    s = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
    wanted = np.linspace(0, s[-1], max(2, round(s[-1] / _PIECE_M) + 1))
    return np.stack([np.interp(wanted, s, points[:, k]) for k in range(2)], axis=1)


def _clip(street: Street, size_m: float) -> list[Street]:
    """The parts within _BEYOND_M of the raster."""
    inside = np.all((street.points > -_BEYOND_M) & (street.points < size_m + _BEYOND_M), axis=1)
    cuts = np.flatnonzero(np.diff(inside.astype(int))) + 1
    parts = np.split(street.points, cuts)
    kept = zip(parts, inside[np.concatenate([[0], cuts])], strict=True)
    return [replace(street, points=part) for part, keep in kept if keep and len(part) > 1]


def _spurs(
    existing: list[Street], size_m: float, style: Style, rng: np.random.Generator
) -> list[Street]:
    """Cul-de-sacs: short curved streets off local ones, most with a turning circle."""
    if style.pattern == GRID and style.spurs < 0.1:
        return []
    lines = [street for street in existing if street.rank == LOCAL and street.length_m > 60]
    taken = np.concatenate([street.points for street in existing])
    wanted = int(style.spurs * size_m**2 / (style.spacing[0] * style.spacing[1]))
    made: list[Street] = []
    for _ in range(4 * wanted if lines else 0):
        street = lines[rng.integers(len(lines))]
        s = rng.uniform(25, street.length_m - 25)
        start, tangent = (a[0] for a in street.at(s))
        turn = rng.choice([-1, 1]) * rng.uniform(1.2, 1.9)
        length, curve = rng.uniform(30, 65), rng.normal(0, 0.006)
        t = np.arange(0, length, _PIECE_M)
        heading = np.arctan2(tangent[1], tangent[0]) + turn + curve * t
        steps = _PIECE_M * np.stack([np.cos(heading), np.sin(heading)], axis=1)
        points = start + np.concatenate([[[0, 0]], np.cumsum(steps, axis=0)])
        far = points[points.shape[0] // 2 :]
        if np.min(np.hypot(*(far[:, None] - taken[None]).transpose(2, 0, 1))) < 24:
            continue
        made.append(Street(points, LOCAL, style.road_half[1] * 0.9))
        if rng.uniform() < 0.75:
            circle = points[-1] + np.array([[0, 0], [0.5, 0]])
            made.append(Street(circle, LOCAL, rng.uniform(7, 9.5)))
        taken = np.concatenate([taken, points])
        if len(made) >= 2 * wanted:
            break
    return made

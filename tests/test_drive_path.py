"""The path of a drive: against all paths counted one by one, and on made-up drives."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import i0e

from model.geo import LatLon, distance_m, metres_per_degree, offset
from service.locate.drive_path import PART, STEP_SIGMAS, Frame, Motion, _follow, _settled, follow

ORIGIN = LatLon(50.0, 15.0)


def frame(
    places: list[tuple[float, float]],
    distances: list[float],
    headings: list[float],
    seconds: float | None = None,
) -> Frame:
    centres = np.array([offset(ORIGIN, *place) for place in places])
    rows = np.arange(len(places))
    return Frame(rows, centres, np.array(distances), np.array(headings), seconds)


def random_frames(count: int, states: int, seed: int = 0) -> list[Frame]:
    rng = np.random.default_rng(seed)
    return [
        frame(
            list(map(tuple, rng.uniform(-30.0, 30.0, (states, 2)))),
            rng.uniform(0.4, 0.9, states).tolist(),
            rng.uniform(0.0, 360.0, states).tolist(),
        )
        for _ in range(count)
    ]


def street(frames: int, truth: float, others: int = 60, seed: int = 0) -> list[Frame]:
    """Due east by 12 m a frame with the camera facing north; candidates every 16 m, and noise."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(frames):
        places = [(number * 12.0, 0.0), *map(tuple, rng.uniform(-300.0, 300.0, (others, 2)))]
        distances = [truth, *rng.uniform(0.5, 0.9, others)]
        headings = [0.0, *rng.uniform(0.0, 360.0, others)]
        found.append(frame(places, distances, headings))
    return found


def bell(degrees: float, sigma_rad: float) -> float:
    return math.exp((math.cos(math.radians(degrees)) - 1.0) / sigma_rad**2)


def move_table(before: Frame, after: Frame, mount_deg: float, motion: Motion) -> np.ndarray:
    """(K, K) `move` of the module's formulas, one pair of states at a time."""
    table = np.full((len(before.rows), len(after.rows)), motion.jump)
    reach, sigma = motion.step_m, motion.step_sigma_m
    area_m2, _ = quad(
        lambda r: 2 * np.pi * r * np.exp(-0.5 * (max(0.0, r - reach) / sigma) ** 2), 0, 300
    )
    for i, j in np.ndindex(table.shape):
        scale = metres_per_degree(ORIGIN.latitude)
        north, east = (after.centres[j] - before.centres[i]) * (scale.north, scale.east)
        metres = math.hypot(north, east)
        over = metres - motion.step_m
        if over > STEP_SIGMAS * motion.step_sigma_m:
            continue
        h, turned = before.headings_deg[i], after.headings_deg[j] - before.headings_deg[i]
        middle = h + ((turned + 180.0) % 360.0 - 180.0) / 2.0
        spread = math.hypot(
            math.radians(motion.lead_sigma_deg), math.atan2(motion.tile_noise_m, metres)
        )
        turn = bell(turned, math.radians(motion.turn_sigma_deg))
        lead = bell(math.degrees(math.atan2(east, north)) - middle + mount_deg, spread)
        lead /= i0e(spread**-2)
        table[i, j] += (
            math.exp(-0.5 * (max(0.0, over) / motion.step_sigma_m) ** 2)
            / area_m2
            * (motion.turn_tail + (1.0 - motion.turn_tail) * turn)
            * (motion.lead_tail + (1.0 - motion.lead_tail) * lead)
        )
    return table


@pytest.mark.parametrize("seed", range(3))
def test_weights_are_those_of_all_paths_counted(seed: int) -> None:
    frames, motion = random_frames(4, 3, seed), Motion()
    path = _follow(frames, motion)
    table = [move_table(*pair, path.mount_deg, motion) for pair in itertools.pairwise(frames)]
    seen = [np.exp((f.distances.min() - f.distances) / motion.temperature) for f in frames]
    counted = np.zeros((4, 3))
    for states in itertools.product(range(3), repeat=4):
        weight = np.prod([seen[t][s] for t, s in enumerate(states)])
        weight *= np.prod([table[t][a, b] for t, (a, b) in enumerate(itertools.pairwise(states))])
        counted[np.arange(4), states] += weight
    expected = counted / counted.sum(axis=1, keepdims=True)
    assert np.stack(path.weights) == pytest.approx(expected, abs=1e-5)
    likelihood = counted[0].sum() / seen[0].sum()
    assert path.evidence.sum() == pytest.approx(np.log(likelihood), abs=1e-4)


def test_a_frame_that_looks_like_elsewhere_is_settled_by_its_neighbours() -> None:
    frames = street(20, truth=0.6)
    alone = [int(np.argmin(f.distances)) for f in frames]
    path = follow(frames)
    found = [f.rows[int(np.argmax(w))] for f, w in zip(path.frames, path.weights, strict=True)]
    assert alone.count(0) < 10
    assert found.count(0) == 20
    assert path.mount_deg == pytest.approx(-90.0, abs=10.0)
    assert path.steadiness.min() > 0.8


def test_a_long_drive_in_parts_has_the_weights_of_the_whole() -> None:
    frames = street(2 * PART + 7, truth=0.6, others=8)
    parts, whole = follow(frames), _settled(frames, Motion())
    assert len(parts.frames) == len(whole.frames) == len(parts.steadiness) == len(frames)
    for number, (one, other) in enumerate(zip(parts.weights, whole.weights, strict=True)):
        assert one.max() == pytest.approx(other.max(), abs=1e-3), number
    assert parts.mount_deg == pytest.approx(whole.mount_deg, abs=1.0)


def test_a_jump_is_taken_where_a_drive_was_interrupted() -> None:
    frames = street(10, truth=0.4)
    moved = [
        f._replace(centres=f.centres + np.array([0.02, 0])) for f in street(10, truth=0.4, seed=1)
    ]
    path = follow([*frames, *moved])
    found = [f.rows[int(np.argmax(w))] for f, w in zip(path.frames, path.weights, strict=True)]
    assert found.count(0) == 20


def test_longer_steps_are_tried_until_the_frames_are_no_likelier() -> None:
    sparse = street(60, truth=0.5, others=15)[::6]  # 72 m apart
    path = follow(sparse)
    found = [f.rows[int(np.argmax(w))] for f, w in zip(path.frames, path.weights, strict=True)]
    assert found == [0] * 10


def test_a_pause_allows_a_longer_step() -> None:
    at = [0.0, 1.0, 2.0, 3.0, 20.0, 21.0, 22.0]
    places = [0, 1, 2, 3, 12, 13, 14]
    frames = [street(15, truth=0.5)[k]._replace(seconds=s) for k, s in zip(places, at, strict=True)]
    weights = follow(frames).weights
    untimed = follow([f._replace(seconds=None) for f in frames]).weights
    assert min(float(w[0]) for w in weights) > 0.9
    assert min(float(w[0]) for w in weights) >= min(float(w[0]) for w in untimed) - 1e-3


def test_a_path_does_not_depend_on_where_longitudes_begin() -> None:
    frames = street(8, truth=0.5)
    shift = np.array([0.0, 180.0 - frames[4].centres[0, 1]])
    moved = [f._replace(centres=_wrapped(f.centres + shift)) for f in frames]
    for here, there in zip(follow(frames).weights, follow(moved).weights, strict=True):
        assert here == pytest.approx(there, abs=1e-6)


def _wrapped(centres: np.ndarray) -> np.ndarray:
    return np.stack([centres[:, 0], (centres[:, 1] + 180.0) % 360.0 - 180.0], axis=1)


def test_one_frame_keeps_its_own_candidates() -> None:
    (only,) = street(1, truth=0.4)
    path = follow([only])
    assert int(np.argmax(path.weights[0])) == 0
    assert path.weights[0].sum() == pytest.approx(1.0)
    assert distance_m(LatLon(*only.centres[0]), ORIGIN) < 0.1

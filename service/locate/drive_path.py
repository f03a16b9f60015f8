"""One path through the candidates of a drive's frames: a hidden Markov model. Pure numpy.

The pattern is Newson and Krumm's (2009). A state of a frame is a candidate i: a tile centre p_i and
a heading h_i of the camera. With d_i the squared descriptor distance:

    seen(i)    = exp(-(d_i - min d) / temperature)
    step(i, j) = exp(-max(0, |p_j - p_i| - reach)^2 / 2 step_sigma_m^2) / its integral over p_j
    turn(i, j) = T + (1 - T) bell(h_j - h_i, turn_sigma_deg)                     T = turn_tail
    lead(i, j) = L + (1 - L) bell(b_ij - (h_i + h_j) / 2 + mount, s) / i0e(1 / s^2)
    move(i, j) = step turn lead + jump                                           L = lead_tail
    bell(a, s) = exp((cos a - 1) / s^2)          von Mises', near exp(-a^2 / 2 s^2) for small s

b_ij is the bearing from p_i to p_j. `mount` is the angle from the direction of travel to the
camera's heading: constant in a drive, and estimated. s^2 = lead_sigma_deg^2 + atan(tile_noise_m /
|p_j - p_i|)^2: the centres of two near tiles say little about a direction. i0e makes `lead` a
density over a uniform one, so a path that moves as the camera faces is likelier than one that stays
at a tile. `jump`, per m^2, bounds the cost of any step, so that one bad frame or a gap breaks
nothing.

Forward-backward gives every state's probability, in time linear in the frames.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.special import i0e

from model.geo import metres_per_degree

Numbers = NDArray[np.float64]
Rows = NDArray[np.int64]
Flags = NDArray[np.bool_]
Leads = NDArray[np.complex128]

# Probability without mounts below which a state is dropped, to compare mounts at less cost.
NEGLIGIBLE = 1e-9
MOUNTS_DEG = np.arange(-180.0, 180.0, 45.0)
PART, MARGIN = 200, 20  # frames; 200 of unknown heading take up to half a gigabyte
WINDOW = 4  # steps before and after a frame, for its steadiness
FARTHEST = 0.42  # squared distance above the nearest candidate's; farther ones mislead
LONGER = (2.0, 4.0, 8.0)  # times step_m
STRETCH = 30  # frames that show how far apart frames are
LONGEST_PAUSE = 10.0  # times the usual
STEP_SIGMAS = 3.5  # beyond the reach; farther steps are left to `jump`


@dataclass(frozen=True)
class Motion:
    """How a camera moves; the formulas above say what each number does.

    step_m: metres between two frames, at most; longer after a longer time than usual.
    """

    temperature: float = 0.14
    step_m: float = 18.0
    step_sigma_m: float = 8.0
    turn_sigma_deg: float = 25.0
    turn_tail: float = 0.02
    lead_sigma_deg: float = 30.0
    lead_tail: float = 0.02
    tile_noise_m: float = 6.0
    jump: float = 4e-11


USUAL = Motion()


class Frame(NamedTuple):
    """The candidates of one frame, nearest first; a tile may stand there at several headings.

    rows: (K,) of the index. centres: (K, 2) latitude and longitude. distances: (K,), squared.
    headings_deg: (K,), of the camera's centre column. seconds: when the frame was taken, if known.
    arc_deg: how much of the horizon it shows.
    """

    rows: Rows
    centres: Numbers
    distances: Numbers
    headings_deg: Numbers
    seconds: float | None = None
    arc_deg: float = 360.0

    def only(self, kept: Flags) -> Frame:
        """The frame with some of its candidates."""
        return self._replace(
            rows=self.rows[kept],
            centres=self.centres[kept],
            distances=self.distances[kept],
            headings_deg=self.headings_deg[kept],
        )


class DrivePath(NamedTuple):
    """What the frames say together.

    frames: the given ones, without candidates of no probability. weights: for each frame (K,), the
        probabilities of its candidates.
    mount_deg: from the direction of travel to the camera's heading.
    steadiness: (T,) 0 to 1, how well the camera keeps to that angle around each frame.
    evidence: (T - 1,) logarithm of each step's likelihood, given the frames before it, times the
        area that the step reaches.
    """

    frames: list[Frame]
    weights: list[Numbers]
    mount_deg: float
    steadiness: Numbers
    evidence: Numbers


class Moves(NamedTuple):
    """Pairs of states between two frames that need no jump, one row each.

    start, end: the states. weight: step times turn, and lead where a mount is assumed.
    """

    start: Rows
    end: Rows
    weight: Numbers

    def only(self, before: Flags, after: Flags) -> Moves:
        """The moves between the states that are kept, which are renumbered."""
        kept = before[self.start] & after[self.end]
        return Moves(
            (before.cumsum() - 1)[self.start[kept]],
            (after.cumsum() - 1)[self.end[kept]],
            self.weight[kept],
        )


class Directions(NamedTuple):
    """Where moves lead, one row each.

    metres: |p_j - p_i|. lead: complex of length 1, its angle is from the camera's mean heading to
    the bearing. sharpness: 1 / s^2. peak: the largest value of the bell.
    """

    metres: Numbers
    lead: Leads
    sharpness: Numbers
    peak: Numbers

    def towards(self, moves: Moves, mount_deg: float, motion: Motion) -> Moves:
        """The moves with the weight of `lead` as well."""
        cosine = (self.lead * np.exp(1j * np.radians(mount_deg))).real
        lead = self.peak * np.exp((cosine - 1.0) * self.sharpness)
        return moves._replace(
            weight=moves.weight * (motion.lead_tail + (1.0 - motion.lead_tail) * lead)
        )


def follow(frames: Sequence[Frame], motion: Motion = USUAL) -> DrivePath:
    """The path through the frames, in their order; each has a candidate at least.

    Memory holds the moves of one PART at a time: a frame says next to nothing about another frame
    MARGIN away. The mount is the mean of the parts' mounts.
    """
    frames = [f.only(f.distances <= f.distances.min() + FARTHEST) for f in frames]
    parts = [_part(frames, start, motion) for start in range(0, len(frames), PART)]
    steady = [np.exp(1j * np.radians(part.mount_deg)) * part.steadiness.sum() for part in parts]
    return DrivePath(
        [frame for part in parts for frame in part.frames],
        [weights for part in parts for weights in part.weights],
        float(np.degrees(np.angle(np.sum(steady)))),
        np.concatenate([part.steadiness for part in parts]),
        np.concatenate([part.evidence for part in parts]),
    )


def _part(frames: Sequence[Frame], start: int, motion: Motion) -> DrivePath:
    """The path from frame `start` on, found together with the frames around it."""
    first = max(0, start - MARGIN)
    path = _settled(frames[first : start + PART + MARGIN], motion)
    own = slice(start - first, start - first + PART)
    return path._replace(
        frames=path.frames[own],
        weights=path.weights[own],
        steadiness=path.steadiness[own],
        evidence=path.evidence[own],
    )


def _settled(frames: Sequence[Frame], motion: Motion) -> DrivePath:
    """The path at the likeliest length of steps, as STRETCH frames in the middle show it.

    Nobody states how far apart frames are. A longer step reaches more places, each of them less
    likely, so longer ones are tried until the frames become less likely.
    """
    first = max(0, (len(frames) - STRETCH) // 2)
    stretch = list(frames[first : first + STRETCH])
    best, path = motion, _follow(stretch, motion)
    for times in LONGER:
        longer = replace(motion, step_m=motion.step_m * times)
        other = _follow(stretch, longer)
        if other.evidence.sum() < path.evidence.sum():
            break
        best, path = longer, other
    if len(stretch) < len(frames):
        path = _follow(list(frames), best)
    areas = _area_m2(_reaches_m(list(frames), best), best)
    return path._replace(evidence=path.evidence + np.log(areas))


def _follow(frames: list[Frame], motion: Motion) -> DrivePath:
    """The mount is the likeliest of MOUNTS_DEG, refined by the path that it gives."""
    spots = [_Spots(frame, frames[0].centres[0]) for frame in frames]
    moves = [
        moves_between(*pair, reach_m, motion)
        for pair, reach_m in zip(itertools.pairwise(spots), _reaches_m(frames, motion), strict=True)
    ]
    first = _Chain(_seen(frames, motion), moves, motion.jump)
    kept = [weights > NEGLIGIBLE for weights in first.weights()]
    frames = [frame.only(keep) for frame, keep in zip(frames, kept, strict=True)]
    moves = [move.only(*keep) for move, keep in zip(moves, itertools.pairwise(kept), strict=True)]
    directions = [
        directions_of(move, *pair, motion)
        for move, pair in zip(moves, itertools.pairwise(frames), strict=True)
    ]
    seen = _seen(frames, motion)

    def towards(mount_deg: float) -> _Chain:
        mounted = [
            direction.towards(move, mount_deg, motion)
            for move, direction in zip(moves, directions, strict=True)
        ]
        return _Chain(seen, mounted, motion.jump)

    chain = max(map(towards, MOUNTS_DEG.tolist()), key=lambda chain: chain.evidence.sum())
    mount_deg = -float(np.degrees(np.angle(chain.driven(directions)[0].sum())))
    chain = towards(mount_deg)
    towards_mount, metres = chain.driven(directions)
    straight = (towards_mount * np.exp(1j * np.radians(mount_deg))).real
    return DrivePath(
        frames,
        chain.weights(),
        mount_deg,
        sums_around(straight, WINDOW) / np.maximum(sums_around(metres, WINDOW), 1e-9),
        chain.evidence,
    )


def _reaches_m(frames: list[Frame], motion: Motion) -> Numbers:
    """(T - 1,) how far the camera may move in each step: longer where it took longer than usual."""
    seconds = np.array([np.nan if f.seconds is None else f.seconds for f in frames])
    pauses = np.diff(seconds)
    if not len(pauses) or np.isnan(pauses).any() or not np.median(pauses) > 0.0:
        return np.full(len(pauses), motion.step_m)
    return np.asarray(motion.step_m * (pauses / np.median(pauses)).clip(1.0, LONGEST_PAUSE))


def sums_around(steps: Numbers, window: int) -> Numbers:
    """(T - 1,) numbers of steps to (T,) sums over up to `window` steps before and after a frame."""
    sums = np.concatenate([[0.0], np.cumsum(steps)])
    frames = np.arange(len(sums))
    last, first = np.minimum(frames + window, len(steps)), np.maximum(frames - window, 0)
    return np.asarray(sums[last] - sums[first])


class _Spots:
    """The distinct centres of a frame's states, and which states stand at each."""

    def __init__(self, frame: Frame, origin: Numbers) -> None:
        self.headings = np.radians(frame.headings_deg)
        _, one, spot_of = np.unique(frame.rows, return_index=True, return_inverse=True)
        self.tree = cKDTree(_metres(frame.centres[one] - origin, origin[0]))
        self.states = np.argsort(spot_of, kind="stable")
        self.count = np.bincount(spot_of)
        self.first = self.count.cumsum() - self.count


def _area_m2(reach_m: float | Numbers, motion: Motion) -> Numbers:
    """The integral of `step` of the formulas above, before it is divided by it."""
    sigma = motion.step_sigma_m
    return np.asarray(
        np.pi * (reach_m**2 + np.sqrt(2.0 * np.pi) * sigma * reach_m + 2.0 * sigma**2)
    )


def moves_between(before: _Spots, after: _Spots, reach_m: float, motion: Motion) -> Moves:
    """The pairs within reach."""
    near = before.tree.sparse_distance_matrix(
        after.tree, reach_m + STEP_SIGMAS * motion.step_sigma_m, output_type="ndarray"
    )
    over = np.maximum(0.0, near["v"] - reach_m) / motion.step_sigma_m
    start, end, pair = _states(before, after, near["i"], near["j"])
    turned = np.cos(after.headings[end] - before.headings[start])
    turn = np.exp((turned - 1.0) / np.radians(motion.turn_sigma_deg) ** 2)
    step = (np.exp(-0.5 * over**2) / _area_m2(reach_m, motion))[pair]
    return Moves(start, end, step * (motion.turn_tail + (1.0 - motion.turn_tail) * turn))


def _states(before: _Spots, after: _Spots, spot: Rows, end: Rows) -> tuple[Rows, Rows, Rows]:
    """All pairs of states that stand at pairs of spots, and the number of each one's pair."""
    counts = before.count[spot] * after.count[end]
    pair = np.repeat(np.arange(len(counts)), counts)
    within = np.arange(len(pair)) - np.repeat(counts.cumsum() - counts, counts)
    across, down = np.divmod(within, after.count[end[pair]])
    return (
        before.states[before.first[spot[pair]] + across],
        after.states[after.first[end[pair]] + down],
        pair,
    )


def directions_of(moves: Moves, before: Frame, after: Frame, motion: Motion) -> Directions:
    """Where the moves between two frames lead."""
    start, end = moves.start, moves.end
    degrees = after.centres[end] - before.centres[start]
    north, east = _metres(degrees, before.centres[0, 0]).T
    metres = np.hypot(north, east)
    turned = np.radians(_wrapped(after.headings_deg[end] - before.headings_deg[start]))
    heading = np.radians(before.headings_deg[start]) + turned / 2.0
    noise = np.arctan2(motion.tile_noise_m, metres)
    sharpness = 1.0 / (np.radians(motion.lead_sigma_deg) ** 2 + noise**2)
    lead = np.exp(1j * (np.arctan2(east, north) - heading))
    return Directions(metres, lead, sharpness, 1.0 / i0e(sharpness))


def _seen(frames: Sequence[Frame], motion: Motion) -> list[Numbers]:
    """For each frame (K,), `seen` of the formulas above."""
    return [
        np.exp(-(frame.distances - frame.distances.min()) / motion.temperature) for frame in frames
    ]


class _Chain:
    """The forward pass over given moves; the backward pass follows where it is asked for.

    weights are scaled frame by frame, so that nothing underflows.
    """

    def __init__(self, likelihoods: list[Numbers], moves: list[Moves], jump: float) -> None:
        self._seen, self._moves, self._jump = likelihoods, moves, jump
        self._forward = [self._seen[0] / self._seen[0].sum()]
        evidence = []
        for move, seen in zip(moves, self._seen[1:], strict=True):
            arriving = self._forward[-1][move.start] * move.weight
            state = seen * (np.bincount(move.end, arriving, len(seen)) + self._jump)
            total = float(state.sum())
            evidence.append(np.log(total))
            self._forward.append(state / total)
        self.evidence = np.array(evidence)

    @cached_property
    def _backward(self) -> list[Numbers]:
        behind = [np.ones(len(self._seen[-1]))]
        for move, seen, after in zip(
            reversed(self._moves), reversed(self._seen[:-1]), reversed(self._seen[1:]), strict=True
        ):
            ahead = after * behind[-1]
            back = np.bincount(move.start, move.weight * ahead[move.end], len(seen))
            state = back + self._jump * ahead.sum()
            behind.append(state / state.max())
        return behind[::-1]

    def weights(self) -> list[Numbers]:
        """For each frame the probabilities of its states."""
        products = [a * b for a, b in zip(self._forward, self._backward, strict=True)]
        return [product / product.sum() for product in products]

    def driven(self, directions: list[Directions]) -> tuple[Leads, Numbers]:
        """(T - 1,) for each step: means of metres times lead, and of metres."""
        turned, driven = [], []
        for move, direction, before, after, behind in zip(
            self._moves,
            directions,
            self._forward[:-1],
            self._seen[1:],
            self._backward[1:],
            strict=True,
        ):
            ahead = after * behind
            share = before[move.start] * move.weight * ahead[move.end]
            metres = share / (share.sum() + self._jump * ahead.sum()) * direction.metres
            turned.append((metres * direction.lead).sum())
            driven.append(metres.sum())
        return np.array(turned, np.complex128), np.array(driven)


def _metres(degrees: Numbers, latitude: float) -> Numbers:
    """(K, 2) differences of latitude and longitude, near a latitude, to metres north and east."""
    scale = metres_per_degree(latitude)
    return np.stack([degrees[:, 0] * scale.north, _wrapped(degrees[:, 1]) * scale.east], axis=1)


def _wrapped(degrees: Numbers) -> Numbers:
    return np.asarray((degrees + 180.0) % 360.0 - 180.0)

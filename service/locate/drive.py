"""Locates the frames of a drive together: `drive_path` follows one path through their candidates.

A narrow photograph looks like many places, but few of them continue a street. A single photograph
is a drive of one frame.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from model.errors import SkyfixError
from model.geo import LatLon
from model.heading_estimate import Rolls
from service.index.stored_calibration import Calibration
from service.locate.candidates import Mask
from service.locate.confidence import fuse
from service.locate.drive_path import USUAL, DrivePath, Frame, Motion, follow

if TYPE_CHECKING:
    from service.index.search import TileIndex

Descriptors = NDArray[np.float32]
Numbers = NDArray[np.float64]

# Candidates of a frame. Of narrow frames, one in thirteen lacks its true tile among 200. Without a
# heading each tile stands there several times.
STATES, STATES_OF_ROLLS = 1000, 3000
TILES_A_ROLL = 500  # of each heading that is tried, before the best states are taken
GAP_S = 120.0  # a longer pause ends a drive
# The confidence is the logistic function of these numbers times (1, log odds of the weight around
# the position, steadiness, excess): fitted to the drives of docs/benchmarks.md.
CONFIDENCE = (-7.085, 0.469, 8.9, -0.325)
RADIUS_SCALE = 1.0  # radius over spread that holds for nine in ten frames
STEADY = 0.7  # mean steadiness from which a mount is stated
LEAST_DEVIATION = 0.02  # of squared distances
MOST_DOUBT = 1e-3  # of a weight: beyond, the model is surer than its assumptions
LEAST = 1e-6  # weight, lest its logarithm is infinite


class DriveError(SkyfixError):
    """The frames make no drive."""


@dataclass(frozen=True)
class DriveFrame:
    """Where one frame was taken.

    heading_deg: of the centre column. tile_id: the likeliest tile. confidence: the probability that
    the frame was taken within radius_m of the position. in_index: whether this is likely.
    """

    position: LatLon
    radius_m: float
    confidence: float
    in_index: bool
    heading_deg: float
    tile_id: str


@dataclass(frozen=True)
class Drive:
    """The frames of one drive, in their order.

    mount_deg: from the direction of travel to the camera's heading, None where the drive does not
    keep to one. index_version: what was searched.
    """

    frames: tuple[DriveFrame, ...]
    mount_deg: float | None
    index_version: str


def frame_of(
    index: TileIndex,
    rolls: Rolls,
    descriptors: Descriptors,
    seconds: float | None = None,
    allowed: Mask | None = None,
) -> Frame:
    """The candidates of one photograph.

    Args:
        rolls: the R headings that are tried. descriptors: (R, D), one for each heading.
        allowed: the rows that may be candidates, one at least; None: all.

    Where several headings are tried, a candidate is a tile at a heading that fits better than the
    headings beside it: a street looks alike from both ends, and only the drive can tell.
    """
    depth = STATES if rolls.count == 1 else TILES_A_ROLL
    distances, rows = index.search(descriptors, depth, allowed)
    if rolls.count == 1:
        headings = np.full(rows.shape[1], rolls.first_deg)
        return Frame(
            rows[0],
            index.tiles.positions(rows[0]),
            distances[0].astype(np.float64),
            headings,
            seconds,
        )
    tiles = np.unique(rows)
    squared = 2.0 - 2.0 * (index.vectors[tiles] @ descriptors.T)
    closed = rolls.closed
    tile, roll = np.nonzero(_is_least(squared, closed=closed))
    best = np.argsort(squared[tile, roll], kind="stable")[:STATES_OF_ROLLS]
    tile, roll = tile[best], roll[best]
    headings = rolls.heading_between(squared[tile], roll)
    rows = tiles[tile]
    return Frame(
        rows, index.tiles.positions(rows), squared[tile, roll].astype(np.float64), headings, seconds
    )


def _is_least(squared: Descriptors, *, closed: bool) -> NDArray[np.bool_]:
    """(T, R): where a heading's distance is below its neighbours'."""
    before, after = np.roll(squared, 1, axis=1), np.roll(squared, -1, axis=1)
    if not closed:
        before[:, 0] = after[:, -1] = np.inf
    return np.asarray((squared <= before) & (squared < after))


def locate_drive(index: TileIndex, frames: Sequence[Frame], motion: Motion = USUAL) -> list[Drive]:
    """The drives that the frames make, in their order: a pause of more than GAP_S ends a drive.

    Raises:
        DriveError: no frame, or times that go backwards.
    """
    if not frames:
        raise DriveError("a drive needs one frame at least")
    return [_located(index, follow(part, motion)) for part in _without_gaps(list(frames))]


def _located(index: TileIndex, path: DrivePath) -> Drive:
    numbers = replace(
        index.calibration,
        agreement_temperature=index.calibration.temperature,
        radius_scale=RADIUS_SCALE,
        weights=None,
    )
    steady = float(path.steadiness.mean()) >= STEADY
    return Drive(
        tuple(
            _frame(index, numbers, *values)
            for values in zip(
                path.frames, path.weights, path.steadiness, _excess(path), strict=True
            )
        ),
        path.mount_deg if steady else None,
        index.version,
    )


def _excess(path: DrivePath) -> Numbers:
    """(T,) how far a frame's distance lies above the drive's median, in median deviations.

    Where the index has no imagery, even the best path leads through tiles that look otherwise.
    """
    expected = np.array(
        [
            weights @ frame.distances
            for frame, weights in zip(path.frames, path.weights, strict=True)
        ]
    )
    above = expected - np.median(expected)
    return np.asarray(np.maximum(above, 0.0) / (np.median(np.abs(above)) + LEAST_DEVIATION))


def _frame(
    index: TileIndex,
    numbers: Calibration,
    frame: Frame,
    weights: Numbers,
    steadiness: float,
    excess: float,
) -> DriveFrame:
    """The position on which the weights agree: `fuse` reads a weight's logarithm as a distance."""
    distances = -numbers.temperature * np.log(np.maximum(weights, LEAST))
    fused = fuse(frame.centres, distances, numbers)
    share = min(max(fused.agreement, MOST_DOUBT), 1.0 - MOST_DOUBT)
    features = (1.0, np.log(share / (1.0 - share)), steadiness, excess)
    confidence = float(expit(np.dot(CONFIDENCE, features)))
    near = index.tiles.distance_m(frame.rows, fused.position) <= numbers.reach_m
    turned = np.exp(1j * np.radians(frame.headings_deg)) * weights * near
    return DriveFrame(
        fused.position,
        fused.radius_m,
        confidence,
        confidence >= 0.5,
        float(np.degrees(np.angle(turned.sum()))) % 360.0,
        index.tiles[int(frame.rows[np.argmax(weights)])].tile_id,
    )


def _without_gaps(frames: list[Frame]) -> Iterator[list[Frame]]:
    part = frames[:1]
    for before, after in itertools.pairwise(frames):
        pause = 0.0
        if before.seconds is not None and after.seconds is not None:
            pause = after.seconds - before.seconds
        if pause < 0.0:
            raise DriveError(f"a frame was taken {-pause:g} s before the frame ahead of it")
        if pause > GAP_S:
            yield part
            part = []
        part.append(after)
    yield part

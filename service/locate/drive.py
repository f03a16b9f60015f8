"""Locates the frames of a drive together: `drive_path` follows one path through their candidates.

A narrow photograph looks like many places, but few of them continue a street. A drive of one frame
is answered as a single photograph.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter1d
from scipy.special import expit

from model.errors import SkyfixError
from model.geo import LatLon
from model.heading_estimate import Rolls
from service.index.stored_calibration import Calibration
from service.locate.candidates import Mask
from service.locate.confidence import FusedPosition, fuse
from service.locate.drive_path import USUAL, DrivePath, Frame, Motion, follow, sums_around

if TYPE_CHECKING:
    from service.index.search import TileIndex

Descriptors = NDArray[np.float32]
Numbers = NDArray[np.float64]

# Candidates of a frame. Of narrow frames, one in thirteen lacks its true tile among 200. Without a
# heading each tile stands there several times.
STATES, STATES_OF_ROLLS = 1000, 3000
TILES_A_ROLL = 500  # nearest tiles of each heading that is tried; the best become states
GAP_S = 120.0  # a longer pause ends a drive
# The confidence is the logistic function of these numbers times (1, log odds of the weight around
# the position, steadiness, mean evidence of the steps around, logarithm of their number, share of
# the horizon, the same times the mean distance of the frames around): fitted to drives of towns
# 9004 to 9006, inside the index, outside it and with gaps. A whole panorama outside the index is
# known by its distance, a narrow photograph is not.
CONFIDENCE = (-2.344, 0.475, 4.364, 0.911, -0.418, 10.646, -12.861)
AROUND = 10  # steps before and after a frame, for its confidence
RADIUS_SCALE = 1.0  # radius over spread; the confidence is fitted to it
STEADY = 0.7  # mean steadiness from which a mount is stated
MOST_DOUBT = 1e-3  # least doubt of a weight: with less, the model is surer than its assumptions
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
    allowed: Mask | None = None,
    arc_deg: float = 360.0,
) -> Frame:
    """The candidates of one photograph.

    Args:
        rolls: the R headings that are tried. descriptors: (R, D), one for each heading.
        allowed: the rows that may be candidates, one at least; None: all.
        arc_deg: how much of the horizon the photograph shows.

    Where several headings are tried, a candidate is a tile at a heading that fits better than the
    headings beside it: a street looks alike from both ends, and only the drive can tell.
    """
    depth = STATES if rolls.count == 1 else TILES_A_ROLL
    distances, rows = index.search(descriptors, depth, allowed)
    if rolls.count == 1:
        found, distance = rows[0], distances[0]
        headings = np.full(len(found), rolls.first_deg)
    else:
        tiles = np.unique(rows)
        squared = 2.0 - 2.0 * (index.vectors[tiles] @ descriptors.T)
        tile, roll = np.nonzero(_is_least(squared, closed=rolls.closed))
        best = np.argsort(squared[tile, roll], kind="stable")[:STATES_OF_ROLLS]
        tile, roll = tile[best], roll[best]
        found, distance = tiles[tile], squared[tile, roll]
        headings = rolls.heading_between(squared[tile], roll)
    centres = index.tiles.positions(found)
    return Frame(found, centres, distance.astype(np.float64), headings, arc_deg=arc_deg)


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
    return [
        _located(index, follow(part, motion)) if len(part) > 1 else _one(index, *part)
        for part in _without_gaps(list(frames))
    ]


def _located(index: TileIndex, path: DrivePath) -> Drive:
    numbers = replace(
        index.calibration,
        agreement_temperature=index.calibration.temperature,
        radius_scale=RADIUS_SCALE,
        weights=None,
    )
    steps = sums_around(np.ones_like(path.evidence), AROUND)
    evidence = sums_around(path.evidence, AROUND) / steps
    around = np.stack([path.steadiness, evidence, np.log(steps), *_looks(path)], axis=1)
    frames = [
        _frame(index, numbers, *values)
        for values in zip(path.frames, path.weights, around, strict=True)
    ]
    steady = float(path.steadiness.mean()) >= STEADY
    return Drive(tuple(frames), path.mount_deg if steady else None, index.version)


def _looks(path: DrivePath) -> tuple[Numbers, Numbers]:
    """(T,) each: the frames' share of the horizon; times the mean distance of those around."""
    shares = np.array([frame.arc_deg / 360.0 for frame in path.frames])
    expected = [w @ f.distances for f, w in zip(path.frames, path.weights, strict=True)]
    return shares, shares * uniform_filter1d(expected, 2 * AROUND + 1, mode="nearest")


def _frame(
    index: TileIndex,
    numbers: Calibration,
    frame: Frame,
    weights: Numbers,
    around: Numbers,
) -> DriveFrame:
    """The position on which the weights agree: `fuse` reads a weight's logarithm as a distance."""
    distances = -numbers.temperature * np.log(np.maximum(weights, LEAST))
    fused = fuse(frame.centres, distances, numbers)
    share = min(max(fused.agreement, MOST_DOUBT), 1.0 - MOST_DOUBT)
    features = (1.0, np.log(share / (1.0 - share)), *around)
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


def alone(index: TileIndex, frame: Frame) -> FusedPosition:
    """The frame without a drive: as `Localizer.answer`, from each tile at its best heading."""
    _, first = np.unique(frame.rows, return_index=True)  # nearest first
    nearest = np.sort(first)[: index.calibration.depth]
    return fuse(frame.centres[nearest], frame.distances[nearest], index.calibration)


def _one(index: TileIndex, frame: Frame) -> Drive:
    """A drive of one frame. Uncalibrated, its confidence is 0."""
    fused = alone(index, frame)
    nearest = int(np.argmin(frame.distances))
    only = DriveFrame(
        fused.position,
        fused.radius_m,
        fused.confidence or 0.0,
        bool(fused.in_index),
        float(frame.headings_deg[nearest]) % 360.0,
        index.tiles[int(frame.rows[nearest])].tile_id,
    )
    return Drive((only,), None, index.version)


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

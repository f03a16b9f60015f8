"""Drives among the tiles of a made-up region, whose looks change smoothly over the ground."""

from __future__ import annotations

import numpy as np
import pytest
from index_samples import write_version
from numpy.typing import NDArray

from model.geo import LatLon, distance_m, offset
from model.heading_estimate import Rolls
from service.index.search import TileIndex
from service.locate.confidence import fuse
from service.locate.drive import DriveFrame, frame_of, locate_drive
from service.locate.drive_path import Frame

CORNER, SIDE_M, STRIDE_M, DIMENSION = LatLon(50.0, 15.0), 640.0, 16.0, 64
Places = NDArray[np.float64]  # (N, 2) metres east and north of the corner


def looks(places: Places) -> NDArray[np.float64]:
    """(N, D) unit vectors; the inner product of two is near exp(-r^2 / 2 (20 m)^2)."""
    frequencies = np.random.default_rng(7).normal(0.0, 1 / 20.0, (2, DIMENSION // 2))
    angles = places @ frequencies
    return np.hstack([np.cos(angles), np.sin(angles)]) / np.sqrt(DIMENSION / 2)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> TileIndex:
    steps = np.arange(0.0, SIDE_M, STRIDE_M)
    places = np.stack(np.meshgrid(steps, steps), -1).reshape(-1, 2)
    centres = np.array([offset(CORNER, *place) for place in places])
    vectors = looks(places).astype(np.float32)
    folder = tmp_path_factory.mktemp("index")
    return TileIndex.open(
        write_version(folder, len(vectors), DIMENSION, vectors=vectors, places=centres)
    )


def frames_at(
    index: TileIndex, places: Places, heading_deg: float, alike: float, seed: int = 0
) -> list[Frame]:
    """Photographs at places. alike: inner product with the looks of the place, 0 to 1."""
    noise = np.random.default_rng(seed).standard_normal((len(places), DIMENSION))
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    seen = alike * looks(places) + np.sqrt(1.0 - alike**2) * noise
    seen /= np.linalg.norm(seen, axis=1, keepdims=True)
    rolls = Rolls.within(0.0, heading_deg, widest_step_deg=10.0)
    return [frame_of(index, rolls, descriptor[None].astype(np.float32)) for descriptor in seen]


def eastward(count: int, north_m: float, start_m: float = 50.0) -> Places:
    return np.stack([start_m + 12.0 * np.arange(count), np.full(count, north_m)], axis=1)


def errors_m(frames: tuple[DriveFrame, ...], places: Places) -> NDArray[np.float64]:
    return np.array(
        [distance_m(f.position, offset(CORNER, *p)) for f, p in zip(frames, places, strict=True)]
    )


def test_a_drive_that_leaves_the_index_says_so_there_and_recovers(index: TileIndex) -> None:
    places = eastward(40, 300.0)
    seen = frames_at(index, places, 90.0, alike=0.75)
    seen[15:25] = frames_at(index, places[15:25], 90.0, alike=0.0, seed=1)
    (drive,) = locate_drive(index, seen)
    inside = np.array([frame.in_index for frame in drive.frames])
    assert inside[:12].all()
    assert inside[28:].all()
    assert inside[15:25].mean() <= 0.1
    assert errors_m(drive.frames, places)[np.r_[:12, 28:40]].max() < 25.0


def test_drives_on_parallel_streets_are_not_mixed_up(index: TileIndex) -> None:
    for north_m in (304.0, 352.0):
        places = eastward(30, north_m)
        (drive,) = locate_drive(index, frames_at(index, places, 90.0, alike=0.65))
        assert errors_m(drive.frames, places).max() < 25.0


def test_a_drive_of_one_frame_is_answered_as_a_single_photograph(index: TileIndex) -> None:
    (frame,) = frames_at(index, eastward(1, 300.0), 90.0, alike=0.9)
    (drive,) = locate_drive(index, [frame])
    (located,) = drive.frames
    depth = index.calibration.depth
    single = fuse(frame.centres[:depth], frame.distances[:depth], index.calibration)
    assert (located.position, located.radius_m) == (single.position, single.radius_m)
    assert drive.mount_deg is None


@pytest.mark.parametrize("count", [3, 15])
def test_a_drive_wholly_outside_the_index_is_said_to_be(index: TileIndex, count: int) -> None:
    said = []
    for seed in range(10):
        seen = frames_at(index, eastward(count, 300.0), 90.0, alike=0.0, seed=seed)
        (drive,) = locate_drive(index, seen)
        said += [frame.in_index for frame in drive.frames]
    assert np.mean(said) <= 0.1

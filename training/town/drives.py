"""Drives: frames that a vehicle took one after another, on one day, with a mounted camera."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

import numpy as np

from training.town.camera import PANORAMA, Camera, Shot
from training.town.day import Day
from training.town.numba_options import F64
from training.town.poses import Pose
from training.town.routes import SPEEDS, Network, Route, drive_along
from training.town.town import Town, TownError

_BOUNDS = {
    "count": (1, 1e4), "frames": (1, 1e5), "step_m": (0.5, 1e3), "step_s": (0.05, 60),
    "mount_deg": (-360, 360),
}  # fmt: skip


@dataclass(frozen=True)
class DrivePlan:
    """How a town's drives are made. Frames are `step_m` metres apart, or `step_s` seconds."""

    count: int
    frames: int = 40
    step_m: float = 12.0
    step_s: float | None = None
    mount_deg: float | None = None  # from the direction of travel to the heading; None: random
    camera: Camera = PANORAMA

    def __post_init__(self) -> None:
        for name, (low, high) in _BOUNDS.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise TownError(f"{name} is {value:g}: give {low:g} to {high:g}")


class Drive(NamedTuple):
    """Frames in order, their times strictly increasing."""

    mount_deg: float
    shots: list[Shot]


def take_drive(town: Town, streets: Network, plan: DrivePlan, number: int, day: Day) -> Drive:
    """The drive of that number, whatever the others are, on that day."""
    rng = np.random.default_rng([town.spec.seed, 31, number])
    start, mount = _start(rng), rng.uniform(0, 360)
    mount = round(float(mount if plan.mount_deg is None else plan.mount_deg), 2)
    eye, tilt = rng.uniform(1.6, 3.0), rng.normal(0, 1.0, 2)
    route, metres = _way(streets, plan, rng)
    places, directions, seconds = route.at(metres)
    tilts = tilt + rng.normal(0, 0.3, (plan.frames, 2))  # the vehicle nods and sways
    shots, digits = [], max(3, len(str(plan.frames - 1)))
    for k, (x, y) in enumerate(places):
        east, north = (round(float(metre), 3) for metre in town.to_crs(x, y))
        angles = ((directions[k] + mount) % 360, eye, *tilts[k])
        pose = Pose(f"{k:0{digits}d}", east, north, *(round(float(a), 2) for a in angles))
        time = start + timedelta(milliseconds=round(1000 * seconds[k]))
        shots.append(Shot(f"{pose.id}.jpg", pose, day, plan.camera, time))
    return Drive(mount, shots)


def _way(streets: Network, plan: DrivePlan, rng: np.random.Generator) -> tuple[Route, F64]:
    """A route, and after how many metres of it each frame is taken."""
    steps = np.arange(float(plan.frames))
    if plan.step_s is None:
        return drive_along(streets, steps[-1] * plan.step_m, rng), steps * plan.step_m
    seconds = steps * plan.step_s
    route = drive_along(streets, 1.1 * max(SPEEDS.values()) * seconds[-1], rng)
    return route, np.interp(seconds, route.seconds, route.metres)


def _start(rng: np.random.Generator) -> datetime:
    """A local time of some day, from 9 to 16 o'clock, to the millisecond."""
    date = datetime(2026, int(rng.integers(1, 13)), int(rng.integers(1, 29)), 9)
    return date + timedelta(milliseconds=int(rng.integers(7 * 3_600_000)))

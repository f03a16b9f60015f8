"""How a camera leans: pitch and roll, and the rotation that levels its images."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MIN_TILT_DEG = 0.3  # half a row of the shipped strip; below, levelling blurs more than it mends


class Tilt(NamedTuple):
    """Rotations of a camera, applied after its heading: pitch, then roll. GPano's convention.

    Attributes:
        pitch_deg: positive where the centre column looks up; -90 to 90.
        roll_deg: positive where the camera leans to its right, so that the horizon turns
            counter-clockwise in the image; -180 to 180.
    """

    pitch_deg: float = 0.0
    roll_deg: float = 0.0

    @property
    def to_level(self) -> NDArray[np.float64]:
        """(3, 3): the camera's axes (right, forward, up) to level axes of the same heading."""
        p, r = np.radians([self.pitch_deg, self.roll_deg])
        pitch = np.array([[1, 0, 0], [0, np.cos(p), -np.sin(p)], [0, np.sin(p), np.cos(p)]])
        roll = np.array([[np.cos(r), 0, np.sin(r)], [0, 1, 0], [-np.sin(r), 0, np.cos(r)]])
        return np.asarray(pitch @ roll)

    @property
    def is_level(self) -> bool:
        """Whether the tilt is too small to be worth a resampling."""
        return self.angle_deg < MIN_TILT_DEG

    @property
    def angle_deg(self) -> float:
        """Degrees between the camera's upward axis and the vertical, 0 to 180."""
        return math.degrees(math.acos(min(1.0, float(self.to_level[2, 2]))))

    def towards(self, azimuth_deg: float) -> tuple[float, Tilt]:
        """The same rotation, seen from another direction of the camera's horizontal plane.

        Args:
            azimuth_deg: the direction, clockwise from the camera's forward axis.

        Returns:
            The heading of this direction less that of the camera, degrees; and its tilt.
        """
        if self == LEVEL or azimuth_deg == 0.0:  # exactly, without rounding
            return azimuth_deg, self
        a = math.radians(azimuth_deg)
        turn = np.array([[math.cos(a), math.sin(a), 0], [-math.sin(a), math.cos(a), 0], [0, 0, 1]])
        right, ahead, up = (self.to_level @ turn).T
        pitch_deg = math.degrees(math.asin(min(1.0, max(-1.0, ahead[2]))))
        roll_deg = math.degrees(math.atan2(-right[2], up[2]))
        return math.degrees(math.atan2(ahead[0], ahead[1])), Tilt(pitch_deg, roll_deg)


LEVEL = Tilt()

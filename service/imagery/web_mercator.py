"""Web Mercator's square world: 0 to 1 from west to east, and from north to south."""

from __future__ import annotations

import math


def longitude_at(x: float) -> float:
    """Degrees at x: -180 at 0, 180 at 1."""
    return x * 360.0 - 180.0


def latitude_at(y: float) -> float:
    """Degrees at y: 85.05 north at 0, 85.05 south at 1."""
    return math.degrees(math.atan(math.sinh(math.pi * (1.0 - 2.0 * y))))


def y_of(latitude: float) -> float:
    """The inverse of `latitude_at`."""
    return (1.0 - math.asinh(math.tan(math.radians(latitude))) / math.pi) / 2.0

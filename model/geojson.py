"""Points, lines and boxes as geometries of GeoJSON, RFC 7946: longitude stands first."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

from model.geo import Bounds, LatLon


def point(position: LatLon) -> dict[str, Any]:
    """The position as a Point."""
    return {"type": "Point", "coordinates": [position.longitude, position.latitude]}


def line(positions: Sequence[LatLon]) -> dict[str, Any] | None:
    """The line through the positions, cut where it crosses 180 degrees. None: fewer than two."""
    if len(positions) < 2:
        return None
    lines = [[[positions[0].longitude, positions[0].latitude]]]
    for (south, west), (north, east) in itertools.pairwise(positions):
        if abs(east - west) > 180.0:
            side = math.copysign(180.0, west)
            share = (side - west) / ((east + 2.0 * side - west) or 1.0)
            latitude = south + share * (north - south)
            lines[-1].append([side, latitude])
            lines.append([[-side, latitude]])
        lines[-1].append([east, north])
    if len(lines) == 1:
        return {"type": "LineString", "coordinates": lines[0]}
    return {"type": "MultiLineString", "coordinates": lines}


def outline(bounds: Bounds) -> dict[str, Any]:
    """The box's outline, closed and counter-clockwise; cut in two where it crosses 180 degrees."""
    west, south, east, north = bounds
    if west <= east:
        return {"type": "Polygon", "coordinates": [_ring(bounds)]}
    halves = Bounds(west, south, 180.0, north), Bounds(-180.0, south, east, north)
    return {"type": "MultiPolygon", "coordinates": [[_ring(half)] for half in halves]}


def _ring(bounds: Bounds) -> list[list[float]]:
    west, south, east, north = bounds
    return [[west, south], [east, south], [east, north], [west, north], [west, south]]

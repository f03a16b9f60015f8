"""The part of the Earth that a user wants: a box or polygons in WGS84 degrees.

Longitudes run from -180 to 180; whatever crosses the dateline is split there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from model.errors import SkyfixError
from model.geo import Bounds, LatLon, metres_per_degree

MAX_EDGE_DEG = 180.0  # a longer edge means another way around the Earth
WGS84_NAMES = ("CRS84", "4326")
GRID_DEG = 1e-7  # that corners lie on: about a centimetre
WORLD = (-180.0, -90.0, 180.0, 90.0)


class AreaError(SkyfixError):
    """An area that cannot be used; the message says why and what to do."""


class Area:
    """Polygons; immutable.

    bounds: the box around all of them; all around the Earth where they cross the dateline.
    """

    def __init__(self, polygons: shapely.Geometry) -> None:
        """Raises AreaError where nothing is left on the grid of GRID_DEG."""
        clipped = [shapely.clip_by_rect(copy, *WORLD) for copy in _copies(polygons)]
        parts = shapely.get_parts(clipped)
        whole = shapely.union_all(parts[shapely.area(parts) > 0.0])
        self._polygons = shapely.normalize(shapely.set_precision(whole, GRID_DEG))
        if self._polygons.is_empty:
            raise AreaError("the area holds no ground: give polygons of a centimetre or more")
        shapely.prepare(self._polygons)
        self.bounds = Bounds(*self._polygons.bounds)

    @classmethod
    def of_bounds(cls, bounds: Bounds) -> Area:
        """A box, which crosses the dateline where west > east."""
        west, south, east, north = bounds
        return cls(shapely.box(west, south, east + 360.0 * (west > east), north))

    @classmethod
    def of_geojson(cls, path: Path) -> Area:
        """All polygons of a GeoJSON file.

        Raises:
            AreaError: see there; the message names the file.
        """
        try:
            return cls(shapely.union_all([_polygons(part) for part in _geometries(_read(path))]))
        except AreaError as error:
            raise AreaError(f"{path}: {error}") from error

    @classmethod
    def of_text(cls, text: str) -> Area:
        """The inverse of `text`."""
        return cls(shapely.from_wkt(text))

    def __str__(self) -> str:
        return f"{','.join(f'{v:.7g}' for v in self.bounds)} (west,south,east,north)"

    def text(self) -> str:
        """Well-known text; the same for the same area."""
        return str(shapely.to_wkt(self._polygons, rounding_precision=7))

    def contains(self, point: LatLon) -> bool:
        """Whether a point lies inside or on the edge."""
        (latitude, longitude), (west, south, east, north) = point, self.bounds
        if not (west <= longitude <= east and south <= latitude <= north):
            return False  # the polygons cost five times as much
        return bool(shapely.intersects_xy(self._polygons, longitude, latitude))

    def touches(self, shapes: NDArray[np.object_]) -> NDArray[np.bool_]:
        """Which of the shapes, (N,), lie partly inside; they may run on past the dateline."""
        touched = [shapely.intersects(self._polygons, copy) for copy in _copies(shapes)]
        return np.asarray(np.any(touched, axis=0))

    def grown(self, metres: float) -> Area:
        """The area and all ground within `metres` of it, and a little more."""
        farthest = min(max(-self.bounds.south, self.bounds.north), 89.0)
        return Area(self._polygons.buffer(metres / metres_per_degree(farthest).east))

    @property
    def parts(self) -> list[Bounds]:
        """The boxes around the polygons, one each."""
        return [Bounds(*part.bounds) for part in shapely.get_parts(self._polygons)]


def _copies(shapes: Any) -> list[Any]:
    """The same shapes one turn around the Earth to the west, here, and to the east."""
    turns = np.array([[-360.0, 0.0], [0.0, 0.0], [360.0, 0.0]])
    return [shapely.transform(shapes, turn.__add__) for turn in turns]


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise AreaError(f"not a GeoJSON file that can be read: {error}") from error
    if not isinstance(document, dict):
        raise AreaError("not GeoJSON: the file holds no object")
    crs = json.dumps(document.get("crs") or "CRS84")
    if not any(name in crs for name in WGS84_NAMES):
        raise AreaError(f"its crs is {crs[:100]}: convert it, as by ogr2ogr -t_srs EPSG:4326")
    return document


def _geometries(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The geometries of a FeatureCollection, a Feature, or a geometry itself."""
    members = document.get("features") or document.get("geometries")
    if isinstance(members, list):
        return [part for member in members for part in _geometries(member)]
    return [document.get("geometry") or document]


def _polygons(geometry: dict[str, Any]) -> shapely.Geometry:
    kind = geometry.get("type")
    if kind not in ("Polygon", "MultiPolygon"):
        raise AreaError(f"holds a {kind}: give polygons")
    try:
        shape = shapely.from_geojson(json.dumps(geometry))
    except shapely.errors.GEOSException as error:
        raise AreaError(f"holds a {kind} that cannot be read: {error}") from error
    if shape.is_empty:
        raise AreaError(f"holds an empty {kind}")
    if not shape.is_valid:
        raise AreaError(f"a ring is wrong: {shapely.is_valid_reason(shape)}: mend it in a GIS")
    west, south, east, north = shape.bounds
    if not (-360.0 <= west <= east <= 540.0 and -90.0 <= south <= north <= 90.0):
        raise AreaError(
            f"its coordinates, {west:g} to {east:g} and {south:g} to {north:g}, are no longitudes "
            "and latitudes: convert it, as by ogr2ogr -t_srs EPSG:4326"
        )
    for ring in shapely.get_rings(shape):
        edges = np.abs(np.diff(shapely.get_coordinates(ring)[:, 0]))
        if ((edges > MAX_EDGE_DEG) & (edges < 2.0 * MAX_EDGE_DEG)).any():
            raise AreaError(
                f"an edge spans {edges.max():g} degrees of longitude: split the polygon at the "
                "dateline, or let its longitudes run on past 180"
            )
    return shape

"""An area is what its polygons cover, wherever the dateline runs; anything else is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import shapely
from hypothesis import assume, given
from hypothesis import strategies as st
from imagery_samples import patchwork, write_raster

from model.geo import Bounds, LatLon, distance_m, offset
from service.imagery.area import Area, AreaError
from service.imagery.reading import Reading
from service.index.catalogue import Catalogue
from service.ingest import NothingToIngest, ingest

SQUARE = [[15.0, 50.0], [15.2, 50.0], [15.2, 50.1], [15.0, 50.1], [15.0, 50.0]]
HOLE = [[15.05, 50.02], [15.05, 50.08], [15.1, 50.08], [15.1, 50.02], [15.05, 50.02]]
POLYGON = {"type": "Polygon", "coordinates": [SQUARE, HOLE]}

LONGITUDES = st.integers(-180, 180)


@given(LONGITUDES, LONGITUDES, st.integers(-179, 179), st.integers(-90, 90))
def test_a_box_holds_what_lies_between_its_sides(
    west: int, east: int, longitude: int, latitude: int
) -> None:
    assume(west != east and abs(west - east) != 360)
    box = Area.of_bounds(Bounds(west, -60.0, east, 60.0))
    between = (longitude - west) % 360 <= (east - west) % 360
    assert box.contains(LatLon(latitude, longitude)) == (between and abs(latitude) <= 60.0)


def written(path: Path, document: Any) -> Path:
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


FORMS = [
    POLYGON,
    {"type": "MultiPolygon", "coordinates": [[SQUARE, HOLE], [[[0, 0], [1, 0], [1, 1], [0, 0]]]]},
    {"type": "Feature", "geometry": POLYGON, "properties": {}},
    {"type": "FeatureCollection", "features": [{"type": "Feature", "geometry": POLYGON}]},
    {"type": "GeometryCollection", "geometries": [POLYGON]},
]


@pytest.mark.parametrize("document", FORMS, ids=lambda d: d["type"])
def test_every_form_of_geojson_polygons_is_read(tmp_path: Path, document: Any) -> None:
    area = Area.of_geojson(written(tmp_path / "area.geojson", document))
    inside = [LatLon(50.05, 15.15), LatLon(50.05, 15.07), LatLon(50.05, 15.25)]
    assert [area.contains(point) for point in inside] == [True, False, False]
    assert Area.of_text(area.text()).text() == area.text()


def ring(*points: tuple[float, float]) -> dict[str, Any]:
    return {"type": "Polygon", "coordinates": [[*points, points[0]]]}


BAD = [
    ("{", "can be read"),
    ("[]", "no object"),
    ({"type": "FeatureCollection", "features": []}, "give polygons"),
    ({"type": "Point", "coordinates": [15, 50]}, "holds a Point"),
    ({"type": "Feature", "geometry": None}, "give polygons"),
    ({"type": "Polygon", "coordinates": []}, "empty"),
    ({"type": "Polygon", "coordinates": [["x"]]}, "cannot be read"),
    (ring((15, 50), (16, 51), (16, 50), (15, 51)), "Self-intersection"),
    (ring((500_000, 5_540_000), (501_000, 5_540_000), (501_000, 5_541_000)), "EPSG:4326"),
    (ring((179, 10), (-179, 10), (-179, 11), (179, 11)), "dateline"),
    ({**POLYGON, "crs": {"properties": {"name": "urn:ogc:def:crs:EPSG::25832"}}}, "25832"),
]  # fmt: skip


@pytest.mark.parametrize(("document", "problem"), BAD)
def test_other_areas_are_refused_with_the_file_and_the_reason(
    tmp_path: Path, document: Any, problem: str
) -> None:
    with pytest.raises(AreaError, match=rf"area\.geojson.*{problem}"):
        Area.of_geojson(written(tmp_path / "area.geojson", document))


@pytest.mark.parametrize(
    "crossing", [Bounds(179.9, 10.0, -179.9, 10.1), Bounds(15.0, 60.0, 15.1, 60.1)]
)
def test_a_grown_area_holds_the_ground_around(crossing: Bounds) -> None:
    area = Area.of_bounds(crossing).grown(100.0)
    corner = LatLon(crossing.north, crossing.east)
    assert all(area.contains(offset(corner, e, n)) for e, n in ((70, 70), (0, 99), (99, 0)))
    assert not area.contains(offset(corner, 250.0, 250.0))


def test_touching_shapes_may_run_past_the_dateline() -> None:
    area = Area.of_bounds(Bounds(179.9, 10.0, -179.9, 10.1))
    shapes = shapely.box([179.95, 180.05, -180.2, 0.0], 10.0, [180.2, 180.09, -179.95, 1.0], 10.1)
    assert area.touches(shapes).tolist() == [True, True, True, False]


@pytest.fixture
def catalogue(tmp_path: Path):
    with Catalogue.of(tmp_path / "home") as catalogue:
        yield catalogue


def test_tiles_in_the_area_alone_are_ingested_and_the_area_is_remembered(
    catalogue: Catalogue, tmp_path: Path
) -> None:
    path = write_raster(tmp_path / "town.tif", patchwork(400, 400))
    whole = ingest(catalogue, path, size_m=32.0)
    every = list(catalogue.tiles())
    middle = every[len(every) // 2].centre
    area = Area.of_text(shapely.Point(middle.longitude, middle.latitude).buffer(0.0005).wkt)
    report = ingest(catalogue, path, size_m=32.0, reading=Reading(area=area.text()))
    assert list(catalogue.tiles()) == [tile for tile in every if area.contains(tile.centre)]
    assert 0 < report.tiles < whole.tiles
    assert report.tiles + report.outside == whole.tiles + whole.skipped_empty
    assert ingest(catalogue, path, size_m=32.0).tiles == report.tiles
    assert max(distance_m(middle, tile.centre) for tile in catalogue.tiles()) < 60.0


def test_an_area_beside_the_imagery_is_refused_with_both_extents(
    catalogue: Catalogue, tmp_path: Path
) -> None:
    path = write_raster(tmp_path / "town.tif", patchwork(400, 400))
    area = Area.of_bounds(Bounds(8.0, 50.0, 8.1, 50.1))
    with pytest.raises(
        NothingToIngest, match=r"area 8,50,8\.1,50\.1 .* span 15\S*,50\.\S+,15\.\S+"
    ):
        ingest(catalogue, path, size_m=32.0, reading=Reading(area=area.text()))
    assert catalogue.sources() == []


def test_an_area_without_ground_is_refused() -> None:
    with pytest.raises(AreaError, match="no ground"):
        Area.of_bounds(Bounds(15.0, 50.0, 15.0 + 1e-12, 50.0 + 1e-12))

"""GeoJSON by the letter of RFC 7946: order, rings, the dateline, no forbidden members."""

import itertools

import jsonschema
import pytest

from model.geo import Bounds, LatLon
from model.geojson import line, outline
from service.api.geojson import MEDIA_TYPE, SCHEMA, geojson, preferred
from service.api.schemas import FixSchema
from service.locate.fix import Fix, Match

GPX = "application/gpx+xml"


def fix(*bounds: Bounds) -> FixSchema:
    matches = tuple(
        Match(rank, f"t{rank}", -33.5, 151.0, box, 0.1 * rank, 90.0)
        for rank, box in enumerate(bounds, 1)
    )
    position = LatLon(-33.5, 151.0) if matches else None
    return FixSchema.model_validate(Fix(matches, position, "v1", "fa", {}, {"encode": 1.0}))


def signed_area(ring: list[list[float]]) -> float:
    pairs = itertools.pairwise(ring)
    return sum((x2 - x1) * (y2 + y1) for (x1, y1), (x2, y2) in pairs) / -2.0


@pytest.mark.parametrize("box", [Bounds(-1.0, 2.0, 3.0, 4.0), Bounds(179.5, -1.0, -179.0, 1.0)])
def test_outlines_are_closed_counter_clockwise_and_cover_the_box(box: Bounds) -> None:
    shape = outline(box)
    polygons = {
        "Polygon": [shape["coordinates"]],
        "MultiPolygon": shape["coordinates"],
    }[shape["type"]]
    area = 0.0
    for (ring,) in polygons:
        assert ring[0] == ring[-1]
        assert all(-180.0 <= longitude <= 180.0 for longitude, _ in ring)
        assert signed_area(ring) > 0.0  # section 3.1.6
        area += signed_area(ring)
    assert area == pytest.approx((box.east - box.west) % 360.0 * (box.north - box.south))
    assert shape["type"] == ("Polygon" if box.west < box.east else "MultiPolygon")


def test_a_line_is_cut_where_it_crosses_180_degrees() -> None:
    east, west = LatLon(10.0, 179.9), LatLon(12.0, -179.9)
    assert line([east]) is None
    track = line([east, west, east])
    assert track is not None
    assert track["type"] == "MultiLineString"
    ends = [(part[0], part[-1]) for part in track["coordinates"]]
    assert ends[0] == ([179.9, 10.0], [180.0, pytest.approx(11.0)])
    assert ends[1] == ([-180.0, pytest.approx(11.0)], [-180.0, pytest.approx(11.0)])
    assert ends[2] == ([180.0, pytest.approx(11.0)], [179.9, 10.0])


def test_coordinates_are_longitude_then_latitude() -> None:
    position, tile = geojson(fix(Bounds(150.9, -33.6, 151.1, -33.4)))["features"]
    assert position["geometry"] == {"type": "Point", "coordinates": [151.0, -33.5]}
    assert tile["bbox"] == [150.9, -33.6, 151.1, -33.4]
    assert (tile["id"], tile["properties"]["rank"]) == ("t1", 1)


def test_a_collection_has_no_member_that_the_rfc_forbids() -> None:
    """Section 7.1: no geometry, properties, coordinates or geometries beside features."""
    collection = geojson(fix(Bounds(0.0, 0.0, 1.0, 1.0)))
    assert collection.keys() == {"type", "features", "fix"}
    assert geojson(fix())["features"] == []


def test_the_schema_accepts_a_collection_and_no_other_document() -> None:
    validator = jsonschema.Draft202012Validator(SCHEMA)
    crossing = fix(Bounds(0.0, 0.0, 1.0, 1.0), Bounds(179.5, -1.0, -179.0, 1.0))
    for collection in (geojson(crossing), geojson(fix())):
        assert validator.is_valid(collection)
    for wrong in (
        crossing.model_dump(mode="json"),
        {"type": "FeatureCollection", "features": [{}]},
    ):
        assert not validator.is_valid(wrong)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", False),
        ("*/*", False),
        ("application/*", False),
        ("application/json", False),
        ("application/geo+json", True),
        ("Application/GEO+JSON", True),
        ("application/geo+jsonx", False),
        ("xapplication/geo+json", False),
        ("application/geo+json;q=0", False),
        ("application/geo+json; q=0.000", False),
        ("application/geo+json;q=0.001", True),
        ("application/json, application/geo+json;q=0.1", False),
        ("application/json;q=0.1,application/geo+json", True),
        ("application/json, application/geo+json", True),
        ("application/geo+json;q=0.5, */*;q=0.8", False),
        ("application/geo+json, */*;q=0.8", True),
        (
            "application/json;q=0.2, */*, application/geo+json;q=0.5",
            True,
        ),  # the more specific range counts
        ("text/html, application/geo+json ; q=0.9 , */*;q=0.1", True),
        ('text/html;x="a,b", application/geo+json', True),
        ("application/geo+json;q=much", False),
        ("application/geo+json;q=", False),
        ("application/geo+json;q=2", False),
    ],
)
def test_geojson_is_given_only_on_request(accept: str, expected: bool) -> None:
    assert preferred(accept, MEDIA_TYPE, GPX) == (MEDIA_TYPE if expected else None)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("application/gpx+xml", GPX),
        ("application/gpx+xml, application/geo+json;q=0.9, */*;q=0.8", GPX),
        ("application/gpx+xml;q=0.5, application/geo+json", MEDIA_TYPE),
        ("application/gpx+xml, application/geo+json", MEDIA_TYPE),
        ("application/gpx+xml;q=0.5, application/geo+json;q=0.6, application/json", None),
        ("application/gpx+xml;q=0", None),
    ],
)
def test_the_heaviest_media_type_is_given(accept: str, expected: str | None) -> None:
    assert preferred(accept, MEDIA_TYPE, GPX) == expected

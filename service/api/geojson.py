"""A fix as RFC 7946 GeoJSON: the position as a point, each match as the outline of its tile."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.request import parse_http_list

from model.geo import Bounds, LatLon
from model.geojson import outline, point
from service.api.schemas import FIX_EXAMPLE, FixSchema

MEDIA_TYPE = "application/geo+json"
_JSON_RANGES = ("application/json", "application/*", "*/*")  # the most specific first
_WEIGHT = re.compile(r"[01]|0\.\d{0,3}|1\.0{0,3}")


def preferred(accept: str, *offered: str) -> str | None:
    """The media type to which an Accept header (RFC 9110, section 12.5.1) gives most weight.

    offered: media types beside JSON; each wins a tie with JSON and those after it. None: JSON,
    which wildcards mean. A range with an invalid weight is ignored, and so is everything beyond
    the first 1,000 characters.
    """
    accept = accept[:1000].lower()
    if not any(name in accept for name in offered):  # most requests
        return None
    weights: dict[str, float] = {}
    for item in parse_http_list(accept):
        media_range, *parameters = (part.strip() for part in item.split(";"))
        stated = [part.removeprefix("q=") for part in parameters if part.startswith("q=")]
        if all(map(_WEIGHT.fullmatch, stated)):
            weights[media_range] = float(stated[0]) if stated else 1.0
    json = next((weights[name] for name in _JSON_RANGES if name in weights), 0.0)
    best = max(offered, key=lambda name: weights.get(name, 0.0))
    return best if weights.get(best, 0.0) >= max(json, 0.001) else None


def geojson(fix: FixSchema) -> dict[str, Any]:
    """A FeatureCollection; coordinates are longitude, latitude.

    The other members of the answer stand in the foreign member `fix`, because section 7.1 of the
    RFC forbids a member `geometry` beside `features`.
    """
    members = fix.model_dump(mode="json")
    matches, position = members.pop("matches"), members["position"]
    features = []
    if position:
        stated = {"heading_deg": matches[0]["heading_deg"]}
        features.append(feature("position", point(LatLon(**position)), "position", stated))
    for match in matches:
        box = match.pop("bounds")
        shape = outline(Bounds(*box))
        features.append({**feature(match["tile_id"], shape, "match", match), "bbox": box})
    return {"type": "FeatureCollection", "features": features, "fix": members}


def feature(
    name: str, geometry: object, kind: str, properties: Mapping[str, object]
) -> dict[str, Any]:
    """A feature. name: unique in the collection."""
    return {
        "type": "Feature",
        "id": name,
        "geometry": geometry,
        "properties": {"kind": kind, **properties},
    }


_FEATURE = {
    "type": "object",
    "required": ["type", "id", "geometry", "properties"],
    "properties": {
        "type": {"const": "Feature"},
        "id": {"type": "string", "description": "`position`, or a tile's id"},
        "geometry": {
            "type": "object",
            "required": ["type", "coordinates"],
            "properties": {
                "type": {"enum": ["Point", "Polygon", "MultiPolygon"]},
                "coordinates": {"type": "array", "description": "longitude, latitude in degrees"},
            },
        },
        "properties": {
            "type": "object",
            "required": ["kind", "heading_deg"],
            "properties": {"kind": {"enum": ["position", "match"]}},
        },
    },
}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": "the position, if there is one, then the matches, best first",
    "required": ["type", "features", "fix"],
    "properties": {
        "type": {"const": "FeatureCollection"},
        "features": {"type": "array", "items": _FEATURE},
        "fix": {"type": "object", "description": "the JSON answer without `matches`"},
    },
    "examples": [geojson(FixSchema.model_validate(FIX_EXAMPLE))],
}

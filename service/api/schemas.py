"""What goes over the wire, with units and examples. `skyfix locate --json` prints the same."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from service.fix import Fix, Match
from service.hints import (
    DEFAULT_RADIUS_M,
    LIMITS,
    MAX_TOP_K,
    Hints,
    parse_bbox,
    parse_near,
)

Degrees = Annotated[float, Field(description="degrees")]
_MATCH: JsonDict = {
    "rank": 1,
    "tile_id": "town-16-178034-512",
    "latitude": 25.7615,
    "longitude": -80.19325,
    "bounds": [-80.1936, 25.7612, -80.1929, 25.7618],
    "distance": 0.412,
    "heading_deg": 90.0,
}


class _Answer(BaseModel):
    model_config = ConfigDict(from_attributes=True, extra="forbid")


class StatedSchema(_Answer):
    """One value of the panorama's geometry and where it came from."""

    value: float | None = Field(description="null when unknown")
    source: str = Field(
        description="given, GPano, EXIF, EXIF (magnetic), assumed or unknown", examples=["GPano"]
    )


class MatchSchema(_Answer):
    """One tile of the index, and how well it fits."""

    model_config = ConfigDict(json_schema_extra={"examples": [_MATCH]})

    rank: int = Field(ge=1, description="1 is the best")
    tile_id: str = Field(description="stable across rebuilds; GET /tiles/{tile_id}.jpg shows it")
    latitude: Degrees = Field(description="of the tile's centre, WGS84 degrees")
    longitude: Degrees = Field(description="of the tile's centre, WGS84 degrees")
    bounds: tuple[float, float, float, float] = Field(
        description="west, south, east, north in WGS84 degrees; west > east crosses the dateline"
    )
    distance: float = Field(
        description="squared L2 distance of unit descriptors: 0 (same) to 4 (opposite)"
    )
    heading_deg: float = Field(
        description="degrees clockwise from north that the panorama's centre column faces: the "
        "stated heading, or the best of the evenly spaced headings tried when none is stated"
    )


class PositionSchema(_Answer):
    """The centre of the best match's tile. Not calibrated: see its distance before trusting it."""

    latitude: Degrees = Field(description="WGS84 degrees", examples=[25.7615])
    longitude: Degrees = Field(description="WGS84 degrees", examples=[-80.19325])


class FixSchema(_Answer):
    """Where the panorama was taken, as far as one index version can tell."""

    position: PositionSchema | None = Field(
        description="centre of the best match's tile; null when the place hints allow no tile"
    )
    matches: list[MatchSchema] = Field(description="best first, at most top_k")
    index_version: str = Field(examples=["20250102T030405Z-1a2b3c4d"])
    encoder: str = Field(description="fingerprint of the weights and their preprocessing")
    geometry: dict[str, StatedSchema] = Field(
        description="heading_deg, north, horizon, vertical_fov_deg and horizontal_fov_deg that "
        "were used, each with its source"
    )
    timings_ms: dict[str, float] = Field(
        description="milliseconds per stage; encode and search are those of the whole batch",
        examples=[{"geometry": 0.4, "decode": 12.1, "encode": 9.0, "search": 0.6}],
    )

    @classmethod
    def of(cls, fix: Fix) -> FixSchema:
        """The wire form of a fix."""
        position = fix.position
        return cls(
            position=PositionSchema(**position._asdict()) if position else None,
            matches=[MatchSchema(**vars(match)) for match in fix.matches],
            index_version=fix.index_version,
            encoder=fix.encoder,
            geometry={name: StatedSchema(**vars(one)) for name, one in fix.geometry.items()},
            timings_ms=fix.timings_ms,
        )


class ReadySchema(_Answer):
    """The canary's answer."""

    status: str = Field(examples=["ready"])
    index_version: str
    encoder: str


class IndexSchema(BaseModel):
    """An index version: its manifest, plus whether it is the live one."""

    model_config = ConfigDict(extra="allow")

    version: str
    live: bool


class VersionsSchema(_Answer):
    """All index versions, oldest first."""

    current: str | None = Field(description="the version CURRENT points to; null when none")
    versions: list[str]


class ProblemSchema(BaseModel):
    """RFC 9457 problem details; `detail` names the offending value and what is allowed."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(examples=["urn:skyfix:problem:image"])
    title: str = Field(examples=["The upload is not a usable image"])
    status: int = Field(examples=[422])
    detail: str = Field(examples=["the image is empty (0 bytes): send a JPEG, PNG or WebP file"])
    instance: str = Field(examples=["/localize"])


def geojson(fix: Fix) -> dict[str, Any]:
    """RFC 7946 FeatureCollection: each match as the point of its tile's centre.

    A feature's `bbox` is the tile (RFC 7946 section 5.2: west > east crosses the dateline). The
    answer's other members stand beside `features` as foreign members.
    """
    beside = FixSchema.of(fix).model_dump(exclude={"matches"})
    return {
        "type": "FeatureCollection",
        "features": [_feature(match) for match in fix.matches],
        **beside,
    }


def _feature(match: Match) -> dict[str, Any]:
    properties = {f.name: getattr(match, f.name) for f in dataclasses.fields(match)}
    bounds = properties.pop("bounds")
    place = [properties.pop("longitude"), properties.pop("latitude")]
    return {
        "type": "Feature",
        "id": match.tile_id,
        "geometry": {"type": "Point", "coordinates": place},
        "bbox": list(bounds),
        "properties": properties,
    }


def _bounded(name: str, description: str, example: float) -> Any:
    low, high = LIMITS[name]
    return Field(
        None, ge=low, le=high, allow_inf_nan=False, description=description, examples=[example]
    )


class LocateQuery(BaseModel):
    """The query parameters of POST /localize; anything else in the query string is refused."""

    model_config = ConfigDict(extra="forbid")

    top_k: int = Field(10, ge=1, le=MAX_TOP_K, description="how many matches at most")
    heading_deg: float | None = _bounded(
        "heading_deg",
        "degrees clockwise from north that the panorama's centre column faces",
        90.0,
    )
    north: float | None = _bounded(
        "north", "the same as (0.5 - heading_deg / 360) mod 1; give one of the two", 0.25
    )
    vertical_fov_deg: float | None = _bounded(
        "vertical_fov_deg", "degrees from the bottom row to the top row", 180.0
    )
    horizontal_fov_deg: float | None = _bounded(
        "horizontal_fov_deg", "degrees from the left to the right edge; 360 is a full turn", 360.0
    )
    horizon: float | None = _bounded(
        "horizon", "the horizon's row as a fraction of the height, from the top", 0.5
    )
    near: str | None = Field(
        None,
        max_length=80,
        description="latitude,longitude in degrees: only tiles centred within radius_m of it",
        examples=["25.7615,-80.1932"],
    )
    radius_m: float | None = _bounded(
        "radius_m", f"metres around near; {DEFAULT_RADIUS_M:g} when near stands alone", 500.0
    )
    bbox: str | None = Field(
        None,
        max_length=160,
        description="west,south,east,north in degrees: only tiles centred inside; west > east "
        "crosses the dateline",
        examples=["-80.21,25.75,-80.18,25.78"],
    )

    def hints(self) -> Hints:
        """The same as Hints; HintError for contradictions and unreadable places."""
        return Hints(
            heading_deg=self.heading_deg,
            north=self.north,
            vertical_fov_deg=self.vertical_fov_deg,
            horizontal_fov_deg=self.horizontal_fov_deg,
            horizon=self.horizon,
            near=None if self.near is None else parse_near(self.near),
            radius_m=self.radius_m,
            bbox=None if self.bbox is None else parse_bbox(self.bbox),
        )

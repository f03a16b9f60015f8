"""What goes over the wire, with units and examples. `skyfix locate --json` prints the same."""

from __future__ import annotations

import base64
import io
from typing import Annotated, Literal

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from service.locate.fix import Explanation, Fix, Match

Degrees = Annotated[float, Field(description="degrees")]
Box = Annotated[list[float], Field(min_length=4, max_length=4)]
_VERSION = "000007-20260731T101500Z"
_ENCODER = "8c6976e5b5410415bde908bd4dee15dfb167a9c873fc4bb8a81f6f2ab448a918"
_MATCH: JsonDict = {
    "rank": 1,
    "tile_id": "town-16m-n178034-e512",
    "latitude": 25.7615,
    "longitude": -80.19325,
    "bounds": [-80.1936, 25.7612, -80.1929, 25.7618],
    "distance": 0.412,
    "heading_deg": 90.0,
}
FIX_EXAMPLE: JsonDict = {
    "position": {"latitude": 25.7615, "longitude": -80.19325},
    "radius_m": 11.5,
    "confidence": 0.93,
    "in_index": True,
    "matches": [_MATCH],
    "index_version": _VERSION,
    "encoder": _ENCODER,
    "geometry": {
        "heading_deg": {"value": 90.0, "source": "given"},
        "north": {"value": 0.25, "source": "given"},
        "horizon": {"value": 0.5, "source": "assumed"},
        "vertical_fov_deg": {"value": 180.0, "source": "assumed"},
        "horizontal_fov_deg": {"value": 360.0, "source": "assumed"},
    },
    "timings_ms": {"geometry": 0.4, "decode": 12.1, "queue": 0.1, "encode": 9.0, "search": 0.6},
    "explanation": None,
    "note": None,
}
_NOTE = (
    "no tile of the index is centred within 500 m of near=55.0,-165.0: widen the hint, or leave it "
    "out"
)
_INDEX: JsonDict = {
    "version": _VERSION,
    "live": True,
    "bounds": [-80.2131, 25.7502, -80.1782, 25.7798],
    "encoder": _ENCODER,
    "preprocessing": {"aerial_footprint_m": 64.0, "aerial_pixels": 128},
    "dimension": 1024,
    "count": 1444,
    "tile_size_m": [64.0, 64.0],
    "sources": [
        {
            "name": "town",
            "kind": "raster",
            "stride_m": 32.0,
            "licence": "CC0-1.0",
            "attribution": "the town's survey",
            "ingested_at": "2026-07-31T09:58:41+00:00",
            "tiles": 1444,
        }
    ],
    "built_at": "2026-07-31T10:15:00+00:00",
    "files": {"vectors.faiss": {"bytes": 2957440, "sha256": _ENCODER}},
    "calibration": {"reach_m": 32.0, "spacing_m": 32.0, "depth": 32, "source": "not calibrated"},
    "engine": {"kind": "exact"},
    "metric": "squared L2 of unit vectors",
    "format": 2,
}
_PROBLEM: JsonDict = {
    "type": "urn:skyfix:problem:image",
    "title": "The upload is not a usable image",
    "status": 422,
    "detail": "the image is empty (0 bytes): send a JPEG, PNG or WebP file",
    "instance": "/localize/batch",
}


def _like(*examples: JsonDict) -> ConfigDict:
    """A schema's own configuration, which adds to its parent's."""
    return ConfigDict(json_schema_extra={"examples": list(examples)})


class _Answer(BaseModel):
    # JSON has no NaN: pydantic would write null.
    model_config = ConfigDict(from_attributes=True, extra="forbid", allow_inf_nan=False)


class StatedSchema(_Answer):
    """One value of the panorama's geometry and where it came from."""

    value: float | None = Field(description="null when unknown")
    source: str = Field(
        description="given, GPano, EXIF, EXIF (magnetic), assumed or unknown", examples=["GPano"]
    )


class MatchSchema(_Answer):
    """One tile of the index, and how well it fits."""

    model_config = _like(_MATCH)

    rank: int = Field(ge=1, description="1 is the best")
    tile_id: str = Field(description="stable across rebuilds; GET /tiles/{tile_id}.jpg shows it")
    latitude: Degrees = Field(description="of the tile's centre, WGS84 degrees")
    longitude: Degrees = Field(description="of the tile's centre, WGS84 degrees")
    bounds: Box = Field(
        description="west, south, east, north in WGS84 degrees; west > east crosses the dateline"
    )
    distance: float = Field(
        description="squared L2 distance of unit descriptors: 0 (same) to 4 (opposite)"
    )
    heading_deg: float = Field(
        description="degrees clockwise from north that the panorama's centre column faces: the "
        "stated heading, or the best of the evenly spaced headings tried when none is stated"
    )

    @classmethod
    def of(cls, match: Match) -> MatchSchema:
        """The wire form of a match."""
        return cls(**{**vars(match), "bounds": list(match.bounds)})


class PositionSchema(_Answer):
    """The place that the nearest tiles agree on."""

    latitude: Degrees = Field(description="WGS84 degrees", examples=[25.7615])
    longitude: Degrees = Field(description="WGS84 degrees", examples=[-80.19325])


class ExplanationSchema(_Answer):
    """What the network saw: the panorama projected to a view from above, north up."""

    model_config = _like(
        {
            "projected": "data:image/jpeg;base64,/9j/4AAQ",
            "attention": "data:image/png;base64,iVBORw0K",
            "heading_deg": 90.0,
        }
    )

    projected: str = Field(
        description="data URI of a square JPEG", examples=["data:image/jpeg;base64,/9j/4AAQ"]
    )
    attention: str | None = Field(
        description="data URI of a grey PNG of the same size, black to white: how much each part "
        "counts; null for weights without attention",
        examples=["data:image/png;base64,iVBORw0K"],
    )
    heading_deg: Degrees = Field(
        description="heading of the panorama's centre column that the projection supposes"
    )

    @classmethod
    def of(cls, explanation: Explanation) -> ExplanationSchema:
        """The wire form: the mask as 256 shades of grey."""
        mask = explanation.attention
        grey = None if mask is None else (mask.clip(0.0, 1.0) * 255.0).round().astype(np.uint8)
        return cls(
            projected=_data_uri(Image.fromarray(explanation.projected), "jpeg"),
            attention=None if grey is None else _data_uri(Image.fromarray(grey), "png"),
            heading_deg=explanation.heading_deg,
        )


def _data_uri(image: Image.Image, file_format: str) -> str:
    buffer = io.BytesIO()
    image.save(buffer, file_format.upper())
    return f"data:image/{file_format};base64,{base64.b64encode(buffer.getvalue()).decode()}"


class FixSchema(_Answer):
    """Where the panorama was taken, as far as one index version can tell."""

    model_config = _like(FIX_EXAMPLE)

    position: PositionSchema | None = Field(
        description="fused from the nearest tiles and their neighbours, whatever top_k is; null "
        "when the place hints allow no tile, as note then says"
    )
    radius_m: float | None = Field(
        description="metres around the position; null where that is", examples=[11.5]
    )
    confidence: float | None = Field(
        ge=0.0,
        le=1.0,
        description="calibrated probability that the panorama was taken within radius_m of the "
        "position, supposing that half of all panoramas come from elsewhere; null when this index "
        "was not calibrated",
        examples=[0.93],
    )
    in_index: bool | None = Field(
        description="false: probably not taken where this index has imagery; null when this index "
        "was not calibrated"
    )
    matches: list[MatchSchema] = Field(description="best first, at most top_k")
    index_version: str = Field(examples=[_VERSION])
    encoder: str = Field(description="fingerprint of the weights and their preprocessing")
    geometry: dict[str, StatedSchema] = Field(
        description="heading_deg, north, horizon, vertical_fov_deg and horizontal_fov_deg that "
        "were used, each with its source"
    )
    timings_ms: dict[str, float] = Field(
        description="milliseconds per stage; encode and search are those of the whole batch",
        examples=[{"geometry": 0.4, "decode": 12.1, "encode": 9.0, "search": 0.6}],
    )

    explanation: ExplanationSchema | None = Field(None, description="with explain=true only")
    note: str | None = Field(
        None,
        description="why there is no position and no match; null when there is",
        examples=[_NOTE],
    )

    @classmethod
    def of(cls, fix: Fix) -> FixSchema:
        """The wire form of a fix."""
        position, explanation = fix.position, fix.explanation
        return cls(
            position=PositionSchema(**position._asdict()) if position else None,
            radius_m=fix.radius_m,
            confidence=fix.confidence,
            in_index=fix.in_index,
            matches=[MatchSchema.of(match) for match in fix.matches],
            index_version=fix.index_version,
            encoder=fix.encoder,
            geometry={name: StatedSchema(**vars(one)) for name, one in fix.geometry.items()},
            timings_ms=fix.timings_ms,
            explanation=ExplanationSchema.of(explanation) if explanation else None,
            note=fix.note,
        )


class ReadySchema(_Answer):
    """The canary's answer."""

    model_config = _like(  # FastAPI leaves nulls out of what it publishes, so trouble is shown
        {
            "status": "ready",
            "index_version": _VERSION,
            "encoder": _ENCODER,
            "trouble": "index version 000008-20260801T093000Z is not used: no weights with "
            "fingerprint 0b1d5e90c2a7 are in $SKYFIX_HOME/weights: put a whole copy of the "
            "checkpoint that built the index there",
        }
    )

    status: str = Field(examples=["ready"])
    index_version: str
    encoder: str
    trouble: str | None = Field(
        description="why the newest index version, or the weights that made it, cannot be used "
        "while an older version answers; that the file of the weights that answer was damaged; "
        "which job failed, if the last one did and no version was built since; null when all is "
        "well"
    )


class IndexSchema(BaseModel):
    """An index version: its manifest, plus whether it is the live one."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"examples": [_INDEX]})

    version: str = Field(examples=[_VERSION])
    live: bool
    bounds: Box = Field(
        description="west, south, east, north of the tiles' centres in WGS84 degrees; west > east "
        "crosses the dateline"
    )


class VersionsSchema(_Answer):
    """All index versions, oldest first."""

    model_config = _like({"current": _VERSION, "versions": ["000006-20260730T093000Z", _VERSION]})

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


class OutcomeSchema(_Answer):
    """What became of one panorama of a batch: exactly one of the two is not null."""

    model_config = _like({"fix": None, "problem": _PROBLEM})

    fix: FixSchema | None = None
    problem: ProblemSchema | None = None


class BatchSchema(_Answer):
    """One outcome for each panorama, in the order of the form."""

    model_config = _like(
        {"results": [{"fix": FIX_EXAMPLE, "problem": None}, {"fix": None, "problem": _PROBLEM}]}
    )

    results: list[OutcomeSchema]


class JobSchema(_Answer):
    """A batch job of this server. Jobs are forgotten when the server stops."""

    model_config = _like(
        {
            "id": "5f2b8c0e9d3a4b6f8e1c7a9d0b2c4e6f",
            "kind": "rebuild",
            "status": "succeeded",
            "started_at": "2026-07-31T10:14:12+00:00",
            "finished_at": "2026-07-31T10:15:00+00:00",
            "exit_code": 0,
            "log": [
                f"{_VERSION}: 1444 tiles (12 encoded, 1432 reused) in 41.7 s; it is live",
            ],
        }
    )

    id: str
    kind: Literal["rebuild"]
    status: Literal["running", "succeeded", "failed", "cancelled"]
    started_at: str = Field(description="ISO 8601, UTC")
    finished_at: str | None
    exit_code: int | None = Field(description="of the process; negative: the signal that ended it")
    log: list[str] = Field(description="the last lines that it printed")


class ActivatedSchema(_Answer):
    """The version that requests are answered from now on."""

    model_config = _like({"version": _VERSION, "tiles": 1444, "bytes": 3074276})

    version: str
    tiles: int
    bytes: int

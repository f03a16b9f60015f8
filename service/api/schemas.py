"""The JSON answers, with units and examples. `skyfix locate --json` prints FixSchema."""

from __future__ import annotations

import base64
import io
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.config import JsonDict

from service.runtime.jobs import Kind, Status

Degrees = Annotated[float, Field(description="degrees")]
# 1e-7 degrees are a centimetre. More digits than mean something are hard to read.
Coordinate = Annotated[Degrees, AfterValidator(lambda degrees: round(degrees, 7))]
Metres = Annotated[float, AfterValidator(lambda metres: round(metres, 1))]
Angle = Annotated[float, AfterValidator(lambda degrees: round(degrees, 2))]
Heading = Annotated[Angle, AfterValidator(lambda degrees: degrees % 360.0)]
Probability = Annotated[float, Field(ge=0.0, le=1.0), AfterValidator(lambda share: round(share, 4))]
Box = Annotated[list[float], Field(min_length=4, max_length=4)]
VERSION = "000007-20260731T101500Z"
ENCODER = "8c6976e5b5410415bde908bd4dee15dfb167a9c873fc4bb8a81f6f2ab448a918"
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
    "index_version": VERSION,
    "encoder": ENCODER,
    "geometry": {
        "heading_deg": {"value": 90.0, "source": "given"},
        "north": {"value": 0.25, "source": "given"},
        "projection": {"value": "equirectangular", "source": "assumed"},
        "horizon": {"value": 0.5, "source": "assumed"},
        "vertical_fov_deg": {"value": 180.0, "source": "assumed"},
        "horizontal_fov_deg": {"value": 360.0, "source": "assumed"},
        "pitch_deg": {"value": 0.0, "source": "assumed"},
        "roll_deg": {"value": 0.0, "source": "assumed"},
    },
    "timings_ms": {"geometry": 0.4, "decode": 12.1, "queue": 0.1, "encode": 9.0, "search": 0.6},
    "explanation": None,
    "note": None,
}
_INDEX: JsonDict = {
    "version": VERSION,
    "live": True,
    "bounds": [-80.2131, 25.7502, -80.1782, 25.7798],
    "encoder": ENCODER,
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
    "files": {"vectors.faiss": {"bytes": 2957440, "sha256": ENCODER}},
    "calibration": {"reach_m": 32.0, "spacing_m": 32.0, "depth": 32, "source": "not calibrated"},
    "engine": {"kind": "exact"},
    "metric": "squared L2 of unit vectors",
    "format": 2,
}
_PROBLEM: JsonDict = {
    "type": "urn:skyfix:problem:image",
    "title": "The upload is not a usable image",
    "status": 422,
    "detail": "the image is empty (0 bytes): send a JPEG, PNG, WebP or AVIF file",
    "instance": "/localize/batch",
}


def like(*examples: JsonDict) -> ConfigDict:
    """Examples of a schema; the rest of its configuration is its parent's."""
    return ConfigDict(json_schema_extra={"examples": list(examples)})


class Answer(BaseModel):
    # JSON has no NaN, and pydantic would write null
    model_config = ConfigDict(from_attributes=True, extra="forbid", allow_inf_nan=False)


class StatedSchema(Answer):
    """One value of the panorama's geometry, and its source."""

    value: float | str | None = Field(description="text for projection; null when unknown")
    source: str = Field(
        description='given, GPano, "GPano, corrected", EXIF, "EXIF, magnetic", assumed or unknown',
        examples=["GPano"],
    )
    note: str | None = Field(
        None,
        description="what was done to the stated value, or why it was ignored; else null",
        examples=["GPano's PoseHeadingDegrees 'n/a' is ignored: it is no heading"],
    )


class MatchSchema(Answer):
    """One tile of the index, and its distance from the panorama."""

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
        "best of the headings tried, which lie within the stated heading's tolerance"
    )


class PositionSchema(Answer):
    """The position that the nearest tiles agree on."""

    latitude: Coordinate = Field(description="WGS84 degrees")
    longitude: Coordinate = Field(description="WGS84 degrees")


def _jpeg_uri(pixels: object) -> object:
    return _data_uri(pixels, "jpeg") if isinstance(pixels, np.ndarray) else pixels


def _mask_uri(mask: object) -> object:
    if not isinstance(mask, np.ndarray):
        return mask
    return _data_uri((mask.clip(0.0, 1.0) * 255.0).round().astype(np.uint8), "png")


def _data_uri(pixels: NDArray[np.uint8], file_format: str) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, file_format.upper())
    return f"data:image/{file_format};base64,{base64.b64encode(buffer.getvalue()).decode()}"


class ExplanationSchema(Answer):
    """The view that the network read: the panorama projected as seen from above, north up."""

    model_config = like(
        {
            "projected": "data:image/jpeg;base64,/9j/4AAQ",
            "attention": "data:image/png;base64,iVBORw0K",
            "heading_deg": 90.0,
        }
    )

    projected: Annotated[str, BeforeValidator(_jpeg_uri)] = Field(
        description="data URI of a square JPEG"
    )
    attention: Annotated[str | None, BeforeValidator(_mask_uri)] = Field(
        description="data URI of a grey PNG of the same size, white where the network attends "
        "most; null for weights without attention"
    )
    heading_deg: Degrees = Field(
        description="heading of the panorama's centre column that the projection supposes"
    )


class FixSchema(Answer):
    """The place where the panorama was taken, found in one index version."""

    model_config = like(FIX_EXAMPLE)

    position: PositionSchema | None = Field(
        description="fused from the nearest tiles and their neighbours, whatever top_k is; null "
        "when near or bbox allow no tile, as note then says"
    )
    radius_m: Metres | None = Field(
        description="metres around the position; null without a position"
    )
    confidence: Probability | None = Field(
        description="calibrated probability that the panorama was taken within radius_m of the "
        "position, if half of all panoramas come from elsewhere; null without calibration",
    )
    in_index: bool | None = Field(
        description="false: probably not taken where this index has imagery, and confidence is "
        "below 0.5; null without calibration"
    )
    matches: list[MatchSchema] = Field(description="best first, at most top_k")
    index_version: str = Field(examples=[VERSION])
    encoder: str = Field(description="fingerprint of the weights and their preprocessing")
    geometry: dict[str, StatedSchema] = Field(
        description="the heading_deg, north, projection, horizon, vertical_fov_deg, "
        "horizontal_fov_deg, pitch_deg and roll_deg that were used, each with its source"
    )
    timings_ms: dict[str, float] = Field(
        description="milliseconds a stage; encode and search count for the whole batch"
    )

    explanation: ExplanationSchema | None = Field(None, description="with explain=true only")
    note: str | None = Field(
        None,
        description="why there is no position and no match; null when there is",
        examples=[
            "no tile of the index is centred within 500 m of near=55.0,-165.0: widen the hint, or "
            "leave it out"
        ],
    )


class ReadySchema(Answer):
    """The canary's answer."""

    model_config = like(  # FastAPI publishes no nulls in examples, so `trouble` has a value
        {
            "status": "ready",
            "index_version": VERSION,
            "encoder": ENCODER,
            "trouble": "index version 000008-20260801T093000Z is not used: no weights with "
            "fingerprint 0b1d5e90c2a7 are in $SKYFIX_HOME/weights: put a whole copy of the "
            "checkpoint that built the index there",
        }
    )

    status: str
    index_version: str
    encoder: str
    trouble: str | None = Field(
        description="null when all is well. Otherwise the reason why an older version answers "
        "than CURRENT names, the damage to the weights file, or the last job if it failed and no "
        "version was built since"
    )


class IndexSchema(BaseModel):
    """An index version: its manifest, plus whether it is the live one."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"examples": [_INDEX]})

    version: str = Field(examples=[VERSION])
    live: bool
    bounds: Box = Field(
        description="west, south, east, north of the tiles' centres in WGS84 degrees; west > east "
        "crosses the dateline"
    )


class VersionsSchema(Answer):
    """All index versions, oldest first."""

    model_config = like({"current": VERSION, "versions": ["000006-20260730T093000Z", VERSION]})

    current: str | None = Field(description="the version that CURRENT names; null for none")
    versions: list[str]


class ProblemSchema(BaseModel):
    """RFC 9457 problem details; `detail` names the offending value and what is allowed."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(examples=["urn:skyfix:problem:image"])
    title: str = Field(examples=["The upload is not a usable image"])
    status: int = Field(examples=[422])
    detail: str = Field(
        examples=["the image is empty (0 bytes): send a JPEG, PNG, WebP or AVIF file"]
    )
    instance: str = Field(examples=["/localize"])


class OutcomeSchema(Answer):
    """The outcome of one panorama of a batch: a fix or a problem, the other is null."""

    fix: FixSchema | None = None
    problem: ProblemSchema | None = None


class BatchSchema(Answer):
    """One outcome for each panorama, in the order of the form."""

    model_config = like(
        {"results": [{"fix": FIX_EXAMPLE, "problem": None}, {"fix": None, "problem": _PROBLEM}]}
    )

    results: list[OutcomeSchema]


class JobSchema(Answer):
    """A job of this server. The server forgets its jobs when it stops."""

    model_config = like(
        {
            "id": "5f2b8c0e9d3a4b6f8e1c7a9d0b2c4e6f",
            "kind": "rebuild",
            "status": "succeeded",
            "started_at": "2026-07-31T10:14:12+00:00",
            "finished_at": "2026-07-31T10:15:00+00:00",
            "exit_code": 0,
            "log": [
                f"{VERSION}: 1444 tiles (12 encoded, 1432 reused) in 41.7 s; it is live",
            ],
        }
    )

    id: str
    kind: Kind
    status: Status
    started_at: str = Field(description="ISO 8601, UTC")
    finished_at: str | None
    exit_code: int | None = Field(description="of the process; negative: number of the signal")
    log: list[str] = Field(description="the last lines that the job printed")


class ActivatedSchema(Answer):
    """The version that answers requests from now on."""

    model_config = like({"version": VERSION, "tiles": 1444, "bytes": 3074276})

    version: str
    tiles: int
    bytes: int

"""POST /localize, and the two health routes that tell whether it can work."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import JSONResponse, Response

from service.api.pipeline import Pipeline, unless_gone
from service.api.schemas import FixSchema, LocateQuery, ProblemSchema, ReadySchema, geojson
from service.api.upload import FIELD, read_panorama
from service.settings import Settings

router = APIRouter()

GEOJSON = "application/geo+json"

_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": [FIELD],
                    "properties": {
                        FIELD: {
                            "type": "string",
                            "format": "binary",
                            "description": "equirectangular street panorama: JPEG, PNG or WebP",
                        }
                    },
                }
            }
        },
    }
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI responses for these statuses, all of them problem+json."""
    content = {"application/problem+json": {"schema": ProblemSchema.model_json_schema()}}
    return {status: {"description": "problem", "content": content} for status in statuses}


@router.post(
    "/localize",
    summary="Where was this panorama taken?",
    response_model=FixSchema,
    responses={
        200: {"content": {GEOJSON: {"schema": {"type": "object"}}}},
        **problems(400, 408, 413, 415, 422, 503),
    },
    openapi_extra=_BODY,
)
async def localize(request: Request, query: Annotated[LocateQuery, Query()]) -> Response:
    """Match one panorama to the live index. `Accept: application/geo+json` gives GeoJSON.

    The heading is taken from the query, else from GPano XMP, else from EXIF; when nothing states
    it, evenly spaced headings are tried. The uploaded image is kept in memory only.
    """
    hints = query.hints()
    pipeline: Pipeline = request.app.state.pipeline
    settings: Settings = request.app.state.settings
    with pipeline.admitted():
        data = await read_panorama(
            request, max_bytes=settings.max_body_bytes, deadline_s=settings.body_deadline_s
        )
        fix = await unless_gone(_gone(request), pipeline.locate(data, hints, query.top_k))
    if fix is None:
        return Response(status_code=499)  # the client left; nobody reads this
    if GEOJSON in request.headers.get("accept", ""):
        return JSONResponse(geojson(fix), media_type=GEOJSON)
    return JSONResponse(FixSchema.of(fix).model_dump(mode="json"))


async def _gone(request: Request) -> None:
    """Returns when the client has left (the body has been read before)."""
    while (await request.receive())["type"] != "http.disconnect":
        await asyncio.sleep(0)


@router.get("/livez", summary="The process answers")
async def livez() -> dict[str, str]:
    """Says nothing about the model or the index: see /readyz."""
    return {"status": "alive"}


@router.get(
    "/readyz",
    summary="A real panorama would be located",
    response_model=ReadySchema,
    responses=problems(503),
)
async def readyz(request: Request) -> ReadySchema:
    """Sends a made-up panorama through decoding, model and live index."""
    pipeline: Pipeline = request.app.state.pipeline
    fix = await pipeline.canary()
    return ReadySchema(status="ready", index_version=fix.index_version, encoder=fix.encoder)

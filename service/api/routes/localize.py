"""POST /localize and POST /localize/batch."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel
from starlette.responses import JSONResponse, Response

from service.api.client_disconnect import unless_disconnected
from service.api.errors import document, problems
from service.api.geojson import MEDIA_TYPE, SCHEMA, geojson, preferred
from service.api.query import LocateQuery
from service.api.schemas import BatchSchema, FixSchema, OutcomeSchema, ProblemSchema
from service.api.upload import (
    FILE,
    FILES,
    BodyLimits,
    read_panorama,
    read_panoramas,
    request_body,
)
from service.locate.fix import Fix
from service.locate.hints import Hints
from service.runtime.batching import DeadlineExceededError
from service.runtime.pipeline import Pipeline
from service.settings import Settings

router = APIRouter(tags=["localize"])

_ALONE = ("image/jpeg", "image/png", "image/webp", "image/avif", "image/heic")
_PROBLEMS = problems(400, 408, 413, 415)


@router.post(
    "/localize",
    summary="Where was this panorama taken?",
    response_model=FixSchema,
    responses={200: {"content": {MEDIA_TYPE: {"schema": SCHEMA}}}, **_PROBLEMS},
    openapi_extra=request_body(FILE, *_ALONE),
)
async def localize(request: Request, query: Annotated[LocateQuery, Query()]) -> Response:
    """Match one panorama to the live index. `Accept: application/geo+json` gives GeoJSON.

    The heading comes from the query, else from GPano XMP, else from EXIF. Headings within its
    tolerance are tried, or all headings when none is stated. The upload is kept in memory only.
    The body is a form or the image itself, whose bytes count, whatever type is stated.
    """
    hints = query.hints()
    pipeline: Pipeline = request.app.state.pipeline
    settings: Settings = request.app.state.settings
    with pipeline.admission.reserve() as reservation:
        data = await read_panorama(request, BodyLimits.of(settings), reservation)
        reservation.start()
        work = pipeline.locate(data, hints, query.top_k, query.explain)
        try:
            fix = await unless_disconnected(request, work)
        except DeadlineExceededError:
            reservation.missed()
            raise
        reservation.answered((len(data).bit_length(), fix.rolls, query.explain))
    timing = _record(request, [fix])
    answer = FixSchema.model_validate(fix)
    if preferred(",".join(request.headers.getlist("accept")), MEDIA_TYPE):
        return JSONResponse(geojson(answer), headers=timing, media_type=MEDIA_TYPE)
    return _json(answer, timing)


@router.post(
    "/localize/batch",
    summary="Where were these panoramas taken?",
    response_model=BatchSchema,
    responses=_PROBLEMS,
    openapi_extra=request_body(FILES),
)
async def localize_batch(request: Request, query: Annotated[LocateQuery, Query()]) -> Response:
    """Repeat the field `panorama`; the parameters apply to every panorama.

    Each panorama has its own outcome, a fix or a problem. SKYFIX_MAX_FILES and
    SKYFIX_MAX_BODY_BYTES bound the whole form. The answer is JSON, whatever Accept says.
    """
    hints = query.hints()
    pipeline: Pipeline = request.app.state.pipeline
    settings: Settings = request.app.state.settings
    with pipeline.admission.reserve() as reservation:
        limits = BodyLimits.of(settings, settings.max_files, "send several forms")
        uploads = await read_panoramas(request, limits, reservation)
        reservation.start(len(uploads))
        work = asyncio.gather(*(_outcome(request, data, hints, query) for data in uploads))
        outcomes = await unless_disconnected(request, work)
    timing = _record(request, [outcome.fix for outcome in outcomes if outcome.fix])
    return _json(BatchSchema(results=outcomes), timing)


async def _outcome(
    request: Request, data: bytes, hints: Hints, query: LocateQuery
) -> OutcomeSchema:
    pipeline: Pipeline = request.app.state.pipeline
    try:
        fix = await pipeline.locate(data, hints, query.top_k, query.explain)
        return OutcomeSchema(fix=FixSchema.model_validate(fix))
    except Exception as error:  # the batch's other panoramas are still answered
        return OutcomeSchema(problem=ProblemSchema.model_validate(document(request, error)))


def _json(body: BaseModel, headers: dict[str, str]) -> Response:
    return Response(body.model_dump_json(), headers=headers, media_type="application/json")


def _record(request: Request, fixes: Sequence[Fix | FixSchema]) -> dict[str, str]:
    """Put versions and stages into the request's line of the log; the header Server-Timing.

    The panoramas of a batch are located side by side, so the longest time of each stage counts.
    """
    stages: dict[str, float] = {}
    for fix in fixes:
        for stage, ms in fix.timings_ms.items():
            stages[stage] = max(ms, stages.get(stage, 0.0))
    if not stages:
        return {}
    versions = sorted({fix.index_version for fix in fixes})
    request.state.log = {"index_version": ", ".join(versions), "stages_ms": stages}
    return {"Server-Timing": ", ".join(f"{stage};dur={ms:.1f}" for stage, ms in stages.items())}

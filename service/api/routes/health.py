"""GET /livez, /readyz and /metrics, for an operator's machinery."""

from __future__ import annotations

import asyncio
from typing import Literal

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from service.api.errors import problems
from service.api.schemas import ReadySchema
from service.runtime.jobs import Jobs
from service.runtime.live_localizer import LiveLocalizer
from service.runtime.metrics import Metrics
from service.runtime.pipeline import Pipeline

router = APIRouter(tags=["health"])


@router.get("/livez", summary="The process answers")
async def livez() -> dict[Literal["status"], Literal["alive"]]:
    """Says nothing about the model or the index: see /readyz."""
    return {"status": "alive"}


@router.get(
    "/readyz",
    summary="A real panorama would be located",
    response_model=ReadySchema,
    responses=problems(503),
)
async def readyz(request: Request) -> ReadySchema:
    """Sends a made-up panorama through decoder, model and live index.

    The service stays ready while an older version answers than CURRENT names, while the weights
    file is damaged, and after a job failed; `trouble` then says so.
    """
    pipeline: Pipeline = request.app.state.pipeline
    live: LiveLocalizer = request.app.state.live
    jobs: Jobs = request.app.state.jobs
    fix = await pipeline.canary()

    def found() -> list[str | None]:
        built_at = live.index.get().manifest.built_at
        return [live.trouble(), live.weights_trouble(), jobs.trouble(built_at)]

    troubles = await asyncio.to_thread(found)
    return ReadySchema(
        status="ready",
        index_version=fix.index_version,
        encoder=fix.encoder,
        trouble="; ".join(filter(None, troubles)) or None,
    )


@router.get(
    "/metrics",
    summary="Prometheus metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **problems(503)},
)
async def metrics(request: Request) -> Response:
    """For the operator's network: let no proxy pass this route on."""
    counted: Metrics = request.app.state.metrics
    page = await asyncio.to_thread(counted.page)
    return Response(page, media_type=CONTENT_TYPE_LATEST)

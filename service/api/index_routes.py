"""GET /index and /index/versions: what is live, and what else there is."""

from __future__ import annotations

from fastapi import APIRouter, Request

from service.api.localize_routes import problems
from service.api.schemas import IndexSchema, VersionsSchema
from service.localizer import LiveTiles

router = APIRouter(tags=["index"])


@router.get(
    "/index",
    summary="The live version's manifest",
    response_model=IndexSchema,
    responses=problems(503),
)
def index(request: Request) -> IndexSchema:
    """The version that answers now: encoder, imagery sources with licence, counts, when built."""
    live: LiveTiles = request.app.state.live
    tiles = live.get()
    return IndexSchema.model_validate({**tiles.manifest.as_dict(), "live": True})


@router.get("/index/versions", summary="All index versions", response_model=VersionsSchema)
def versions(request: Request) -> VersionsSchema:
    """Names in the order they were built; `current` is what CURRENT points to."""
    live: LiveTiles = request.app.state.live
    return VersionsSchema(current=live.versions.current(), versions=live.versions.names())

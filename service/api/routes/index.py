"""GET /index and /index/versions: the live version, and all versions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter, Request

from model.geo import Bounds
from service.api.schemas import IndexSchema, VersionsSchema
from service.runtime.live_localizer import LiveLocalizer

if TYPE_CHECKING:
    from service.index.search import TileIndex

router = APIRouter(tags=["index"])


@router.get("/index", summary="The live version's manifest", response_model=IndexSchema)
def index(request: Request) -> IndexSchema:
    """The version that answers now: encoder, sources with licence, counts, time of the build."""
    live: LiveLocalizer = request.app.state.live
    tiles = live.index.get()
    fields = {**tiles.manifest.as_dict(), "live": True, "bounds": list(_bounds(tiles))}
    return IndexSchema.model_validate(fields)


def _bounds(index: TileIndex) -> Bounds:
    """Around the tiles' centres, across the dateline where that is shorter."""
    latitude, longitude = index.tiles.latitude, index.tiles.longitude
    west, east = float(longitude.min()), float(longitude.max())
    if east - west > 180.0:
        west, east = float(longitude[longitude > 0].min()), float(longitude[longitude <= 0].max())
    return Bounds(west, float(latitude.min()), east, float(latitude.max()))


@router.get("/index/versions", summary="All index versions", response_model=VersionsSchema)
def versions(request: Request) -> VersionsSchema:
    """Names in the order of their builds; `current` is the name in CURRENT."""
    live: LiveLocalizer = request.app.state.live
    all_versions = live.index.versions
    return VersionsSchema(current=all_versions.current(), versions=all_versions.names())

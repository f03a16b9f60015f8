"""GET /tiles/{tile_id}.jpg and GET /map/{z}/{x}/{y}: the region's imagery as pictures."""

from __future__ import annotations

import asyncio
import io
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Path, Query, Request
from PIL import Image
from starlette.responses import Response

from model.errors import SkyfixError
from model.geo import Bounds, metres_per_degree
from model.images import Rgb
from service.api.client_disconnect import unless_disconnected
from service.api.errors import problems
from service.api.query import WRITTEN_PLAINLY
from service.basemap import MAX_IMAGES, MAX_ZOOM, MIN_ZOOM, BaseMap, MapTile
from service.imagery.tile_images import tile_image
from service.index.catalogue import Catalogue, TileUnknown
from service.runtime.batching import awaited
from service.runtime.live_localizer import LiveLocalizer
from service.settings import Settings

router = APIRouter(tags=["tiles"])

Zoom = Annotated[int, Path(ge=0, le=MAX_ZOOM), WRITTEN_PLAINLY]
Number = Annotated[int, Path(ge=0, lt=2**MAX_ZOOM), WRITTEN_PLAINLY]
_CACHED = {"Cache-Control": "public, max-age=300"}


@router.get(
    "/tiles/{tile_id}.jpg",
    summary="The aerial tile, north up",
    response_class=Response,
    responses={200: {"content": {"image/jpeg": {}}}, **problems(404, 410, 500)},
)
def tile(
    request: Request,
    tile_id: Annotated[str, Path(pattern=r"^[A-Za-z0-9._-]{1,128}$")],
    pixels: Annotated[
        int, Query(ge=32, le=1024, description="side of the picture"), WRITTEN_PLAINLY
    ] = 256,
) -> Response:
    """Cut from the imagery that the catalogue names; a tile id is never part of a file's path."""
    settings: Settings = request.app.state.settings
    if not settings.catalogue.exists():
        raise TileUnknown(f"no tile {tile_id!r}: nothing has been ingested yet")
    with Catalogue(settings.catalogue) as catalogue:
        picture = tile_image(catalogue, tile_id, pixels)
    return _jpeg(picture)


@router.get(
    "/map/{z}/{x}/{y}",
    summary="Web Mercator map tile, 256 pixels wide",
    response_class=Response,
    responses={
        200: {"content": {"image/jpeg": {}}},
        204: {"description": f"no imagery here, or zoom below {MIN_ZOOM}"},
        **problems(404, 410, 500),
    },
)
async def map_tile(request: Request, z: Zoom, x: Number, y: Number) -> Response:
    """Numbered as on OpenStreetMap: column x from 180 degrees west, row y from the north."""
    tile = MapTile(z, x, y).checked()
    base_map: BaseMap = request.app.state.base_map
    if z < MIN_ZOOM:
        return Response(status_code=204, headers=_CACHED)
    live: LiveLocalizer = request.app.state.live
    settings: Settings = request.app.state.settings
    near = await asyncio.to_thread(_tiles_near, live, tile)
    drawing = asyncio.wrap_future(base_map.draw(tile, near))
    async with awaited("map tile", settings.request_deadline_s):
        picture = await unless_disconnected(request, drawing)
    if picture is None:
        return Response(status_code=204, headers=_CACHED)
    return _jpeg(picture)


def _tiles_near(live: LiveLocalizer, tile: MapTile) -> list[str]:
    """Ids of the live version's tiles that reach into the map tile, at most 64."""
    try:
        index = live.index.get()
    except SkyfixError:  # before the first build, rasters are drawn all the same
        return []
    box, reach_m = tile.bounds, index.manifest.tile_size_m[1] / 2.0
    degrees = metres_per_degree((box.south + box.north) / 2.0)
    around = Bounds(
        west=max(-180.0, box.west - reach_m / degrees.east),
        south=box.south - reach_m / degrees.north,
        east=min(180.0, box.east + reach_m / degrees.east),
        north=box.north + reach_m / degrees.north,
    )
    rows = np.flatnonzero(index.tiles.in_bbox(around))[:MAX_IMAGES]
    return [index.tiles[int(row)].tile_id for row in rows]


def _jpeg(picture: Rgb) -> Response:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=85)
    return Response(buffer.getvalue(), media_type="image/jpeg", headers=_CACHED)

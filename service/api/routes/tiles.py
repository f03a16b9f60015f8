"""GET /tiles/{tile_id}.jpg: the aerial picture of a tile."""

from __future__ import annotations

import io
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from PIL import Image
from starlette.responses import Response

from service.api.errors import problems
from service.api.query import WRITTEN_PLAINLY
from service.imagery.tile_images import tile_image
from service.index.catalogue import Catalogue, TileUnknown
from service.settings import Settings

router = APIRouter(tags=["tiles"])


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
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=85)
    return Response(buffer.getvalue(), media_type="image/jpeg", headers=_CACHED)


_CACHED = {"Cache-Control": "public, max-age=300"}

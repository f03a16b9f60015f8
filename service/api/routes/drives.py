"""POST /localize/drive, and /drives for drives that take many uploads."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from pydantic import BaseModel
from starlette.responses import JSONResponse, Response

from service.api.client_disconnect import unless_disconnected
from service.api.drive_schemas import (
    GEOJSON,
    GPX,
    DrivesSchema,
    HeldAnswerSchema,
    HeldDriveSchema,
    UploadSchema,
)
from service.api.errors import document, problem_of, problems
from service.api.geojson import MEDIA_TYPE, preferred
from service.api.query import DriveQuery
from service.api.upload import FILES, BodyLimits, read_panoramas, request_body
from service.locate.drive_times import Taken
from service.runtime.drives import Drives, HeldDrive, Shot
from service.runtime.pipeline import Pipeline
from service.settings import Settings

router = APIRouter(tags=["drives"])

DriveId = Annotated[str, Path(pattern=r"^[A-Za-z0-9_-]{32}$")]
Parameters = Annotated[DriveQuery, Query()]
_UPLOAD = problems(400, 408, 413, 415)
_GPX = "application/gpx+xml"
_TRACKS: dict[int | str, dict[str, Any]] = {
    200: {"content": {MEDIA_TYPE: {"schema": GEOJSON}, _GPX: {"schema": GPX}}}
}


@router.post(
    "/localize/drive",
    summary="Where did this drive go?",
    response_model=DrivesSchema,
    responses={**_TRACKS, **_UPLOAD},
    openapi_extra=request_body(FILES),
)
async def localize_drive(request: Request, query: Parameters) -> Response:
    """Locate frames together: repeat the field `panorama`, in the order driven or with times.

    The frames settle each other, so narrow images that look like many places are located, too.
    The parameters apply to every frame. SKYFIX_MAX_FILES bounds the form: /drives takes longer
    drives. An unreadable image is a problem of its own. `Accept: application/geo+json` gives
    GeoJSON, `application/gpx+xml` GPX.
    """
    pipeline, _ = _state(request)
    drive = await pipeline.new_drive()
    await _add(request, drive, query, "send a longer drive to /drives")
    located = await unless_disconnected(request, pipeline.locate_drive(drive))
    answer = DrivesSchema.of(drive, located)
    return _shown(request, answer, answer)


@router.post(
    "/drives",
    status_code=201,
    summary="Begin a drive of many uploads",
    response_model=HeldDriveSchema,
)
async def begin_drive(request: Request, response: Response) -> HeldDriveSchema:
    """The header Location names the drive, which keeps the index version that is live now.

    Only candidates of each frame are kept, in memory: SKYFIX_MAX_DRIVE_FRAMES,
    SKYFIX_MAX_DRIVE_BYTES and SKYFIX_DRIVE_TTL_S bound them.
    """
    pipeline, drives = _state(request)
    drive = await pipeline.new_drive()
    drives.hold(drive)
    response.headers["Location"] = f"/drives/{drive.id}"
    return HeldDriveSchema.of(drive, drives.ttl_s)


@router.post(
    "/drives/{drive_id}/frames",
    summary="Add frames to a drive",
    response_model=UploadSchema,
    responses={**problems(404, 409), **_UPLOAD},
    openapi_extra=request_body(FILES),
)
async def add_frames(request: Request, drive_id: DriveId, query: Parameters) -> UploadSchema:
    """Repeat the field `panorama`; the answer comes when all frames of the form are encoded.

    Without times send form after form in the order driven. After a 503 none of the form's frames
    is kept: send the form again.
    """
    _, drives = _state(request)
    drive = drives.get(drive_id)
    shots = await _add(request, drive, query, "send several forms")
    drives.get(drive_id)  # deleted meanwhile?
    first = len(drive.shots) - len(shots)
    held = HeldDriveSchema.of(drive, drives.ttl_s)
    found = [shot.problem for shot in shots]
    return UploadSchema.model_validate({"drive": held, "first": first, "problems": found})


@router.get(
    "/drives/{drive_id}",
    summary="Where did this drive go, as far as its frames have arrived?",
    response_model=HeldAnswerSchema,
    responses={**_TRACKS, **problems(404)},
)
async def read_drive(request: Request, drive_id: DriveId) -> Response:
    """The answer is kept until more frames arrive. Its time grows linearly with the frames.

    After a 503 ask again: the work goes on meanwhile. `Accept: application/geo+json` gives
    GeoJSON, `application/gpx+xml` GPX.
    """
    pipeline, drives = _state(request)
    drive = drives.get(drive_id)
    located = await unless_disconnected(request, pipeline.locate_drive(drive))
    answer = DrivesSchema.of(drive, located)
    held = HeldDriveSchema.of(drive, drives.ttl_s)
    return _shown(request, answer, HeldAnswerSchema(**held.model_dump(), answer=answer))


@router.delete(
    "/drives/{drive_id}",
    status_code=204,
    response_class=Response,
    summary="Forget a drive",
    responses=problems(404),
)
async def delete_drive(request: Request, drive_id: DriveId) -> None:
    """Frees its memory."""
    _, drives = _state(request)
    drives.delete(drive_id)


def _state(request: Request) -> tuple[Pipeline, Drives]:
    return request.app.state.pipeline, request.app.state.drives


async def _add(request: Request, drive: HeldDrive, query: DriveQuery, more: str) -> list[Shot]:
    """Receive a form and add its images to the drive.

    Raises:
        The errors of `read_panoramas` and `Drives.room`. A failure that passes (503) fails the
        whole form, because a frame that is sent again later would stand in the wrong place.
    """
    pipeline, drives = _state(request)
    settings: Settings = request.app.state.settings
    hints = query.hints()

    async def shot(data: bytes, taken: Taken | None) -> Shot:
        try:
            return await pipeline.shot(drive, data, hints, taken)
        except Exception as error:
            if problem_of(error).status == 503:
                raise
            return Shot(taken=taken, problem=document(request, error))

    with pipeline.admission.reserve() as reservation:
        limits = BodyLimits.of(settings, settings.max_files, more)
        uploads = await read_panoramas(request, limits, reservation)
        times = query.taken(len(uploads))
        reservation.start(len(uploads))
        with drives.room(drive, len(uploads)):
            work = asyncio.gather(*map(shot, uploads, times), return_exceptions=True)
            shots = await unless_disconnected(request, work)
    for outcome in shots:
        if isinstance(outcome, BaseException):
            raise outcome
    added = [outcome for outcome in shots if isinstance(outcome, Shot)]
    drive.shots += added
    return added


def _shown(request: Request, answer: DrivesSchema, whole: BaseModel) -> Response:
    request.state.log = {"index_version": answer.index_version}
    kind = preferred(",".join(request.headers.getlist("accept")), MEDIA_TYPE, _GPX)
    if kind == MEDIA_TYPE:
        return JSONResponse(answer.geojson(), media_type=kind)
    if kind == _GPX:
        return Response(answer.gpx(), media_type=kind)
    return Response(whole.model_dump_json(), media_type="application/json")

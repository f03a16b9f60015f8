"""POST /localize/drive, and /drives for drives that take many uploads."""

from __future__ import annotations

import asyncio
import logging
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import JSONResponse, Response

from model.errors import SkyfixError
from service.api.client_disconnect import unless_disconnected
from service.api.drive_schemas import (
    GEOJSON,
    DrivesSchema,
    HeldAnswerSchema,
    HeldDriveSchema,
    UploadSchema,
)
from service.api.errors import document, problem_of, problems
from service.api.geojson import MEDIA_TYPE, is_preferred
from service.api.query import DriveQuery
from service.api.schemas import ProblemSchema
from service.api.upload import FILES, BodyLimits, read_panoramas, request_body
from service.locate.drive_times import Taken
from service.locate.hints import Hints
from service.runtime.admission import Reservation
from service.runtime.drives import Drives, HeldDrive, Outcome
from service.runtime.pipeline import Pipeline
from service.settings import Settings

logger = logging.getLogger(__name__)

router = APIRouter(tags=["drives"])

DriveId = Annotated[str, Path(pattern=r"^[A-Za-z0-9_-]{32}$")]
Parameters = Annotated[DriveQuery, Query()]
_UPLOAD = 400, 408, 413, 415
_GEOJSON: dict[int | str, dict[str, Any]] = {200: {"content": {MEDIA_TYPE: {"schema": GEOJSON}}}}


@router.post(
    "/localize/drive",
    summary="Where did this drive go?",
    response_model=DrivesSchema,
    responses={**_GEOJSON, **problems(*_UPLOAD)},
    openapi_extra=request_body(FILES),
)
async def localize_drive(request: Request, query: Parameters) -> Response:
    """Locate frames together: repeat the field `panorama`, in the order driven or with times.

    The frames settle each other, so narrow images that look like many places are located, too.
    The parameters apply to every frame. SKYFIX_MAX_FILES bounds the form: /drives takes longer
    drives. An unreadable image is a problem of its own. `Accept: application/geo+json` gives
    GeoJSON.
    """
    hints, pipeline = query.hints(), _pipeline(request)
    with pipeline.admission.reserve() as reservation:
        drive = await pipeline.new_drive()
        more = "send a longer drive to /drives"
        drive.add(await _outcomes(request, reservation, drive, query, hints, more))
        located = await unless_disconnected(request, pipeline.locate_drive(drive))
    return _shown(request, DrivesSchema.of(drive, located))


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
    drives, fresh = _drives(request), await _pipeline(request).new_drive()
    drives.hold(fresh)
    response.headers["Location"] = f"/drives/{fresh.id}"
    return HeldDriveSchema.of(fresh, drives.ttl_s)


@router.post(
    "/drives/{drive_id}/frames",
    summary="Add frames to a drive",
    response_model=UploadSchema,
    responses=problems(404, 409, *_UPLOAD),
    openapi_extra=request_body(FILES),
)
async def add_frames(request: Request, drive_id: DriveId, query: Parameters) -> UploadSchema:
    """Repeat the field `panorama`; the answer comes when all frames of the form are encoded.

    Without times send form after form in the order driven. After a 503 none of the form's frames
    is kept: send the form again.
    """
    hints, pipeline, drives = query.hints(), _pipeline(request), _drives(request)
    drive = drives.get(drive_id)
    with pipeline.admission.reserve() as reservation:
        found = await _outcomes(request, reservation, drive, query, hints, "send several forms")
    drives.get(drive_id)  # deleted meanwhile?
    first = len(drive.outcomes)
    drive.add(found)
    return UploadSchema(
        drive=HeldDriveSchema.of(drive, drives.ttl_s),
        first=first,
        problems=[
            ProblemSchema.model_validate(one) if isinstance(one, dict) else None for one in found
        ],
    )


@router.get(
    "/drives/{drive_id}",
    summary="Where did this drive go, as far as its frames have arrived?",
    response_model=HeldAnswerSchema,
    responses={**_GEOJSON, **problems(404)},
)
async def read_drive(request: Request, drive_id: DriveId) -> Response:
    """Answers of long drives take about 2 s for each 1,000 frames, and are kept until more arrive.

    `Accept: application/geo+json` gives GeoJSON.
    """
    drives = _drives(request)
    drive = drives.get(drive_id)
    located = await unless_disconnected(request, _pipeline(request).locate_drive(drive))
    answer = DrivesSchema.of(drive, located)
    held = HeldDriveSchema.of(drive, drives.ttl_s).model_dump()
    return _shown(request, answer, HeldAnswerSchema(**held, answer=answer))


@router.delete(
    "/drives/{drive_id}",
    status_code=204,
    summary="Forget a drive",
    responses=problems(404),
)
async def delete_drive(request: Request, drive_id: DriveId) -> None:
    """Frees its memory."""
    _drives(request).delete(drive_id)


async def _outcomes(
    request: Request,
    reservation: Reservation,
    drive: HeldDrive,
    query: DriveQuery,
    hints: Hints,
    more: str,
) -> list[Outcome]:
    """Receive a form and encode its images: each becomes a frame or a problem.

    Raises:
        The errors of `read_panoramas` and `Drives.room`. A failure that passes (503) fails the
        whole form, because a frame that is sent again later would stand in the wrong place.
    """
    settings: Settings = request.app.state.settings
    limits = BodyLimits.of(settings, settings.max_files, more)
    uploads = await read_panoramas(request, limits, reservation)
    taken = query.taken(len(uploads))
    reservation.start(len(uploads))
    with _drives(request).room(drive, len(uploads)):
        pairs = zip(uploads, taken, strict=True)
        work = asyncio.gather(*(_outcome(request, drive, *pair, hints) for pair in pairs))
        outcomes = await unless_disconnected(request, work)
    kept: list[Outcome] = []
    for outcome in outcomes:
        if isinstance(outcome, SkyfixError):
            raise outcome
        kept.append(outcome)
    return kept


async def _outcome(
    request: Request, drive: HeldDrive, data: bytes, taken: Taken | None, hints: Hints
) -> Outcome | SkyfixError:
    try:
        return await _pipeline(request).frame(drive, data, hints, taken)
    except Exception as error:  # the other frames are still located
        if not isinstance(error, SkyfixError):
            logger.exception("a frame of a drive failed")
        elif problem_of(error).status == 503:
            return error
        return document(request, error)


def _shown(
    request: Request, answer: DrivesSchema, whole: HeldAnswerSchema | None = None
) -> Response:
    request.state.log = {"index_version": answer.index_version}
    if is_preferred(",".join(request.headers.getlist("accept"))):
        return JSONResponse(answer.geojson(), media_type=MEDIA_TYPE)
    return Response((whole or answer).model_dump_json(), media_type="application/json")


def _pipeline(request: Request) -> Pipeline:
    pipeline: Pipeline = request.app.state.pipeline
    return pipeline


def _drives(request: Request) -> Drives:
    drives: Drives = request.app.state.drives
    return drives

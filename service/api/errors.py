"""Every failure as RFC 9457 problem+json, from one table of error class to status."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, NamedTuple

from fastapi import FastAPI
from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from model.errors import SkyfixError
from model.images import ImageError
from model.panorama import GeometryError
from service.api.middleware.request_log import route_of
from service.api.schemas import ProblemSchema
from service.api.upload import BodyTimeoutError, BodyTooLargeError, MediaTypeError, UploadError
from service.basemap import MapBusy, MapTileUnknown
from service.imagery.source import SourceError, SourceMissing
from service.index.catalogue import CatalogueError, TileUnknown
from service.index.manifest import EngineUnavailable, VersionCorrupt
from service.index.versions import (
    EncoderMismatch,
    IndexMissing,
    IndexUnwritable,
    VersionUnknown,
)
from service.locate.hints import HintError
from service.runtime.admission import OverloadedError
from service.runtime.batching import DeadlineExceededError, ModelStoppedError
from service.runtime.drives import DriveFull, DriveUnknown
from service.runtime.jobs import JobNotStarted, JobRunning, JobUnknown
from service.runtime.live_localizer import VersionNotFound, VersionRefused, WeightsMissing
from service.runtime.metrics import Metrics
from service.runtime.pipeline import CanaryError
from service.runtime.weights_check import WeightsUnknown, WeightsUnusable

logger = logging.getLogger(__name__)

RETRY_AFTER_S = 2


class AdminOnlyError(SkyfixError):
    """The admin token is missing or wrong."""


class Problem(NamedTuple):
    """A row of the table: HTTP status, stable slug of the type URN, title."""

    status: int
    slug: str
    title: str


PROBLEMS: dict[type[Exception], Problem] = {
    AdminOnlyError: Problem(401, "admin-only", "Only an administrator may do this"),
    VersionNotFound: Problem(404, "version-unknown", "There is no such index version"),
    VersionRefused: Problem(409, "version-refused", "The index version cannot be served"),
    WeightsUnknown: Problem(404, "weights-unknown", "There is no such weights file"),
    WeightsUnusable: Problem(422, "weights", "The weights file is not a whole checkpoint"),
    ImageError: Problem(422, "image", "The upload is not a usable image"),
    GeometryError: Problem(422, "geometry", "The image is not a usable panorama"),
    HintError: Problem(422, "hint", "A hint is not usable"),
    RequestValidationError: Problem(422, "request", "The request does not fit the API"),
    UploadError: Problem(400, "upload", "The form cannot be read"),
    MediaTypeError: Problem(415, "media-type", "The body's type is not accepted"),
    BodyTooLargeError: Problem(413, "body-too-large", "The body is too large"),
    BodyTimeoutError: Problem(408, "body-timeout", "The body arrived too slowly"),
    OverloadedError: Problem(503, "overloaded", "The service is busy"),
    DeadlineExceededError: Problem(503, "deadline", "The answer took too long"),
    ModelStoppedError: Problem(503, "model-stopped", "The model has stopped"),
    WeightsMissing: Problem(503, "weights-missing", "The index's weights are not there"),
    CanaryError: Problem(503, "canary", "A made-up panorama was not answered sensibly"),
    IndexMissing: Problem(503, "index-missing", "There is no index yet"),
    EncoderMismatch: Problem(503, "index-encoder", "The index was built by another encoder"),
    EngineUnavailable: Problem(503, "index-engine", "The index's search engine does not answer"),
    VersionCorrupt: Problem(503, "index-corrupt", "The index is damaged"),
    IndexUnwritable: Problem(503, "index-unwritable", "The index cannot be changed"),
    VersionUnknown: Problem(503, "index-unknown", "The live index version is not there"),
    MapBusy: Problem(503, "overloaded", "The service is busy"),
    MapTileUnknown: Problem(404, "map-tile-unknown", "There is no such map tile"),
    JobUnknown: Problem(404, "job-unknown", "There is no such job"),
    JobRunning: Problem(409, "job-running", "A job is running"),
    JobNotStarted: Problem(503, "job-not-started", "The job cannot be started"),
    TileUnknown: Problem(404, "tile-unknown", "There is no such tile"),
    DriveUnknown: Problem(404, "drive-unknown", "There is no such drive"),
    DriveFull: Problem(409, "drive-full", "The drive has no room for more frames"),
    SourceMissing: Problem(410, "imagery-gone", "The tile's imagery is no longer there"),
    SourceError: Problem(500, "imagery", "The tile's imagery cannot be read"),
    CatalogueError: Problem(500, "catalogue", "The catalogue cannot be used"),
}
UNEXPECTED = Problem(500, "internal", "Something went wrong here")


def install(app: FastAPI) -> None:
    """Register the handlers that turn every failure of `app` into a problem."""
    metrics: Metrics = app.state.metrics
    for problem in (*PROBLEMS.values(), UNEXPECTED):
        metrics.problems.labels(problem.slug)  # start at 0, so that an alert sees the first
    app.add_exception_handler(SkyfixError, _listed)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(ClientDisconnect, _disconnected)


def problem_of(error: Exception) -> Problem:
    """The table's row for the error's class or its nearest listed ancestor."""
    return next((PROBLEMS[cls] for cls in type(error).__mro__ if cls in PROBLEMS), UNEXPECTED)


def document(request: Request, error: Exception) -> dict[str, object]:
    """The problem document of an error: its public text alone, the rest goes to the log."""
    problem = problem_of(error)
    if not isinstance(error, SkyfixError):
        logger.error("%s %s failed", request.method, route_of(request.scope), exc_info=error)
        return _document(request, problem, "the failure is in the service's log")
    if problem is UNEXPECTED:
        logger.error("%s has no row in the table of problems", type(error).__name__)
    if error.public != str(error):
        logger.warning("%s: %s", problem.slug, error)
    return _document(request, problem, error.public)


def respond(request: Request, error: Exception) -> Response:
    """The answer to a request that failed with `error`."""
    return _response(document(request, error))


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI responses for these statuses, all of them problem+json."""
    content = {"application/problem+json": {"schema": ProblemSchema.model_json_schema()}}
    return {status: {"description": "problem", "content": content} for status in statuses}


def _document(request: Request, problem: Problem, detail: str) -> dict[str, object]:
    """The members of RFC 9457; the problem is counted among the application's."""
    metrics: Metrics = request.app.state.metrics
    metrics.problems.labels(problem.slug).inc()
    return {
        "type": f"urn:skyfix:problem:{problem.slug}",
        "title": problem.title,
        "status": problem.status,
        "detail": detail.encode(errors="replace").decode(),  # JSON holds no lone surrogate
        "instance": request.url.path,
    }


def _response(body: dict[str, object], headers: Mapping[str, str] | None = None) -> Response:
    status = body["status"]
    assert isinstance(status, int)
    headers = dict(headers or {})
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers.setdefault("Retry-After", str(RETRY_AFTER_S))
    if status == HTTPStatus.UNAUTHORIZED:
        headers.setdefault("WWW-Authenticate", "Bearer")
    return JSONResponse(body, status, headers, "application/problem+json")


async def _listed(request: Request, error: Exception) -> Response:
    return respond(request, error)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = [
        {
            "field": ".".join(map(str, fault["loc"])),
            "value": fault.get("input"),
            "reason": fault["msg"],
        }
        for fault in error.errors()
    ]
    detail = "; ".join(f"{fault['field']}={fault['value']}: {fault['reason']}" for fault in found)
    body = _document(request, problem_of(error), detail[:1000])
    return _response({**body, "errors": jsonable_encoder(found)})


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    problem = Problem(status, status.phrase.lower().replace(" ", "-"), status.phrase)
    headers = dict(error.headers or {})
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = _allowed_methods(request)
    detail = f"{request.method} {request.url.path}: {error.detail}"
    return _response(_document(request, problem, detail), headers)


def _allowed_methods(request: Request) -> str:
    """Every method of the path. Starlette names those of the path's first route alone, never HEAD,
    and none for the files of the web folder."""
    path = getattr(request.scope.get("route"), "path", None)
    declared = request.app.openapi()["paths"].get(path, ["GET"])
    methods = {method.upper() for method in declared}
    return ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods else set())))


async def _disconnected(request: Request, error: Exception) -> Response:
    logger.info("the client left before %s was answered", request.url.path)
    return Response(status_code=499)  # nobody reads this

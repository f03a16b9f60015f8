"""Rebuild, activate, and the jobs. These routes exist only with an admin token set."""

from __future__ import annotations

import hmac
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from service.api.errors import AdminOnlyError, problems
from service.api.schemas import ActivatedSchema, JobSchema
from service.runtime.jobs import Jobs, rebuild_command
from service.runtime.live_localizer import LiveLocalizer
from service.runtime.weights_check import whole_file
from service.settings import Settings

_BEARER = HTTPBearer(auto_error=False, description="the value of SKYFIX_ADMIN_TOKEN")


def require_token(
    request: Request,
    given: Annotated[HTTPAuthorizationCredentials | None, Security(_BEARER)],
) -> None:
    """Compares the token in constant time. Raises AdminOnlyError."""
    settings: Settings = request.app.state.settings
    token = given.credentials if given else ""
    if not hmac.compare_digest(token.encode(), settings.admin_token.encode()):
        raise AdminOnlyError("send the admin token: Authorization: Bearer …")


router = APIRouter(tags=["admin"], dependencies=[Depends(require_token)])

JobId = Annotated[str, Path(pattern=r"^[0-9a-f]{32}$")]


@router.post(
    "/index/rebuild",
    status_code=202,
    summary="Encode the catalogue's tiles and publish a new version",
    response_model=JobSchema,
    responses=problems(401, 404, 409),
)
def rebuild(
    request: Request,
    weights: Annotated[
        str | None,
        Query(
            pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}\.safetensors$",
            description="a file in the home folder's `weights`, which goes live together with its "
            "index; by default the live weights",
        ),
    ] = None,
) -> JobSchema:
    """Runs `skyfix build` as a separate process; the old version answers until the new is whole.

    409 while another job runs. Weights that are missing (404) or damaged (422) start no job.
    """
    jobs: Jobs = request.app.state.jobs
    live: LiveLocalizer = request.app.state.live
    settings: Settings = request.app.state.settings
    own = live.localizer.weights or settings.weights
    chosen = own if weights is None else whole_file(settings.weights_folder, weights)
    settings = settings.model_copy(update={"weights": chosen})
    return JobSchema.model_validate(jobs.start("rebuild", rebuild_command(settings)))


@router.post(
    "/index/activate",
    summary="Verify a version and answer from it",
    response_model=ActivatedSchema,
    responses=problems(401, 404, 409),
)
def activate(
    request: Request,
    version: Annotated[str, Query(max_length=64, examples=["000007-20260731T101500Z"])],
) -> ActivatedSchema:
    """Reads every byte of the version first; the live version stays when something is wrong.

    A version of other weights goes live with them, if they are in the home folder's `weights`.
    The version answers every request that begins after the answer 200.
    """
    live: LiveLocalizer = request.app.state.live
    report = live.activate(version)
    return ActivatedSchema.model_validate(report)


@router.get(
    "/jobs/{job_id}",
    summary="A job's state and the end of its log",
    response_model=JobSchema,
    responses=problems(401, 404),
)
def job(request: Request, job_id: JobId) -> JobSchema:
    """The server knows its last 20 jobs since it started."""
    jobs: Jobs = request.app.state.jobs
    return JobSchema.model_validate(jobs.get(job_id))


@router.delete(
    "/jobs/{job_id}",
    status_code=202,
    summary="Cancel a job",
    response_model=JobSchema,
    responses=problems(401, 404),
)
def cancel(request: Request, job_id: JobId) -> JobSchema:
    """Asks the process to end, and kills it after 10 s. The next build resumes its work."""
    jobs: Jobs = request.app.state.jobs
    return JobSchema.model_validate(jobs.cancel(job_id))

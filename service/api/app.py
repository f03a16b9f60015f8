"""The FastAPI application around a Localizer. Knows nothing of torch, faiss or the environment."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from importlib import resources
from pathlib import Path

from fastapi import Depends, FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import FileResponse
from starlette.staticfiles import StaticFiles

from model.errors import SkyfixError
from service.api import errors
from service.api.middleware.failure_problem import FailureAsProblem
from service.api.middleware.head_method import HeadAsGet
from service.api.middleware.load_shedding import LoadShedding
from service.api.middleware.request_log import RequestLog
from service.api.query import check_parameters
from service.api.routes import admin, drives, health, imagery, index, localize
from service.basemap import BaseMap
from service.locate.localizer import Localizer
from service.runtime.drives import Drives
from service.runtime.jobs import Jobs
from service.runtime.live_localizer import LiveLocalizer, Reopen
from service.runtime.metrics import Metrics
from service.runtime.pipeline import Pipeline
from service.settings import Settings

logger = logging.getLogger(__name__)

_DESCRIPTION = """Locates a street panorama by matching it to aerial imagery.

Angles are degrees, headings clockwise from north, coordinates WGS84. Every failure is RFC 9457
problem+json. Its `type` is stable; its `detail` names the offending value and the allowed ones.
Every answer carries `Server-Timing` and `X-Request-ID`: yours, if you send one of 8 to 64
characters A-Z a-z 0-9 . _ -. Only malformed HTTP gets a plain 400 or 431 without them.
`skyfix serve --print-settings` prints the limits."""


def create_app(
    localizer: Localizer, settings: Settings | None = None, reopen: Reopen | None = None
) -> FastAPI:
    """The service, for any ASGI server.

    Args:
        localizer: see `service.cli.wiring.open_localizer`. Its index may still be missing:
            readiness then says so.
        settings: limits, and the home folder of catalogue and versions.
        reopen: opens the localizer of another encoder, by its fingerprint. With it, an index and
            the weights that made it replace the live pair; see `service.cli.wiring.reopener`.
    """
    settings = settings or Settings()
    app = FastAPI(
        title="Skyfix",
        version="0.1.0",
        description=_DESCRIPTION,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        lifespan=_lifespan,
        dependencies=[Depends(check_parameters)],
        redirect_slashes=False,
        docs_url=None,  # FastAPI's page loads its scripts from a CDN; see _add_pages
        redoc_url=None,
    )
    metrics = Metrics()
    app.state.settings = settings
    app.state.live = LiveLocalizer(localizer, reopen)
    app.state.metrics = metrics
    app.state.pipeline = Pipeline(app.state.live, settings, metrics)
    app.state.base_map = BaseMap(settings.catalogue)
    app.state.jobs = Jobs(metrics.observe_job)
    app.state.drives = Drives(
        settings.max_drive_frames, settings.max_drive_bytes, settings.drive_ttl_s
    )
    _watch(metrics, app.state.pipeline, app.state.live, app.state.drives)
    errors.install(app)
    app.add_middleware(HeadAsGet)
    app.add_middleware(
        LoadShedding,
        max_requests=settings.max_requests,
        admission=app.state.pipeline.admission,
        uploads=[*localize.router.routes, *drives.router.routes],
    )
    app.add_middleware(FailureAsProblem)
    if settings.cors_origins:
        _allow_origins(app, settings.cors_origins.split(","))
    app.add_middleware(  # outermost: logs refusals too
        RequestLog, metrics=metrics, pictures_from=settings.basemap_origin
    )
    # check_parameters and LoadShedding answer these statuses for every route
    any_route = errors.problems(422, 503)
    for module in (localize, drives, index, imagery):
        app.include_router(module.router, responses=any_route)
    app.include_router(health.router, responses=errors.problems(422))  # /livez is never busy
    if settings.admin_token:
        app.include_router(admin.router, responses=any_route)
    _add_pages(app, settings)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
    pipeline: Pipeline = app.state.pipeline
    app.openapi()  # kept by FastAPI: the first request should not wait for the document
    try:
        await pipeline.canary()
    except SkyfixError as error:
        logger.warning("not ready yet: %s", error)
    except Exception:  # serve all the same: /readyz says so, and tries again
        logger.exception("the warm-up failed")
    app.state.live.start()
    yield
    app.state.live.stop()
    app.state.jobs.stop()
    app.state.base_map.close()
    await pipeline.stop()


def _watch(metrics: Metrics, pipeline: Pipeline, live: LiveLocalizer, drives: Drives) -> None:
    admission = pipeline.admission

    def index_behind() -> bool:
        return live.trouble() is not None

    def weights_lost() -> bool:
        return live.weights_trouble() is not None

    for name, help_text, value in (
        ("panoramas_in_flight", "Admitted and not yet answered", lambda: admission.panoramas),
        ("upload_bytes_in_flight", "Uploads held in memory", lambda: admission.bytes),
        ("panoramas_working", "Uploaded and being located", lambda: admission.working),
        ("panoramas_working_limit", "Limit of those; more get a 503", lambda: admission.limit),
        ("panoramas_waiting", "Decoded, waiting for the model", lambda: pipeline.waiting),
        ("drive_bytes", "Room that the drives hold, 36 kB a frame", lambda: drives.bytes),
        ("model_alive", "1 while the model's thread takes work", lambda: pipeline.alive),
        ("index_behind", "1 while an older version answers than CURRENT names", index_behind),
        ("weights_lost", "1 while the file of the live weights does not hold them", weights_lost),
    ):
        metrics.watch(f"skyfix_{name}", help_text, value)
    metrics.watch_index(live)


def _allow_origins(app: FastAPI, origins: Sequence[str]) -> None:
    """Let pages of other origins read the answers, refusals and problems too."""
    app.add_middleware(
        CORSMiddleware,
        allow_origins=origins,
        allow_methods=("GET", "HEAD", "POST", "DELETE"),
        allow_headers=("Authorization", "X-API-Key", "X-Request-ID"),
        expose_headers=("Retry-After", "Server-Timing", "X-Request-ID"),
    )


def _add_pages(app: FastAPI, settings: Settings) -> None:
    web = Path(str(resources.files("service") / "web"))

    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(web / "index.html")

    @app.get("/docs", include_in_schema=False)
    def docs() -> FileResponse:
        return FileResponse(web / "docs.html")

    @app.get("/web/settings.json", include_in_schema=False)
    def settings_of_the_page() -> dict[str, str | int]:
        return {
            name: getattr(settings, name)
            for name in ("basemap_url", "basemap_attribution", "max_files", "max_body_bytes")
        }

    # Packages hold the files of Swagger UI and Leaflet: no page loads from another host.
    for name, package, folder in (
        ("swagger", "fastapi_offline", "static"),
        ("leaflet", "js_lib_leaflet", "static/js_lib_leaflet"),
    ):
        app.mount(f"/web/{name}", StaticFiles(packages=[(package, folder)]), name)
    app.mount("/web", StaticFiles(directory=web), "web")

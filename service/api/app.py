"""The FastAPI application around a Localizer. Knows nothing of torch, faiss or the environment."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib import resources
from pathlib import Path

from fastapi import FastAPI
from starlette.datastructures import MutableHeaders
from starlette.responses import FileResponse
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from model.errors import SkyfixError
from service.api import errors, index_routes, localize_routes, tile_routes
from service.api.pipeline import Pipeline
from service.localizer import Localizer
from service.settings import Settings

logger = logging.getLogger(__name__)

_DESCRIPTION = """Tells where a street-level panorama was taken, by matching it to aerial imagery.

Angles are degrees, headings clockwise from north, coordinates WGS84. Every failure is RFC 9457
problem+json whose `detail` names the offending value and what is allowed."""

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob:; frame-ancestors 'none'",
}
_DOCS = ("/docs", "/redoc")  # FastAPI's pages load their scripts from a CDN


def create_app(localizer: Localizer, settings: Settings | None = None) -> FastAPI:
    """The service, ready to be served by any ASGI server.

    Args:
        localizer: see `service.compose.open_localizer`; its live index may still be missing, and
            readiness says so until it is there.
        settings: limits, and the home folder whose catalogue and versions are shown.
    """
    settings = settings or Settings()
    pipeline = Pipeline(localizer, settings)
    app = FastAPI(
        title="Skyfix",
        version="0.1.0",
        description=_DESCRIPTION,
        lifespan=_lifespan(pipeline),
        redirect_slashes=False,
    )
    app.state.pipeline = pipeline
    app.state.settings = settings
    app.state.live = localizer.live
    errors.install(app)
    app.add_middleware(_SecurityHeaders)
    for router in (localize_routes.router, index_routes.router, tile_routes.router):
        app.include_router(router)
    _add_page(app)
    return app


def _lifespan(pipeline: Pipeline) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        try:
            await pipeline.canary()  # the first request should not pay for the warm-up
        except SkyfixError as error:
            logger.warning("not ready yet: %s", error)
        except Exception:  # serve all the same: readiness tells, and tries again
            logger.exception("the warm-up failed")
        yield
        await pipeline.stop()

    return lifespan


def _add_page(app: FastAPI) -> None:
    web = Path(str(resources.files("service") / "web"))

    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(web / "index.html")

    app.mount("/web", StaticFiles(directory=web), "web")


class _SecurityHeaders:
    """Adds the fixed security headers to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start" and scope["path"] not in _DOCS:
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        await self._app(scope, receive, send_with_headers)

"""The application over a small home folder, without a socket."""

import threading
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import httpx
import uvicorn
from fakes import FakeEncoder, coloured_region
from fastapi import FastAPI
from uvicorn._types import ASGIApplication

from service.api.app import create_app
from service.build import build
from service.index.catalogue import Catalogue
from service.index.live_index import LiveIndex
from service.ingest import ingest
from service.locate.localizer import Localizer
from service.settings import Settings


def publish(home: Path, name: str, seeds: Iterable[int], encoder: FakeEncoder) -> str:
    """Add a source of these tiles and build all sources. Returns the name of the version."""
    folder = coloured_region(home / name, list(seeds))
    with Catalogue.of(home) as catalogue:
        ingest(catalogue, folder, name=name, size_m=64.0)
    return build(home, encoder).name


def application(home: Path, encoder: FakeEncoder, **settings: object) -> FastAPI:
    """The application with these settings, not started."""
    live = LiveIndex(home, encoder.fingerprint)
    chosen = Settings(home=home, **settings)  # type: ignore[arg-type]
    return create_app(Localizer(encoder, live, rolls=4), chosen)


@asynccontextmanager
async def served(
    home: Path, encoder: FakeEncoder, **settings: object
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the application, which is started before and stopped after."""
    app = application(home, encoder, **settings)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://skyfix") as client,
    ):
        yield client


@contextmanager
def listening(app: ASGIApplication, **options: object) -> Iterator[tuple[str, int]]:
    """Serve the application in a thread, on a real socket. Yields the address."""
    config = uvicorn.Config(app, log_config=None, **{"port": 0, **options})  # type: ignore[arg-type]
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()
    finally:
        server.should_exit = True
        thread.join(10.0)

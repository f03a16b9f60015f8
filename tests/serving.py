"""The application over a small home folder, without a socket."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
from fakes import FakeEncoder, coloured_region

from service.api.app import create_app
from service.build import build
from service.index.catalogue import Catalogue
from service.index.live import LiveIndex
from service.ingest import ingest
from service.localizer import Localizer
from service.settings import Settings


def publish(home: Path, name: str, seeds: Iterable[int], encoder: FakeEncoder) -> str:
    """Add a source of these tiles and build a version of everything there is; its name."""
    folder = coloured_region(home / name, list(seeds))
    with Catalogue.of(home) as catalogue:
        ingest(catalogue, folder, name=name, size_m=64.0)
    return build(home, encoder).name


@asynccontextmanager
async def served(
    home: Path, encoder: FakeEncoder, **settings: float
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the application with these settings, started and stopped around it."""
    live = LiveIndex(home, encoder.fingerprint, look_every_s=0.0)
    app = create_app(Localizer(encoder, live, rolls=4), Settings(home=home, **settings))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://skyfix") as client,
    ):
        yield client

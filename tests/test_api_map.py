"""The base map's queue over HTTP: bounded, with a deadline, and without work for lost clients."""

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from api_harness import application, publish
from fakes import FakeEncoder
from fastapi import FastAPI

from model.images import Rgb
from service.basemap import BaseMap, MapTile

pytestmark = pytest.mark.anyio


class HeldMap(BaseMap):
    """Draws blanks, and only while `go` is set."""

    def __init__(self, catalogue: Path) -> None:
        super().__init__(catalogue, most=2)
        self.go, self.drawn = threading.Event(), list[MapTile]()

    def _draw(self, tile: MapTile, tile_ids: list[str]) -> Rgb | None:
        assert self.go.wait(10.0)
        self.drawn.append(tile)
        return None


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[FastAPI]:
    publish(tmp_path, "town", range(3), FakeEncoder())
    made = application(tmp_path, FakeEncoder(), request_deadline_s=1.0)
    made.state.base_map = HeldMap(tmp_path / "catalogue.sqlite")
    async with made.router.lifespan_context(made):
        yield made
        made.state.base_map.go.set()


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://skyfix"
    ) as made:
        yield made


async def leave(app: FastAPI, path: str) -> None:
    """Ask, and disconnect without waiting for the answer."""
    messages = [{"type": "http.request", "body": b""}, {"type": "http.disconnect"}]

    async def receive() -> dict[str, object]:
        await asyncio.sleep(0.1)
        return messages.pop(0)

    async def send(message: dict[str, object]) -> None:
        pass

    where = {"path": path, "raw_path": path.encode(), "query_string": b"", "headers": []}
    await app({"type": "http", "method": "GET", **where}, receive, send)  # type: ignore[arg-type]


async def test_requests_beyond_the_queue_are_refused(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    waiting = [asyncio.create_task(client.get(f"/map/12/0/{y}")) for y in range(2)]
    await asyncio.sleep(0.2)
    refused = await client.get("/map/12/0/2")
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
    assert refused.json()["type"] == "urn:skyfix:problem:overloaded"
    app.state.base_map.go.set()
    assert [answer.status_code for answer in await asyncio.gather(*waiting)] == [204, 204]


async def test_waiting_for_a_map_tile_has_a_deadline(client: httpx.AsyncClient) -> None:
    late = await client.get("/map/12/0/0")
    assert (late.status_code, late.json()["type"]) == (503, "urn:skyfix:problem:deadline")


async def test_nothing_is_drawn_for_a_client_that_left(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    first = asyncio.create_task(client.get("/map/12/0/0"))
    await asyncio.sleep(0.1)
    await asyncio.wait_for(leave(app, "/map/12/0/1"), 0.8)
    second = asyncio.create_task(client.get("/map/12/0/2"))
    await asyncio.sleep(0.1)
    app.state.base_map.go.set()
    assert ((await first).status_code, (await second).status_code) == (204, 204)
    assert [tile.y for tile in app.state.base_map.drawn] == [0, 2]
    page = (await client.get("/metrics")).text
    assert 'skyfix_requests_total{method="GET",route="/map/{z}/{x}/{y}",status="499"} 1.0' in page

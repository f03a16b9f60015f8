"""Bounds on work in flight, clients that leave, deadlines, and an owner that died."""

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import httpx
import pytest
from fakes import FakeEncoder, panorama_of
from serving import publish, served

from service.localizer import Descriptors, Strip

pytestmark = pytest.mark.anyio


class HeldEncoder(FakeEncoder):
    """Encodes only while `go` is set; the deadly strip ends its thread."""

    def __init__(self) -> None:
        super().__init__()
        self.go, self.entered, self.deadly = threading.Event(), threading.Event(), False
        self.go.set()

    def encode_strips(self, strips: Sequence[Strip], norths: Sequence[float]) -> Descriptors:
        self.entered.set()
        assert self.go.wait(10.0)
        if self.deadly:
            raise SystemExit
        return super().encode_strips(strips, norths)


@pytest.fixture
def encoder() -> HeldEncoder:
    return HeldEncoder()


@pytest.fixture
async def client(tmp_path: Path, encoder: HeldEncoder) -> AsyncIterator[httpx.AsyncClient]:
    publish(tmp_path, "town", range(3), encoder)
    async with served(tmp_path, encoder, max_in_flight=3, request_deadline_s=1.0) as made:
        encoder.entered.clear()
        yield made
        encoder.go.set()


def post(client: httpx.AsyncClient) -> asyncio.Task[httpx.Response]:
    form = {"panorama": panorama_of(1)}
    return asyncio.create_task(client.post("/localize?heading_deg=0", files=form))


async def test_more_than_the_limit_is_refused_at_once(
    client: httpx.AsyncClient, encoder: HeldEncoder
) -> None:
    encoder.go.clear()
    accepted = [post(client) for _ in range(3)]
    await asyncio.to_thread(encoder.entered.wait, 5.0)
    refused = await asyncio.wait_for(post(client), 0.5)
    assert (refused.status_code, refused.json()["type"]) == (503, "urn:skyfix:problem:overloaded")
    assert int(refused.headers["retry-after"]) > 0
    encoder.go.set()
    assert [answer.status_code for answer in await asyncio.gather(*accepted)] == [200] * 3
    assert (await post(client)).status_code == 200


async def post_and_leave(client: httpx.AsyncClient) -> None:
    """Send a whole request to the application, then disconnect without waiting for the answer."""
    request = client.build_request("POST", "/localize", files={"panorama": panorama_of(1)})
    body = await request.aread()
    messages = [{"type": "http.request", "body": body}, {"type": "http.disconnect"}]

    async def receive() -> dict[str, object]:
        await asyncio.sleep(0.2)  # decoded, and waiting for the owner, when the client leaves
        return messages.pop(0)

    async def send(message: dict[str, object]) -> None:
        pass

    headers = [(name.lower(), value) for name, value in request.headers.raw]
    where = {"path": "/localize", "raw_path": b"/localize", "query_string": b"heading_deg=0"}
    scope = {"type": "http", "method": "POST", "headers": headers, **where}
    transport = client._transport
    assert isinstance(transport, httpx.ASGITransport)
    await transport.app(scope, receive, send)  # type: ignore[arg-type]


async def test_a_client_that_left_never_reaches_the_encoder(
    client: httpx.AsyncClient, encoder: HeldEncoder
) -> None:
    encoder.go.clear()
    first = post(client)
    await asyncio.to_thread(encoder.entered.wait, 5.0)
    left = asyncio.create_task(post_and_leave(client))
    await asyncio.wait_for(left, 5.0)
    before = encoder.calls
    encoder.go.set()
    assert (await first).status_code == 200
    assert (await post(client)).status_code == 200
    assert encoder.calls - before == 2


async def test_a_late_answer_is_a_problem_and_its_work_dropped(
    client: httpx.AsyncClient, encoder: HeldEncoder
) -> None:
    assert "skyfix_panoramas_working_limit 3.0" in (await client.get("/metrics")).text
    encoder.go.clear()
    first, second = post(client), post(client)
    for answer in await asyncio.gather(first, second):
        assert answer.status_code == 503
        assert answer.json()["type"] == "urn:skyfix:problem:deadline"
    assert "skyfix_panoramas_working_limit 2.0" in (await client.get("/metrics")).text
    encoder.go.set()
    assert (await post(client)).status_code == 200


async def test_readiness_notices_a_dead_owner(
    client: httpx.AsyncClient, encoder: HeldEncoder
) -> None:
    assert (await client.get("/readyz")).status_code == 200
    encoder.deadly = True
    for answer in (await post(client), await client.get("/readyz")):
        assert answer.status_code == 503
        assert answer.json()["type"] == "urn:skyfix:problem:model-stopped"
    assert (await client.get("/livez")).status_code == 200

"""Bounds on work in flight, clients that leave, deadlines, and a dead model thread."""

import asyncio
import json
import logging
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import httpx
import pytest
from api_harness import publish, served
from fakes import FakeEncoder, panorama_of
from fastapi import FastAPI

from model.panorama import Panorama
from service.cli.logs import JsonFormatter
from service.locate.hints import Hints
from service.locate.localizer import Descriptors, Strip
from service.runtime.pipeline import Pipeline

pytestmark = pytest.mark.anyio


class HeldEncoder(FakeEncoder):
    """Decodes while `decode` is set, encodes while `go` is set, and ends its thread if `deadly`."""

    def __init__(self) -> None:
        super().__init__()
        self.go, self.entered, self.deadly = threading.Event(), threading.Event(), False
        self.decode, self.decoding = threading.Event(), threading.Event()
        self.begun: list[int] = []  # panoramas of each batch
        self.go.set()
        self.decode.set()

    def read_street(self, panorama: Panorama) -> Strip:
        self.decoding.set()
        assert self.decode.wait(10.0)
        logging.getLogger("decoder").info("decoded")
        return super().read_street(panorama)

    def encode_strips(self, strips: Sequence[Strip], norths: Sequence[float]) -> Descriptors:
        self.begun.append(len(strips))
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
    limits = {"max_in_flight": 3, "max_files": 3, "request_deadline_s": 1.0, "decode_threads": 1}
    async with served(tmp_path, encoder, **limits) as made:
        encoder.entered.clear()
        encoder.decoding.clear()
        yield made
        encoder.go.set()
        encoder.decode.set()


def app_of(client: httpx.AsyncClient) -> FastAPI:
    transport = client._transport
    assert isinstance(transport, httpx.ASGITransport)
    assert isinstance(transport.app, FastAPI)
    return transport.app


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
    # The request is refused before its body is read, and still counted under its route.
    unread = await client.post("/localize?top_k=none")
    assert (unread.status_code, unread.json()["instance"]) == (503, "/localize")
    metrics = (await client.get("/metrics")).text
    counted = 'skyfix_requests_total{method="POST",route="/localize",status="503"} 2.0'
    assert counted in metrics.splitlines()
    encoder.go.set()
    assert [answer.status_code for answer in await asyncio.gather(*accepted)] == [200] * 3
    assert (await post(client)).status_code == 200


@pytest.mark.parametrize("at_once", [1, 2])
async def test_as_many_batches_are_encoded_at_once_as_the_encoder_allows(
    client: httpx.AsyncClient, encoder: HeldEncoder, tmp_path: Path, at_once: int
) -> None:
    encoder.at_once = at_once
    async with served(tmp_path, encoder) as other:
        encoder.go.clear()
        encoder.begun.clear()
        answers = []
        for _ in range(3):
            answers.append(post(other))
            await asyncio.sleep(0.3)
        assert len(encoder.begun) == at_once
        encoder.go.set()
        assert [answer.status_code for answer in await asyncio.gather(*answers)] == [200] * 3
        assert sum(encoder.begun) == 3


async def post_and_leave(client: httpx.AsyncClient) -> None:
    """Send a whole request to the application, then disconnect without waiting for the answer."""
    request = client.build_request("POST", "/localize", files={"panorama": panorama_of(1)})
    body = await request.aread()
    messages = [{"type": "http.request", "body": body}, {"type": "http.disconnect"}]

    async def receive() -> dict[str, object]:
        await asyncio.sleep(0.2)  # the panorama waits for the model when the client leaves
        return messages.pop(0)

    async def send(message: dict[str, object]) -> None:
        pass

    headers = [(name.lower(), value) for name, value in request.headers.raw]
    where = {"path": "/localize", "raw_path": b"/localize", "query_string": b"heading_deg=0"}
    scope = {"type": "http", "method": "POST", "headers": headers, **where}
    await app_of(client)(scope, receive, send)  # type: ignore[arg-type]


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


async def test_a_missed_deadline_is_a_problem_and_drops_the_work(
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


async def test_readiness_notices_a_dead_model_thread(
    client: httpx.AsyncClient, encoder: HeldEncoder
) -> None:
    assert (await client.get("/readyz")).status_code == 200
    encoder.deadly = True
    for answer in (await post(client), await client.get("/readyz")):
        assert answer.status_code == 503
        assert answer.json()["type"] == "urn:skyfix:problem:model-stopped"
    assert (await client.get("/livez")).status_code == 200


async def test_a_cancelled_upload_is_freed_before_a_decoder_is_free(
    client: httpx.AsyncClient, encoder: HeldEncoder
) -> None:
    pipeline: Pipeline = app_of(client).state.pipeline
    encoder.decode.clear()
    busy = post(client)
    await asyncio.to_thread(encoder.decoding.wait, 5.0)
    upload = panorama_of(2)
    mine = sys.getrefcount(upload)
    waiting = asyncio.create_task(pipeline.locate(upload, Hints()))
    await asyncio.sleep(0.05)
    assert sys.getrefcount(upload) > mine
    waiting.cancel()
    await asyncio.wait({waiting})
    del waiting
    assert sys.getrefcount(upload) == mine
    encoder.decode.set()
    assert (await busy).status_code == 200


async def test_a_decoder_s_log_line_has_the_request_s_id(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    caplog.handler.setFormatter(JsonFormatter())
    headers = {"X-Request-ID": "order-66.abc"}
    await client.post("/localize", files={"panorama": panorama_of(1)}, headers=headers)
    lines = [json.loads(line) for line in caplog.text.splitlines()]
    said = [line["request_id"] for line in lines if line["message"] == "decoded"]
    assert said == ["order-66.abc"]


async def test_slow_uploads_do_not_hold_up_others(tmp_path: Path) -> None:
    arrived = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b'--B\r\ncontent-disposition: form-data; name="panorama"; filename="p"\r\n\r\n'
        await arrived.wait()

    publish(tmp_path, "town", range(3), FakeEncoder())
    kind = {"content-type": "multipart/form-data; boundary=B"}
    async with served(tmp_path, FakeEncoder()) as client:
        slow = [
            asyncio.create_task(client.post("/localize", content=body(), headers=kind))
            for _ in range(40)
        ]
        await asyncio.sleep(0.2)
        honest = await post(client)
        arrived.set()
        assert honest.status_code == 200
        assert [answer.status_code for answer in await asyncio.gather(*slow)] == [400] * 40


async def test_the_largest_allowed_batch_is_answered(client: httpx.AsyncClient) -> None:
    for size, status in ((3, 200), (4, 400)):
        form = [("panorama", panorama_of(1))] * size
        assert (await client.post("/localize/batch", files=form)).status_code == status


async def test_too_many_requests_are_refused_by_the_application(tmp_path: Path) -> None:
    encoder = HeldEncoder()
    publish(tmp_path, "town", range(3), encoder)
    async with served(tmp_path, encoder, max_in_flight=1, max_files=1) as client:
        most = app_of(client).state.settings.max_requests
        encoder.go.clear()
        waiting = [asyncio.create_task(client.get("/readyz")) for _ in range(most)]
        await asyncio.sleep(0.5)
        refused = await asyncio.wait_for(client.get("/index"), 5.0)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
        assert refused.json()["type"] == "urn:skyfix:problem:overloaded"
        assert (await client.get("/livez")).status_code == 200
        encoder.go.set()
        assert {answer.status_code for answer in await asyncio.gather(*waiting)} == {200}
        assert (await client.get("/index")).status_code == 200

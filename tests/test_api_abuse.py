"""Attacks: no 5xx, no crash, no growth, and the next honest request is answered."""

import asyncio
import logging
import os
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import quote

import httpx
import numpy as np
import pytest
import torch
from api_harness import publish, served
from fakes import FakeEncoder, coloured_region, panorama_of
from hostile_images import hostile_images
from index_samples import write_version
from pair_samples import tiny
from starlette.types import ASGIApp, Message

from model.checkpoint import Checkpoint
from model.encoder import Encoder
from model.geo import LatLon
from service.build import build
from service.index.catalogue import Catalogue
from service.index.versions import Versions
from service.ingest import ingest

pytestmark = pytest.mark.anyio
TOKEN = "s3cr3t-0123456789"
SOAK = int(os.environ.get("SOAK", "1"))  # how many times the usual length
PATHS = [
    "/tiles/{}.jpg",
    "/map/{}/0/0",
    "/map/1/{}/0",
    "/jobs/{}",
    "/web/{}",
    "/web/swagger/{}",
    "/{}",
]
TRAVERSALS = [
    "../../../../etc/passwd", "..%2f..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e/etc/passwd",
    "....//....//etc/passwd", "/etc/passwd", "..\\..\\etc\\passwd", "%00/etc/passwd",
    "file:///etc/passwd", "catalogue.sqlite", "../skyfix.js/../../__main__.py",
]  # fmt: skip


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """The real encoder with small weights, so that the real decoding is attacked."""
    config = tiny("encoder.aerial_footprint_m=64").encoder
    torch.manual_seed(0)
    encoder = Encoder(Checkpoint(config, config.build().state_dict()))
    with Catalogue.of(tmp_path) as catalogue:
        ingest(catalogue, coloured_region(tmp_path / "town", range(3)), size_m=64.0)
    build(tmp_path, encoder)
    async with served(tmp_path, encoder, admin_token=TOKEN, max_stretch=1000.0) as made:
        yield made


def form(data: bytes) -> dict[str, tuple[str, bytes]]:
    return {"panorama": ("p.jpg", data)}


def memory_mib(field: str) -> float:
    """VmRSS, or VmHWM: its peak since `forget_peak`; of this process."""
    status = Path("/proc/self/status").read_text()
    return float(status.partition(f"{field}:")[2].split()[0]) / 1024.0


def forget_peak() -> None:
    """Start a new peak: peaks of earlier tests would hide growth (proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")


@pytest.fixture
def no_log() -> Iterator[None]:
    """pytest would keep every record, and with exceptions the images: 20 MiB in 400 images."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.usefixtures("no_log")
@pytest.mark.timeout(300 * SOAK)
async def test_no_image_breaks_the_service(client: httpx.AsyncClient) -> None:
    statuses: Counter[int] = Counter()
    before = 0.0
    for number, data in enumerate(hostile_images(seed=5, count=300 * SOAK)):
        answer = await client.post("/localize?heading_deg=0&explain=true", files=form(data))
        assert answer.status_code in (200, 422), (number, answer.text)
        statuses[answer.status_code] += 1
        if number == 50 * SOAK:  # everything is loaded by now, and a soak has 5,000 images left
            forget_peak()
            before = memory_mib("VmRSS")
    grown = memory_mib("VmHWM") - before
    assert min(statuses.values()) > 20  # both kinds really occur
    assert 0 <= grown < 64
    assert (await client.post("/localize", files=form(panorama_of(1)))).status_code == 200


@pytest.mark.parametrize("path", PATHS)
async def test_no_parameter_reaches_a_path(
    client: httpx.AsyncClient, tmp_path: Path, path: str
) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    for text in (*TRAVERSALS, *(quote(traversal, safe="") for traversal in TRAVERSALS)):
        answer = await client.get(path.format(text), headers=headers)
        assert answer.status_code in (400, 404, 405, 422), text
        assert "root:" not in answer.text
        assert "argparse" not in answer.text
    where = {"version": "../../../etc", "heading_deg": "../../etc", "near": "../../etc/passwd"}
    answer = await client.post("/index/activate", params=where, headers=headers)
    assert answer.status_code in (404, 422)
    assert str(tmp_path) not in (await client.get("/index")).text


async def abort(app: ASGIApp, path: str, sent: bytes) -> list[Message]:
    """Post the beginning of an upload, then hang up. Returns the messages sent after that."""
    incoming: list[Message] = [
        {"type": "http.request", "body": sent, "more_body": True},
        {"type": "http.disconnect"},
    ]
    answered: list[Message] = []

    async def receive() -> Message:
        await asyncio.sleep(0)
        return incoming.pop(0) if len(incoming) > 1 else incoming[0]

    async def send(message: Message) -> None:
        answered.append(message)

    kind = (b"content-type", b"multipart/form-data; boundary=B")
    scope = {
        "type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "root_path": "",
        "query_string": b"", "headers": [(b"host", b"skyfix"), kind], "scheme": "http",
        "http_version": "1.1", "server": ("skyfix", 80), "client": ("127.0.0.1", 1),
    }  # fmt: skip
    await app(scope, receive, send)
    return answered


UPLOAD = b'--B\r\ncontent-disposition: form-data; name="panorama"; filename="p"\r\n\r\nhalf'


@pytest.mark.parametrize("path", ["/localize", "/localize/batch"])
async def test_aborted_uploads_leave_nothing_behind(client: httpx.AsyncClient, path: str) -> None:
    app = client._transport.app  # type: ignore[attr-defined]
    whole = [client.post(path, files=form(panorama_of(n))) for n in range(8)]
    broken = [abort(app, path, UPLOAD[:size]) for size in range(0, len(UPLOAD) + 1, 9)]
    answers = await asyncio.gather(*whole, *broken)
    assert all(answer.status_code == 200 for answer in answers[:8])
    assert {message.get("status", 499) for sent in answers[8:] for message in sent} == {499}
    page = (await client.get("/metrics")).text
    assert f'route="{path}",status="499"}} {len(broken)}.0' in page
    assert not re.search(r'status="5..', page)
    assert "skyfix_panoramas_in_flight 0.0" in page
    assert "skyfix_upload_bytes_in_flight 0.0" in page
    assert (await client.post(path, files=form(panorama_of(1)))).status_code == 200


@pytest.mark.timeout(300 * SOAK)
async def test_versions_swap_without_a_failed_or_mixed_answer(tmp_path: Path) -> None:
    """500 requests while the live version changes 20 times, evenly spread."""
    wanted = 500 * SOAK
    places = {"000001-20260101T000000Z": 50.0, "000002-20260101T000000Z": -30.0}
    for name, latitude in places.items():
        write_version(tmp_path / "index", 200, 32, name=name, centre=LatLon(latitude, 15.0))
    versions = Versions(tmp_path)
    versions.activate("000001-20260101T000000Z")
    answered: list[str] = []
    swaps = 0

    async def ask(client: httpx.AsyncClient) -> None:
        while swaps < 20 or len(answered) < wanted:
            query = "/localize?heading_deg=0&top_k=5"
            answer = await client.post(query, files=form(panorama_of(len(answered) % 7)))
            assert answer.status_code == 200, answer.text
            fix = answer.json()
            for match in fix["matches"]:
                assert abs(match["latitude"] - places[fix["index_version"]]) < 0.1
            assert abs(fix["position"]["latitude"] - places[fix["index_version"]]) < 0.1
            answered.append(fix["index_version"])

    async def swap() -> None:
        nonlocal swaps
        while swaps < 20:
            while len(answered) < swaps * wanted / 20:
                await asyncio.sleep(0.001)
            name = list(places)[1 - swaps % 2]
            await asyncio.to_thread(versions.activate, name)
            while not answered or answered[-1] != name:
                await asyncio.sleep(0.001)
            swaps += 1

    async with served(tmp_path, FakeEncoder(), max_stretch=1000.0) as client:
        async with asyncio.timeout(60.0 * SOAK):
            await asyncio.gather(swap(), *(ask(client) for _ in range(8)))
    assert len(answered) >= wanted
    assert min(Counter(answered).values()) > wanted / 3
    assert sum(np.array(answered[1:]) != np.array(answered[:-1])) >= 20


async def test_the_last_good_state_keeps_answering(tmp_path: Path) -> None:
    """The index's files deleted and CURRENT pointing nowhere, while serving."""
    encoder = FakeEncoder()
    version = publish(tmp_path, "town", range(3), encoder)
    async with served(tmp_path, encoder) as client:
        (tmp_path / "index" / "CURRENT").write_text("000099-20260101T000000Z\n")
        for file in (tmp_path / "index" / version).iterdir():
            file.unlink()
        for _ in range(5):
            answer = await client.post("/localize?heading_deg=0", files=form(panorama_of(1)))
            assert (answer.status_code, answer.json()["index_version"]) == (200, version)
            await asyncio.sleep(0.02)
        assert (await client.get("/readyz")).status_code == 200

"""The admin routes: absent without a token, closed without the right one, and what they do."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from fakes import FakeEncoder
from serving import publish, served

pytestmark = pytest.mark.anyio
TOKEN = "s3cr3t-0123456789"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}
ROUTES = [
    ("POST", "/index/rebuild"),
    ("POST", "/index/activate?version=000001-20260101T000000Z"),
    ("GET", f"/jobs/{'0' * 32}"),
    ("DELETE", f"/jobs/{'0' * 32}"),
]


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    encoder = FakeEncoder()
    publish(tmp_path, "town", range(3), encoder)
    async with served(tmp_path, encoder, admin_token=TOKEN, weights=Path("no-weights")) as made:
        yield made


async def test_without_a_token_there_are_no_such_routes(tmp_path: Path) -> None:
    async with served(tmp_path, FakeEncoder()) as client:
        for method, path in ROUTES:
            for headers in ({}, HEADERS, {"Authorization": "Bearer "}):
                answer = await client.request(method, path, headers=headers)
                assert answer.status_code == 404
        document = (await client.get("/openapi.json")).text
    assert "rebuild" not in document.replace("stable across rebuilds", "")
    assert "Bearer" not in document


@pytest.mark.parametrize("given", ["", "Bearer", "Bearer wrong", f"Basic {TOKEN}", "Bearer é"])
async def test_a_wrong_token_is_refused(client: httpx.AsyncClient, given: str) -> None:
    for method, path in ROUTES:
        headers = {"Authorization": given.encode("latin-1")}
        answer = await client.request(method, path, headers=headers)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert answer.json()["type"] == "urn:skyfix:problem:admin-only"


async def test_a_version_is_activated_after_it_is_verified(
    client: httpx.AsyncClient, tmp_path: Path
) -> None:
    first = (await client.get("/index")).json()["version"]
    second = publish(tmp_path, "suburb", range(5, 7), FakeEncoder())
    answer = await client.post(f"/index/activate?version={first}", headers=HEADERS)
    assert (answer.status_code, answer.json()["tiles"]) == (200, 3)
    listed = (await client.get("/index/versions")).json()
    assert listed == {"current": first, "versions": [first, second]}
    unknown = await client.post("/index/activate?version=../../etc", headers=HEADERS)
    assert unknown.status_code == 404
    vectors = tmp_path / "index" / second / "vectors.npy"
    vectors.write_bytes(vectors.read_bytes()[:-1] + b"\0")
    damaged = await client.post(f"/index/activate?version={second}", headers=HEADERS)
    assert (damaged.status_code, second in damaged.json()["detail"]) == (409, True)
    other = publish(tmp_path, "foreign", [9], FakeEncoder(fingerprint="0b" * 32))
    foreign = await client.post(f"/index/activate?version={other}", headers=HEADERS)
    assert (foreign.status_code, "0b0b" in foreign.json()["detail"]) == (409, True)


async def test_other_weights_are_named_not_pathed(
    client: httpx.AsyncClient, tmp_path: Path
) -> None:
    for name in ("../../etc/passwd", "/etc/x.safetensors", ".x.safetensors", "x"):
        answer = await client.post("/index/rebuild", params={"weights": name}, headers=HEADERS)
        assert answer.status_code == 422
    asked = {"weights": "next.safetensors"}
    job = (await client.post("/index/rebuild", params=asked, headers=HEADERS)).json()
    while job["status"] == "running":
        await asyncio.sleep(0.1)
        job = (await client.get(f"/jobs/{job['id']}", headers=HEADERS)).json()
    assert str(tmp_path / "weights" / "next.safetensors") in "".join(job["log"])


async def test_a_rebuild_is_a_job_that_says_what_went_wrong(client: httpx.AsyncClient) -> None:
    """The settings' weights do not exist: the process must end with one line, the index stay."""
    before = (await client.get("/index")).json()["version"]
    started = await client.post("/index/rebuild", headers=HEADERS)
    assert (started.status_code, started.json()["status"]) == (202, "running")
    path = f"/jobs/{started.json()['id']}"
    busy = await client.post("/index/rebuild", headers=HEADERS)
    assert (busy.status_code, path[6:] in busy.json()["detail"]) == (409, True)
    job = started.json()
    while job["status"] == "running":
        await asyncio.sleep(0.1)
        job = (await client.get(path, headers=HEADERS)).json()
    assert (job["status"], job["exit_code"]) == ("failed", 1)
    assert any("no checkpoint" in line for line in job["log"])
    assert (await client.get("/index")).json()["version"] == before
    assert (await client.delete(path, headers=HEADERS)).json()["status"] == "failed"
    assert 'status="failed"} 1.0' in (await client.get("/metrics")).text

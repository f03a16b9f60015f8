"""The admin routes: absent without a token, closed without the right token, and their effects."""

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import httpx
import pytest
import torch
from api_harness import publish, served
from fakes import FakeEncoder, coloured_region, panorama_of
from pair_samples import tiny

from model.checkpoint import Checkpoint
from model.encoder import Encoder
from service.api.app import create_app
from service.build import build
from service.index.catalogue import Catalogue
from service.index.live_index import LiveIndex
from service.ingest import ingest
from service.locate.localizer import Localizer
from service.runtime.jobs import Job, Jobs, Kind
from service.settings import Settings

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
    while (await locate(client))["index_version"] != second:
        await asyncio.sleep(0.02)
    answer = await client.post(f"/index/activate?version={first}", headers=HEADERS)
    assert (answer.status_code, answer.json()["tiles"]) == (200, 3)
    assert (await locate(client))["index_version"] == first
    listed = (await client.get("/index/versions")).json()
    assert listed == {"current": first, "versions": [first, second]}
    unknown = await client.post("/index/activate?version=../../etc", headers=HEADERS)
    assert unknown.status_code == 404
    vectors = tmp_path / "index" / second / "vectors.faiss"
    vectors.write_bytes(vectors.read_bytes()[:-1] + b"\0")
    damaged = await client.post(f"/index/activate?version={second}", headers=HEADERS)
    assert (damaged.status_code, second in damaged.json()["detail"]) == (409, True)
    other = publish(tmp_path, "foreign", [9], FakeEncoder(fingerprint="0b" * 32))
    foreign = await client.post(f"/index/activate?version={other}", headers=HEADERS)
    assert (foreign.status_code, "0b0b" in foreign.json()["detail"]) == (409, True)


async def test_other_weights_are_given_by_name_not_by_path(client: httpx.AsyncClient) -> None:
    for name in ("../../etc/passwd", "/etc/x.safetensors", ".x.safetensors", "x"):
        answer = await client.post("/index/rebuild", params={"weights": name}, headers=HEADERS)
        assert answer.status_code == 422


@pytest.mark.parametrize(("content", "status"), [(None, 404), (b"junk", 422), (1000, 422)])
async def test_weights_that_cannot_be_used_start_no_job(
    content: bytes | int | None, status: int, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    path = tmp_path / "weights" / "next.safetensors"
    save_small(path.with_name("whole.safetensors"))
    if isinstance(content, int):  # cut off after so many bytes
        content = path.with_name("whole.safetensors").read_bytes()[:content]
    if content is not None:
        path.write_bytes(content)
    asked = {"weights": path.name}
    refused = await client.post("/index/rebuild", params=asked, headers=HEADERS)
    assert (refused.status_code, refused.headers["content-type"]) == (
        status,
        "application/problem+json",
    )
    for name in (path.name, "whole.safetensors"):
        assert name in refused.json()["detail"]
    assert (await client.get("/readyz")).json()["trouble"] is None
    metrics = (await client.get("/metrics")).text
    assert "skyfix_jobs_running 0.0" in metrics
    assert 'status="failed"} 0.0' in metrics


async def test_a_failed_rebuild_is_a_job_with_its_error(
    client: httpx.AsyncClient, tmp_path: Path
) -> None:
    """The settings' weights do not exist: the process ends with one line, and the index stays."""
    before = (await client.get("/index")).json()["version"]
    started = await client.post("/index/rebuild", headers=HEADERS)
    assert (started.status_code, started.json()["status"]) == (202, "running")
    path = f"/jobs/{started.json()['id']}"
    busy = await client.post("/index/rebuild", headers=HEADERS)
    assert (busy.status_code, path[6:] in busy.json()["detail"]) == (409, True)
    job = await ended(client, started.json())
    assert (job["status"], job["exit_code"]) == ("failed", 1)
    assert any("no checkpoint" in line for line in job["log"])
    assert (await client.get("/index")).json()["version"] == before
    assert (await client.delete(path, headers=HEADERS)).json()["status"] == "failed"
    assert 'status="failed"} 1.0' in (await client.get("/metrics")).text
    ready = await client.get("/readyz")
    assert (ready.status_code, path[6:] in ready.json()["trouble"]) == (200, True)
    await asyncio.sleep(1.0)  # times are stated to the second
    publish(tmp_path, "suburb", range(5, 7), FakeEncoder())  # by command line
    while (await locate(client))["index_version"] == before:
        await asyncio.sleep(0.02)
    assert (await client.get("/readyz")).json()["trouble"] is None


async def test_allow_names_every_method_of_the_path(client: httpx.AsyncClient) -> None:
    for path, allowed in (
        (f"/jobs/{'0' * 32}", "DELETE, GET, HEAD"),
        ("/index/rebuild", "POST"),
        ("/index", "GET, HEAD"),
        ("/", "GET, HEAD"),
        ("/web/skyfix.js", "GET, HEAD"),
    ):
        refused = await client.put(path, headers=HEADERS)
        assert (refused.status_code, refused.headers["allow"]) == (405, allowed)


async def test_an_index_that_cannot_be_read_or_changed_is_a_declared_503(
    client: httpx.AsyncClient, tmp_path: Path
) -> None:
    pointer, lock = tmp_path / "index" / "CURRENT", tmp_path / "index" / ".pointer"
    version = pointer.read_text().strip()
    for path in (pointer, lock):
        path.unlink()
        path.mkdir()
    declared = (await client.get("/openapi.json")).json()["paths"]
    for method, path, slug in (
        ("get", "/index/versions", "index-corrupt"),
        ("post", "/index/activate", "index-unwritable"),
    ):
        asked = {} if method == "get" else {"version": version}
        answer = await client.request(method, path, params=asked, headers=HEADERS)
        problem = f"urn:skyfix:problem:{slug}"
        assert (answer.status_code, answer.json()["type"]) == (503, problem)
        assert "503" in declared[path][method]["responses"]


async def test_a_rebuild_that_cannot_start_is_a_problem(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    refused = await client.post("/index/rebuild", headers=HEADERS)
    problem = refused.json()
    assert (refused.status_code, problem["type"]) == (503, "urn:skyfix:problem:job-not-started")
    assert "No such file" in problem["detail"]
    assert (await client.get("/readyz")).json()["trouble"] is None
    assert "skyfix_jobs_running 0.0" in (await client.get("/metrics")).text


async def test_a_rebuild_goes_live(tmp_path: Path) -> None:
    """The real command in a process of its own, with small weights."""
    weights = tmp_path / "small.safetensors"
    save_small(weights)
    encoder = Encoder.load(weights)
    with Catalogue.of(tmp_path) as catalogue:
        ingest(catalogue, coloured_region(tmp_path / "town", range(3)), name="town", size_m=64.0)
        first = build(tmp_path, encoder).name
        ingest(catalogue, coloured_region(tmp_path / "more", range(5, 7)), name="more", size_m=64.0)
    settings = {"admin_token": TOKEN, "weights": weights, "device": "cpu"}
    async with served(tmp_path, encoder, **settings) as client:
        assert (await client.get("/index")).json()["version"] == first
        job = await ended(client, (await client.post("/index/rebuild", headers=HEADERS)).json())
        assert (job["status"], job["exit_code"]) == ("succeeded", 0), job["log"]
        assert "faiss" not in "".join(job["log"])
        listed = (await client.get("/index/versions")).json()
        assert (listed["versions"][0], len(listed["versions"])) == (first, 2)
        while (fix := await locate(client))["index_version"] == first:
            await asyncio.sleep(0.02)
        assert fix["index_version"] == listed["current"]
        assert {match["tile_id"] for match in fix["matches"]} == {"t0", "t1", "t2", "t5", "t6"}
        assert (await client.get("/readyz")).json()["trouble"] is None


async def test_a_rebuild_uses_the_weights_that_answer(tmp_path: Path) -> None:
    """First the server's weights, then the weights that went live, then the requested weights."""
    commands: list[Sequence[str]] = []

    class Recorded(Jobs):
        def start(self, kind: Kind, command: Sequence[str]) -> Job:
            commands.append(command)
            return super().start(kind, [sys.executable, "-c", ""])

    def opened(fingerprint: str) -> Localizer:
        encoder = FakeEncoder(fingerprint=fingerprint)
        live = LiveIndex(tmp_path, fingerprint)
        return Localizer(encoder, live, rolls=4, weights=Path(fingerprint[:2]))

    publish(tmp_path, "town", range(3), FakeEncoder())
    app = create_app(
        opened("fa" * 32), Settings(home=tmp_path, weights=Path("fa"), admin_token=TOKEN), opened
    )
    app.state.jobs = Recorded()
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://skyfix") as client,
    ):
        await ended(client, (await client.post("/index/rebuild", headers=HEADERS)).json())
        publish(tmp_path, "suburb", range(5, 7), FakeEncoder(fingerprint="0b" * 32))
        app.state.live.follow()
        await ended(client, (await client.post("/index/rebuild", headers=HEADERS)).json())
        asked = tmp_path / "weights" / "next.safetensors"
        save_small(asked)
        params = {"weights": asked.name}
        job = (await client.post("/index/rebuild", params=params, headers=HEADERS)).json()
        await ended(client, job)
    used = [command[command.index("--weights") + 1] for command in commands]
    assert used == ["fa", "0b", str(asked)]


def save_small(path: Path) -> None:
    """A checkpoint that encodes three tiles in no time."""
    torch.manual_seed(0)
    config = tiny("encoder.aerial_footprint_m=64").encoder
    Checkpoint(config, config.build().state_dict()).save(path)


async def ended(client: httpx.AsyncClient, job: dict[str, str]) -> dict[str, object]:
    """The job, once it runs no longer."""
    shown: dict[str, object] = {**job}
    while shown["status"] == "running":
        await asyncio.sleep(0.1)
        shown = (await client.get(f"/jobs/{job['id']}", headers=HEADERS)).json()
    return shown


async def locate(client: httpx.AsyncClient) -> dict[str, object]:
    form = {"panorama": panorama_of(1)}
    return (await client.post("/localize?heading_deg=0", files=form)).raise_for_status().json()

"""Pages of the configured origins may read every answer, refusal and failure; no others may."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest
from api_harness import publish, served
from fakes import FakeEncoder, panorama_of

from model.images import Rgb
from model.panorama import Panorama

pytestmark = pytest.mark.anyio

PAGE = "https://maps.example"
ORIGINS = f"{PAGE},http://localhost:3000"
KIND = {"content-type": "image/png", "origin": PAGE}


class Broken(FakeEncoder):
    """Fails in a way that no row of the table of problems foresees."""

    def read_street(self, panorama: Panorama) -> Rgb:
        raise RuntimeError("unforeseen")


def preflight(method: str, *headers: str, origin: str = PAGE) -> dict[str, str]:
    """As Chromium and Firefox send it: names in lower case, sorted, without spaces."""
    asked = {"origin": origin, "access-control-request-method": method}
    if headers:
        asked["access-control-request-headers"] = ",".join(sorted(headers))
    return asked


def is_readable(answer: httpx.Response, origin: str = PAGE) -> bool:
    return answer.headers.get("access-control-allow-origin") == origin


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("POST", ()),
        ("POST", ("content-type", "x-api-key")),
        ("POST", ("authorization", "x-request-id")),
        ("DELETE", ("authorization",)),
    ],
)
async def test_a_preflight_of_a_configured_origin_passes(
    tmp_path: Path, method: str, headers: tuple[str, ...]
) -> None:
    async with served(tmp_path, FakeEncoder(), cors_origins=ORIGINS) as client:
        for origin in ORIGINS.split(","):
            asked = preflight(method, *headers, origin=origin)
            answer = await client.options("/localize", headers=asked)
            assert answer.status_code == 200
            assert is_readable(answer, origin)
            assert method in answer.headers["access-control-allow-methods"]
            allowed = answer.headers["access-control-allow-headers"].lower()
            assert set(headers) <= set(allowed.split(", "))
            assert "access-control-allow-credentials" not in answer.headers
            assert answer.headers["x-request-id"]


async def test_no_other_origin_and_none_by_default(tmp_path: Path) -> None:
    async with served(tmp_path, FakeEncoder(), cors_origins=ORIGINS) as client:
        for origin in ("https://maps.example.evil", "http://maps.example", "null"):
            asked = await client.options("/localize", headers=preflight("POST", origin=origin))
            read = await client.get("/livez", headers={"origin": origin})
            assert asked.status_code == 400
            for answer in (asked, read):
                assert "access-control-allow-origin" not in answer.headers
                assert "Origin" in answer.headers["vary"]
    async with served(tmp_path, FakeEncoder()) as client:
        asked = await client.options("/localize", headers=preflight("POST"))
        read = await client.get("/livez", headers={"origin": PAGE})
        assert (asked.status_code, read.status_code) == (405, 200)
        for answer in (asked, read):
            assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_a_star_allows_every_origin(tmp_path: Path) -> None:
    async with served(tmp_path, FakeEncoder(), cors_origins="*") as client:
        asked = await client.options("/localize", headers=preflight("POST", "content-type"))
        read = await client.get("/livez", headers={"origin": PAGE})
        assert is_readable(asked, "*")
        assert is_readable(read, "*")


async def test_answers_refusals_and_failures_can_be_read(tmp_path: Path) -> None:
    publish(tmp_path, "town", range(3), FakeEncoder())
    limits = {"max_body_bytes": 20_000, "body_deadline_s": 0.1, "cors_origins": ORIGINS}
    async with served(tmp_path, FakeEncoder(), **limits) as client:

        async def never() -> None:
            await asyncio.sleep(9.0)
            yield b""

        path, good = "/localize?heading_deg=0", panorama_of(1)
        sent = [
            (200, await client.post(path, content=good, headers=KIND)),
            (405, await client.get("/localize", headers=KIND)),
            (408, await client.post(path, content=never(), headers=KIND)),
            (413, await client.post(path, content=bytes(30_000), headers=KIND)),
            (415, await client.post(path, content=good, headers={"origin": PAGE})),
            (422, await client.post("/localize?heading_deg=x", content=good, headers=KIND)),
        ]
        client._transport.app.state.pipeline.admission.working = 4096  # type: ignore[attr-defined]
        sent.append((503, await client.post(path, content=good, headers=KIND)))
        client._transport.app.state.pipeline.admission.working = 0  # type: ignore[attr-defined]
    async with served(tmp_path, Broken(), **limits) as client:
        sent.append((500, await client.post(path, content=good, headers=KIND)))
    for status, answer in sent:
        assert (answer.status_code, is_readable(answer)) == (status, True)
        exposed = answer.headers["access-control-expose-headers"].split(", ")
        assert {"Retry-After", "X-Request-ID"} <= set(exposed)
        assert answer.headers["x-request-id"]

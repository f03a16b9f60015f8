"""The HTTP surface over a tiny real index: answers, hints, formats, health, swaps."""

import asyncio
import io
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from api_harness import publish, served
from fakes import FakeEncoder, colours, panorama_of
from PIL import Image

pytestmark = pytest.mark.anyio


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """The application over an empty home; tests publish what they need."""
    async with served(tmp_path, FakeEncoder()) as made:
        yield made


@pytest.fixture
def town(tmp_path: Path) -> str:
    """Tiles t0 to t11, 100 m apart from west to east at 25 N, 80 W. Returns the version's name."""
    return publish(tmp_path, "town", range(12), FakeEncoder())


async def locate(client: httpx.AsyncClient, seed: int, query: str = "", **headers: str):
    form = {"panorama": ("p.png", panorama_of(seed), "image/png")}
    return await client.post(f"/localize?{query}", files=form, headers=headers)


async def test_a_panorama_is_answered_with_its_position(
    client: httpx.AsyncClient, town: str
) -> None:
    answer = await locate(client, 5, "heading_deg=0&top_k=3")
    assert answer.status_code == 200
    fix = answer.json()
    assert [match["rank"] for match in fix["matches"]] == [1, 2, 3]
    best = fix["matches"][0]
    assert (best["tile_id"], best["latitude"]) == ("t5", 25.0)
    assert best["longitude"] == pytest.approx(-79.995)
    assert best["bounds"][0] < best["longitude"] < best["bounds"][2]
    assert fix["position"] == {"latitude": best["latitude"], "longitude": best["longitude"]}
    assert (fix["index_version"], fix["encoder"]) == (town, FakeEncoder().fingerprint)
    assert fix["geometry"]["north"] == {"value": 0.5, "source": "given", "note": None}
    assert min(fix["timings_ms"].values()) >= 0.0


async def test_an_unknown_heading_is_stated_and_estimated(
    client: httpx.AsyncClient, town: str
) -> None:
    fix = (await locate(client, 5, "top_k=1")).json()
    assert fix["geometry"]["north"] == {"value": None, "source": "unknown", "note": None}
    assert fix["matches"][0]["tile_id"] == "t5"
    heading = fix["matches"][0]["heading_deg"]
    assert min(heading, 360.0 - heading) <= 45.0  # half of a step of 4 rolls


async def test_position_hints_restrict_exactly(client: httpx.AsyncClient, town: str) -> None:
    near = (await locate(client, 5, "near=25,-80&radius_m=150&top_k=100")).json()
    assert {match["tile_id"] for match in near["matches"]} == {"t0", "t1"}
    box = (await locate(client, 5, "bbox=-79.9945,24,-79.9,26&heading_deg=0")).json()
    assert {match["tile_id"] for match in box["matches"]} == {f"t{n}" for n in range(6, 12)}
    assert near["note"] is box["note"] is None


async def test_an_answer_without_a_position_says_why(client: httpx.AsyncClient, town: str) -> None:
    nowhere = (await locate(client, 5, "near=0,0")).json()
    assert (nowhere["matches"], nowhere["position"]) == ([], None)
    assert nowhere["note"].startswith(
        "no tile of the index is centred within 500 m of near=0.0,0.0:"
    )
    drawn = (await locate(client, 5, "bbox=0,1,2,3", accept="application/geo+json")).json()
    assert drawn["features"] == []
    assert "in bbox=0.0,1.0,2.0,3.0:" in drawn["fix"]["note"]


async def test_geojson_says_the_same(client: httpx.AsyncClient, town: str) -> None:
    plain = (await locate(client, 5, "heading_deg=0&top_k=2")).json()
    answer = await locate(client, 5, "heading_deg=0&top_k=2", accept="Application/GEO+JSON")
    assert answer.headers["content-type"] == "application/geo+json"
    collection = answer.json()
    assert collection["type"] == "FeatureCollection"
    position, *tiles = collection["features"]
    place = [plain["position"]["longitude"], plain["position"]["latitude"]]
    assert position["geometry"] == {"type": "Point", "coordinates": place}
    for feature, match in zip(tiles, plain["matches"], strict=True):
        assert feature["bbox"] == match["bounds"]
        assert feature["properties"]["tile_id"] == match["tile_id"]
    assert collection["fix"]["geometry"] == plain["geometry"]
    # Section 7.1 of RFC 7946.
    assert not {"geometry", "properties", "coordinates"} & collection.keys()


async def test_readiness_follows_the_index(client: httpx.AsyncClient, tmp_path: Path) -> None:
    assert (await client.get("/livez")).json() == {"status": "alive"}
    before = await client.get("/readyz")
    assert before.status_code == (await locate(client, 1)).status_code == 503
    assert "skyfix build" in before.json()["detail"]
    assert before.headers["retry-after"]
    version = publish(tmp_path, "town", range(3), FakeEncoder())
    after = await client.get("/readyz")
    assert (after.status_code, after.json()["index_version"]) == (200, version)


async def test_an_index_of_another_encoder_is_not_ready(
    client: httpx.AsyncClient, tmp_path: Path
) -> None:
    publish(tmp_path, "town", range(3), FakeEncoder(fingerprint="0b" * 32))
    answer = await client.get("/readyz")
    assert (answer.status_code, answer.json()["type"]) == (503, "urn:skyfix:problem:index-encoder")
    assert "0b0b" in answer.json()["detail"]


async def test_a_build_changes_the_answers_of_a_running_server(
    client: httpx.AsyncClient, town: str, tmp_path: Path
) -> None:
    old = (await locate(client, 20, "heading_deg=0&top_k=1")).json()
    version = publish(tmp_path, "suburb", range(20, 22), FakeEncoder())
    new = old
    for _ in range(50):
        new = (await locate(client, 20, "heading_deg=0&top_k=1")).json()
        if new["index_version"] == version:
            break
        await asyncio.sleep(0.02)
    assert old["index_version"] == town
    assert old["matches"][0]["distance"] > 0.01
    assert (new["index_version"], new["matches"][0]["tile_id"]) == (version, "t20")


async def test_a_tile_is_a_picture_of_the_ground(client: httpx.AsyncClient, town: str) -> None:
    answer = await client.get("/tiles/t5.jpg?pixels=64")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
    seen = np.asarray(Image.open(io.BytesIO(answer.content)), np.float64)
    assert np.abs(seen - colours(5)).mean() < 20.0


@pytest.mark.parametrize("tile_id", ["t99", "..%2f..%2fetc%2fpasswd", "%00", "t5%20", "x" * 200])
async def test_an_unknown_tile_is_a_problem(
    client: httpx.AsyncClient, town: str, tile_id: str
) -> None:
    answer = await client.get(f"/tiles/{tile_id}.jpg")
    assert answer.status_code in (404, 422)
    assert answer.headers["content-type"] == "application/problem+json"


async def test_the_index_states_its_content(client: httpx.AsyncClient, town: str) -> None:
    shown = (await client.get("/index")).json()
    assert (shown["version"], shown["live"], shown["count"]) == (town, True, 12)
    assert [source["name"] for source in shown["sources"]] == ["town"]
    listed = (await client.get("/index/versions")).json()
    assert listed == {"current": town, "versions": [town]}


async def test_the_page_and_the_documentation_are_served(client: httpx.AsyncClient) -> None:
    page = await client.get("/")
    assert page.status_code == 200
    for path in ("/web/skyfix.js", "/web/skyfix.css"):
        assert path in page.text
        assert (await client.get(path)).status_code == 200
    assert "://" not in page.text  # nothing from another host
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert (await client.get("/docs")).status_code == 200
    paths = (await client.get("/openapi.json")).json()["paths"]
    assert {"/localize", "/tiles/{tile_id}.jpg", "/index", "/readyz", "/livez"} <= set(paths)

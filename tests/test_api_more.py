"""Batches, explanations, the map, GeoJSON's media type, and the headers of an answer."""

import base64
import io
import json
import logging
import math
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from api_harness import application, listening, publish, served
from fakes import FakeEncoder, panorama_of
from PIL import Image

from model.images import Rgb
from model.panorama import Panorama

pytestmark = pytest.mark.anyio
SETTINGS = {"max_files": 3, "max_in_flight": 4, "max_body_bytes": 200_000}


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    encoder = FakeEncoder()
    publish(tmp_path, "town", range(12), encoder)
    async with served(tmp_path, encoder, **SETTINGS) as made:
        yield made


def form(*bodies: bytes) -> list[tuple[str, tuple[str, bytes]]]:
    return [("panorama", ("secret-name.png", body)) for body in bodies]


def pixels(uri: str) -> np.ndarray:
    kind, _, data = uri.partition(";base64,")
    assert kind.startswith("data:image/")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


async def test_a_batch_gives_each_panorama_its_fix_or_problem(client: httpx.AsyncClient) -> None:
    files = form(panorama_of(3), b"no image", panorama_of(7))
    answer = await client.post("/localize/batch?heading_deg=0&top_k=1", files=files)
    assert answer.status_code == 200
    first, second, third = answer.json()["results"]
    assert first["fix"]["matches"][0]["tile_id"] == "t3"
    assert (second["fix"], second["problem"]["type"]) == (None, "urn:skyfix:problem:image")
    assert (third["fix"]["matches"][0]["tile_id"], third["problem"]) == ("t7", None)
    alone = await client.post("/localize?heading_deg=0&top_k=1", files=form(panorama_of(7)))
    assert alone.json()["matches"] == third["fix"]["matches"]


async def test_an_internal_error_affects_only_its_own_panorama(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(FakeEncoder):
        def read_street(self, panorama: Panorama) -> Rgb:
            if panorama.image.data == panorama_of(1):
                raise RuntimeError("a secret of the inside")
            return super().read_street(panorama)

    publish(tmp_path, "town", range(12), Broken())
    async with served(tmp_path, Broken()) as client:
        files = form(panorama_of(1), panorama_of(7))
        answer = await client.post("/localize/batch?heading_deg=0", files=files)
    failed, good = answer.json()["results"]
    assert good["fix"]["matches"][0]["tile_id"] == "t7"
    assert failed["problem"]["type"] == "urn:skyfix:problem:internal"
    assert "secret" not in answer.text
    assert "secret" in caplog.text


async def test_a_batch_states_the_longest_time_of_each_stage(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    files = form(panorama_of(3), b"no image", panorama_of(7))
    answer = await client.post("/localize/batch", files=files)
    fixes = [result["fix"] for result in answer.json()["results"] if result["fix"]]
    longest = {
        stage: max(fix["timings_ms"][stage] for fix in fixes) for stage in fixes[0]["timings_ms"]
    }
    *stages, total = answer.headers["server-timing"].split(", ")
    assert stages == [f"{stage};dur={ms:.1f}" for stage, ms in longest.items()]
    assert total.startswith("total;dur=")
    (line,) = [r for r in caplog.records if r.name == "service.api.middleware.request_log"]
    assert line.fields["index_version"] == fixes[0]["index_version"]
    assert line.fields["stages_ms"] == longest
    failed = await client.post("/localize/batch", files=form(b"no image"))
    assert failed.headers["server-timing"].startswith("total;dur=")


async def test_a_batch_is_bounded(client: httpx.AsyncClient) -> None:
    many = await client.post("/localize/batch", files=form(*[panorama_of(0)] * 4))
    assert (many.status_code, "3" in many.json()["detail"]) == (400, True)
    none = await client.post("/localize/batch", files={"photo": b"x"})
    assert none.status_code == 400
    big = await client.post("/localize/batch", files=form(b"\0" * 250_000))
    assert (big.status_code, big.json()["type"]) == (413, "urn:skyfix:problem:body-too-large")
    assert big.json()["detail"].endswith("the limit is 200000: send several forms")
    good = await client.post("/localize", files=form(panorama_of(0)))
    assert good.status_code == 200  # everything was given back


async def test_an_explanation_is_given_only_on_request(client: httpx.AsyncClient) -> None:
    plain = (await client.post("/localize?heading_deg=90", files=form(panorama_of(3)))).json()
    assert plain["explanation"] is None
    query = "heading_deg=90&explain=true"
    explained = (await client.post(f"/localize?{query}", files=form(panorama_of(3)))).json()
    explanation = explained["explanation"]
    assert pixels(explanation["projected"]).shape == (64, 64, 3)
    assert (
        pixels(explanation["attention"]) == round(0.25 * 255)
    ).all()  # FakeEncoder's mask is the north
    assert explanation["heading_deg"] == 90.0
    guessed = (await client.post("/localize?explain=1", files=form(panorama_of(3)))).json()
    assert guessed["explanation"]["heading_deg"] == guessed["matches"][0]["heading_deg"]


async def test_the_map_shows_the_region(client: httpx.AsyncClient) -> None:
    west, south, east, north = (await client.get("/index")).json()["bounds"]
    assert (west, south, north) == pytest.approx((-80.0, 25.0, 25.0), abs=1e-5)
    assert east == pytest.approx(-79.989, abs=1e-5)
    down = (1.0 - math.asinh(math.tan(math.radians(south))) / math.pi) / 2.0
    x, y = int((west + 180.0) / 360.0 * 2**16), int(down * 2**16)
    shown = await client.get(f"/map/16/{x}/{y}")
    assert (shown.status_code, shown.headers["content-type"]) == (200, "image/jpeg")
    assert Image.open(io.BytesIO(shown.content)).size == (256, 256)
    for path, status in {"0/0/0": 204, "16/0/0": 204, "3/9/0": 404, "16/-1/0": 422}.items():
        assert (await client.get(f"/map/{path}")).status_code == status


async def test_every_answer_has_an_id_and_its_time(client: httpx.AsyncClient) -> None:
    mine = {"X-Request-ID": "order-66.abc"}
    answer = await client.post("/localize", files=form(panorama_of(1)), headers=mine)
    assert answer.headers["x-request-id"] == "order-66.abc"
    stages = [part.split(";dur=") for part in answer.headers["server-timing"].split(", ")]
    assert {"decode", "queue", "encode", "search", "total"} <= {name for name, _ in stages}
    assert all(float(ms) >= 0.0 for _, ms in stages)
    for bad in ("short", "x" * 65, 'quote"and\\more'):
        made = (await client.get("/nowhere", headers={"X-Request-ID": bad})).headers["x-request-id"]
        assert (made != bad, len(made)) == (True, 32)


async def test_security_headers_are_on_everything(client: httpx.AsyncClient) -> None:
    for path in ("/", "/docs", "/livez", "/nowhere", "/web/skyfix.js", "/localize"):
        headers = (await client.get(path)).headers
        policy = headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/index", 200),
        ("/livez", 200),
        ("/tiles/t1.jpg", 200),
        ("/tiles/t99.jpg", 404),
        ("/index?x=1", 422),
        ("/", 200),
        ("/web/skyfix.js", 200),
        ("/openapi.json", 200),
        ("/localize", 405),
        ("/nowhere", 404),
    ],
)
def test_head_is_answered_like_get_without_the_body(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, path: str, status: int
) -> None:
    caplog.set_level(logging.INFO)
    publish(tmp_path, "town", range(2), FakeEncoder())
    app = application(tmp_path, FakeEncoder())
    with (
        listening(app) as (host, port),
        httpx.Client(base_url=f"http://{host}:{port}") as client,
    ):
        head, get = client.head(path), client.get(path)
    assert head.status_code == get.status_code == status
    assert (head.content, get.headers["content-length"]) == (b"", str(len(get.content)))
    changing = {"x-request-id", "server-timing", "date"}
    assert [(name, value) for name, value in head.headers.items() if name not in changing] == [
        (name, value) for name, value in get.headers.items() if name not in changing
    ]
    logged = [r.fields for r in caplog.records if r.name == "service.api.middleware.request_log"]
    sent = {fields["method"]: fields["sent"] for fields in logged}
    assert sent == {"HEAD": 0, "GET": len(get.content)}
    (route,) = {fields["route"] for fields in logged}
    page = app.state.metrics.page().decode()
    assert f'method="HEAD",route="{route}",status="{status}"}} 1.0' in page


async def test_metrics_count_answers_problems_and_stages(client: httpx.AsyncClient) -> None:
    await client.post("/localize", files=form(panorama_of(1)))
    await client.post("/localize", files=form(b"no image"))
    await client.get("/made/up/path")
    await client.get("/readyz")
    page = (await client.get("/metrics")).text
    for line in (
        'skyfix_requests_total{method="POST",route="/localize",status="200"} 1.0',
        'skyfix_requests_total{method="POST",route="/localize",status="422"} 1.0',
        'skyfix_requests_total{method="GET",route="none",status="404"} 1.0',
        'skyfix_problems_total{type="image"} 1.0',
        "skyfix_ready 1.0",
        "skyfix_model_alive 1.0",
        "skyfix_panoramas_in_flight 0.0",
        "skyfix_index_tiles 12.0",
        'skyfix_stage_seconds_count{stage="encode"}',
        "skyfix_batch_panoramas_count",
    ):
        assert line in page, line
    assert "made" not in page


async def test_a_request_is_one_line_of_log_without_names_or_content(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await client.post("/localize?near=25,-80", files=form(panorama_of(1)))
    (line,) = [r for r in caplog.records if r.name == "service.api.middleware.request_log"]
    assert line.fields["status"] == 200
    assert line.fields["route"] == "/localize"
    assert line.fields["received"] > len(panorama_of(1))
    assert set(line.fields["stages_ms"]) >= {"decode", "encode"}
    assert "secret-name" not in json.dumps(line.fields) + caplog.text
    assert "-80" not in json.dumps(line.fields)  # a client's position

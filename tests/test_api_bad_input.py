"""Bad input gives a 4xx problem that names value and limit, and the next request works."""

import asyncio
import shutil
import struct
import tempfile
import zlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
from api_harness import application, publish, served
from fakes import FakeEncoder, coloured_region, colours, encoded, panorama_of

from model.images import Rgb
from model.panorama import Panorama
from service.build import build
from service.index.catalogue import Catalogue
from service.ingest import ingest

pytestmark = pytest.mark.anyio
LIMIT = 100_000
TOKEN = "s3cr3t-0123456789"
NAME = "000001-20260101T000000Z"
GPANO_FISHEYE = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
    'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
    'xmlns:GPano="http://ns.google.com/photos/1.0/panorama/" '
    'GPano:ProjectionType="fisheye"/></rdf:RDF></x:xmpmeta>'
)


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """Three tiles behind tight limits; at the end a good request must still be answered."""
    encoder = FakeEncoder()
    publish(tmp_path, "town", range(3), encoder)
    limits = {"max_body_bytes": LIMIT, "body_deadline_s": 0.3}
    async with served(tmp_path, encoder, admin_token=TOKEN, **limits) as made:
        yield made
        good = await made.post("/localize?heading_deg=0", files=form(panorama_of(1)))
        assert (good.status_code, good.json()["matches"][0]["tile_id"]) == (200, "t1")


def form(data: bytes, field: str = "panorama") -> dict[str, tuple[str, bytes]]:
    return {field: ("p.jpg", data)}


def assert_problem(answer: httpx.Response, status: int, *named: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert {"type", "title", "detail", "instance"} <= problem.keys()
    for text in named:
        assert text in problem["detail"]


def bomb() -> bytes:
    """A PNG of 60000x60000 pixels in a few hundred bytes."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100_000)), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


JPEG = encoded(colours(0).repeat(2, axis=1), "JPEG")
UNUSABLE = {
    "empty": (b"", "0 bytes"),
    "unknown": (b"\7\0 nothing of the kind", "not a JPEG, PNG, WEBP, AVIF image (22 bytes)"),
    "name": (b"street.jpg", "not a JPEG, PNG, WEBP, AVIF image but text, 'street.jpg'"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a", "git lfs pull"),
    "page": (b"<!DOCTYPE html><title>404</title>", "but an HTML page"),
    "heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC photograph: save it as JPEG"),
    "truncated": (JPEG[: len(JPEG) // 2], "damaged"),
    "1x1": (encoded(np.zeros((1, 1, 3), np.uint8)), "1x1"),
    "bomb": (bomb(), "3600000000"),
    "gif": (encoded(colours(0), "GIF"), "but a GIF image"),
    "tower": (encoded(np.zeros((900, 100, 3), np.uint8)), "100x900"),
    "ribbon": (encoded(np.zeros((16, 2000, 3), np.uint8)), "2000x16"),
    "fisheye": (encoded(colours(0), "JPEG", xmp=GPANO_FISHEYE.encode()), "fisheye"),
}


@pytest.mark.parametrize("name", UNUSABLE)
async def test_an_unusable_image_is_refused(client: httpx.AsyncClient, name: str) -> None:
    data, named = UNUSABLE[name]
    assert_problem(await client.post("/localize", files=form(data)), 422, named)
    alone = await client.post("/localize", content=data, headers={"content-type": "image/jpeg"})
    assert_problem(alone, 422, named)


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("top_k=0", "top_k=0"),
        ("top_k=101", "100"),
        ("top_k=many", "many"),
        ("heading_deg=nan", "heading_deg"),
        ("heading_deg=400", "360"),
        ("heading_deg=north", "give a number from -360 to 360, or unknown"),
        ("heading_tolerance_deg=181", "180"),
        ("heading_deg=unknown&heading_tolerance_deg=9", "heading_tolerance_deg=9 no heading"),
        ("heading_deg=1&north=0.5", "twice"),
        ("vertical_fov_deg=0", "vertical_fov_deg"),
        ("near=91,0", "91"),
        ("near=here", "latitude,longitude"),
        ("radius_m=10", "near"),
        ("bbox=1,2,3", "west,south,east,north"),
        ("bbox=0,20,1,10", "south"),
        ("heading=90", "query.heading=90: no such parameter: did you mean heading_deg? known are"),
        ("where=here", "known are heading_deg, heading"),
        ("top_k=1&heading_deg=1&heading_deg=2", "query.heading_deg=['1', '2']: given 2 times"),
        ("near=25,-80&near=25,-80", "near"),
        ("near=5_5.6,1", "near='5_5.6,1'"),
        ("bbox=10,20,10,30", "same meridian"),
        ("top_k=1_0", "query.top_k=1_0: Value error, a number has no underscore"),
        ("heading_deg=3_5", "underscore"),
    ],
)
async def test_a_bad_query_is_refused(client: httpx.AsyncClient, query: str, named: str) -> None:
    assert_problem(await client.post(f"/localize?{query}", files=form(JPEG)), 422, named)


@pytest.mark.parametrize(
    ("method", "path", "named"),
    [
        ("POST", "/localize/batch?heading=1", "heading_deg"),
        ("GET", "/tiles/t1.jpg?pixel=64", "pixels"),
        ("GET", "/tiles/t1.jpg?pixels=64&pixels=65", "2 times"),
        ("GET", "/tiles/t1.jpg?pixels=1_00", "query.pixels=1_00: Value error, a number has no"),
        ("GET", "/map/1_0/1/1", "path.z=1_0: Value error, a number has no underscore"),
        ("GET", "/index?x", "query.x=: no such parameter: this route takes none"),
        ("GET", "/index/versions?x=1", "none"),
        ("GET", "/map/1/0/0?x=1", "none"),
        ("GET", "/livez?x=1", "none"),
        ("GET", "/readyz?x=1", "none"),
        ("GET", "/metrics?x=1", "none"),
        ("POST", "/index/rebuild?weight=x", "did you mean weights?"),
        ("POST", f"/index/activate?version={NAME}&version={NAME}", "2 times"),
        ("GET", f"/jobs/{'0' * 32}?x=1", "none"),
        ("DELETE", f"/jobs/{'0' * 32}?x=1", "none"),
    ],
)
async def test_no_route_ignores_a_parameter(
    client: httpx.AsyncClient, method: str, path: str, named: str
) -> None:
    headers = {"authorization": f"Bearer {TOKEN}"}
    assert_problem(await client.request(method, path, headers=headers), 422, named)


async def test_many_unknown_parameters_are_one_line(client: httpx.AsyncClient) -> None:
    for query in ("&".join(f"x{n}" for n in range(5_000)), "x0=" + "y" * 10_000, "x0" * 10_000):
        answer = await client.get(f"/index?{query}")
        assert_problem(answer, 422, "query.x0", "this route takes none")
        assert len(answer.content) < 1_000


async def test_a_page_may_be_linked_to_with_parameters(client: httpx.AsyncClient) -> None:
    assert (await client.get("/?from=elsewhere")).status_code == 200


async def test_a_body_of_another_type_is_refused(client: httpx.AsyncClient) -> None:
    assert_problem(await client.post("/localize"), 415, "multipart/form-data")
    alone = {"content-type": "image/jpeg"}
    batch = await client.post("/localize/batch", content=JPEG, headers=alone)
    assert_problem(batch, 415, "'image/jpeg': send multipart/form-data")
    zipped = await client.post(
        "/localize", content=JPEG, headers=alone | {"content-encoding": "gzip"}
    )
    assert_problem(zipped, 415, "content-encoding 'gzip'")
    assert_problem(await client.post("/localize", json={}), 415, "application/json")
    for coding in ("gzip", "identity, br"):
        claimed = {"content-encoding": coding}
        answer = await client.post("/localize", files=form(JPEG), headers=claimed)
        assert_problem(answer, 415, f"content-encoding {coding!r}")
    plain = {"content-encoding": "Identity"}
    good = await client.post("/localize", files=form(panorama_of(1)), headers=plain)
    assert good.status_code == 200


@pytest.mark.parametrize("path", ["/localize", "/localize/batch"])
@pytest.mark.parametrize(
    ("files", "named"),
    [
        ([("photo", ("p.jpg", JPEG))], "field 'photo' is not known: send files 'panorama'"),
        ([("panorama", ("p.jpg", JPEG)), ("photo", ("p.jpg", JPEG))], "'photo'"),
        ([("panorama", ("p.jpg", JPEG)), ("submit", (None, b"send"))], "'submit'"),
        ([("panorama", ("p.jpg", JPEG)), ("heading_deg", (None, b"9"))], "query, ?heading_deg=…"),
        ([("heading_deg", ("h.txt", b"9")), ("panorama", ("p.jpg", JPEG))], "?heading_deg=…"),
        ([("panorama", (None, b"street.jpg"))], "is text: send a file (curl -F panorama=@"),
    ],
)
async def test_a_form_holds_panoramas_only(
    client: httpx.AsyncClient, path: str, files: list[tuple[str, tuple]], named: str
) -> None:
    assert_problem(await client.post(path, files=files), 400, named)


async def test_several_panoramas_are_sent_to_batch(client: httpx.AsyncClient) -> None:
    two = [*form(JPEG).items()] * 2
    assert_problem(await client.post("/localize", files=two), 400, "/localize/batch")


PART = b'--B\r\ncontent-disposition: form-data; name="panorama"; '


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"", "ends without the closing boundary '--B--'"),
        (PART + b'filename="p.jpg"\r\n\r\n' + JPEG, "ends without the closing boundary"),
        (PART + b'filename=""\r\n\r\n\r\n--B--', "no file was chosen"),
        (b"--B--", "the form is empty"),
        (b"--C--", "boundary"),
    ],
    ids=["nothing", "cut off", "none chosen", "empty", "another boundary"],
)
async def test_a_broken_form_is_named(client: httpx.AsyncClient, body: bytes, named: str) -> None:
    kind = {"content-type": "multipart/form-data; boundary=B"}
    assert_problem(await client.post("/localize", content=body, headers=kind), 400, named)


@pytest.mark.parametrize("charset", ["utf-8", "undefined", "idna", "hex", "\\x00", "no-such"])
async def test_a_broken_form_is_refused(client: httpx.AsyncClient, charset: str) -> None:
    kind = f"multipart/form-data; boundary=B; charset={charset}"
    part = b'--B\r\ncontent-disposition: form-data; name="panorama\xff"; filename="p"\r\n\r\n'
    for body in (b"", b"--B", part, part + JPEG, b"\r\n".join([part, b"--B--", b"more"]), b"--C--"):
        answer = await client.post("/localize", content=body, headers={"content-type": kind})
        assert_problem(answer, 400)
    bare = await client.post("/localize", content=b"", headers={"content-type": kind[:19]})
    assert_problem(bare, 400, "'multipart/form-data' names no boundary")


async def test_an_oversized_body_is_refused_stated_or_chunked(client: httpx.AsyncClient) -> None:
    big = form(b"\0" * (2 * LIMIT))
    assert_problem(await client.post("/localize", files=big), 413, str(LIMIT))
    alone = {"content-type": "image/png"}
    stated = await client.post("/localize", content=bytes(2 * LIMIT), headers=alone)
    assert_problem(stated, 413, str(LIMIT))
    request = client.build_request("POST", "/localize", files=big)
    taken = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal taken
        body = await request.aread()
        for start in range(0, len(body), 1000):
            taken += 1
            yield body[start : start + 1000]

    kind = {"content-type": request.headers["content-type"]}
    assert_problem(await client.post("/localize", content=chunks(), headers=kind), 413, str(LIMIT))
    assert taken <= LIMIT // 1000 + 1


async def test_a_slow_body_is_given_up(client: httpx.AsyncClient) -> None:
    async def dripping() -> AsyncIterator[bytes]:
        while True:
            yield b"\r\n"
            await asyncio.sleep(0.05)

    kind = {"content-type": "multipart/form-data; boundary=B"}
    assert_problem(await client.post("/localize", content=dripping(), headers=kind), 408, "0.3 s")


async def test_unknown_routes_and_methods_are_problems(client: httpx.AsyncClient) -> None:
    assert_problem(await client.get("/nowhere"), 404, "/nowhere")
    wrong = await client.get("/localize")
    assert_problem(wrong, 405)
    assert wrong.headers["allow"] == "POST"


async def test_an_internal_error_reveals_nothing(tmp_path: Path) -> None:
    class Broken(FakeEncoder):
        def read_street(self, panorama: Panorama) -> Rgb:
            raise RuntimeError("a secret of the inside")

    async with served(tmp_path, Broken()) as client:
        answer = await client.post("/localize", files=form(panorama_of(1)))
    assert_problem(answer, 500)
    assert "secret" not in answer.text


@pytest.fixture
async def away(tmp_path: Path) -> AsyncIterator[tuple[httpx.AsyncClient, Path]]:
    """The application with its home, whose imagery lies elsewhere; no index is opened yet."""
    encoder, home = FakeEncoder(), tmp_path / "home"
    with Catalogue.of(home) as catalogue:
        folder = coloured_region(tmp_path / "my pictures" / "town", range(3))
        ingest(catalogue, folder, size_m=64.0)
    build(home, encoder)
    transport = httpx.ASGITransport(application(home, encoder))
    async with httpx.AsyncClient(transport=transport, base_url="http://skyfix") as client:
        yield client, home


def remove_imagery(home: Path) -> Path:
    shutil.rmtree(home.parent / "my pictures")
    return home.parent / "my pictures" / "town"


def damage_imagery(home: Path) -> Path:
    file = home.parent / "my pictures" / "town" / "t1.png"
    file.write_bytes(b"no picture")
    return Path(file.name)


def damage_catalogue(home: Path) -> Path:
    (home / "catalogue.sqlite").write_bytes(b"no database" * 1000)
    return home / "catalogue.sqlite"


def replace_catalogue_by_folder(home: Path) -> Path:
    (home / "catalogue.sqlite").unlink()
    (home / "catalogue.sqlite").mkdir()
    return home / "catalogue.sqlite"


def remove_vectors(home: Path) -> Path:
    (file,) = home.glob("index/*/vectors.faiss")
    file.unlink()
    return file


def replace_pointer_by_folder(home: Path) -> Path:
    (home / "index" / "CURRENT").unlink()
    (home / "index" / "CURRENT").mkdir()
    return home / "index" / "CURRENT"


def remove_index(home: Path) -> Path:
    shutil.rmtree(home / "index")
    return home / "index"


def remove_version(home: Path) -> Path:
    (version,) = home.glob("index/0*")
    shutil.rmtree(version)
    return home / "index"


@pytest.mark.parametrize(
    ("damage", "path", "status", "named"),
    [
        (remove_imagery, "/tiles/t1.jpg", 410, "imagery of source 'town' is gone: put it back"),
        (damage_imagery, "/tiles/t1.jpg", 500, "the service's log names the file"),
        (damage_catalogue, "/tiles/t1.jpg", 500, "catalogue.sqlite is not a usable catalogue"),
        (replace_catalogue_by_folder, "/tiles/t1.jpg", 500, "catalogue.sqlite: the catalogue"),
        (remove_vectors, "/readyz", 503, "vectors.faiss: No such file"),
        (replace_pointer_by_folder, "/index/versions", 503, "CURRENT cannot be read: Is a dir"),
        (remove_index, "/readyz", 503, "holds no index yet: run `skyfix build`"),
        (remove_version, "/readyz", 503, "no index version is named '00000"),
    ],
)
async def test_an_answer_names_no_folder_of_the_server(
    away: tuple[httpx.AsyncClient, Path],
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path], Path],
    path: str,
    status: int,
    named: str,
) -> None:
    client, home = away
    damaged = damage(home)
    answer = await client.get(path)
    assert_problem(answer, status, named)
    assert str(home.parent) not in answer.text
    assert str(damaged) in caplog.text  # the operator reads the path


async def test_trouble_names_no_folder_of_the_server(
    away: tuple[httpx.AsyncClient, Path], caplog: pytest.LogCaptureFixture
) -> None:
    client, home = away
    assert (await client.get("/readyz")).json()["trouble"] is None
    version = publish(home, "suburb", range(3, 6), FakeEncoder())
    (home / "index" / version / "vectors.faiss").unlink()
    client._transport.app.state.live.follow()  # type: ignore[attr-defined]
    trouble = (await client.get("/readyz")).json()["trouble"]
    assert f"index version {version}: vectors.faiss: No such file or directory" in trouble
    assert str(home) not in trouble
    assert str(home / "index" / version / "vectors.faiss") in caplog.text


async def test_an_upload_never_touches_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "no such folder"))
    noise = np.random.default_rng(0).integers(0, 256, (800, 1600, 3), np.uint8)
    assert len(encoded(noise)) > 3_000_000
    publish(tmp_path, "town", range(3), FakeEncoder())
    async with served(tmp_path, FakeEncoder()) as client:
        answer = await client.post("/localize", files=form(encoded(noise)))
    assert answer.status_code == 200

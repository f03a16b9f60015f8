"""Every way in which RFC 2046 lets a client write a form, and an image without a form."""

from __future__ import annotations

import string
from email import message_from_bytes
from pathlib import Path

import anyio
import httpx
import pytest
from api_harness import publish, served
from fakes import FakeEncoder, colours, encoded, panorama_of
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.types import Message

from service.api.upload import BodyLimits, read_panorama, read_panoramas
from service.runtime.admission import Admission

LIMITS = BodyLimits(max_bytes=100_000, deadline_s=5.0, max_files=3)
CHARACTERS = string.ascii_letters + string.digits + "'()+_,-./:=?"
BOUNDARIES = st.text(CHARACTERS + " ", min_size=1, max_size=70).filter(lambda b: b[-1] != " ")
# Bytes of which boundaries and their neighbourhood are made, so that a file looks like a form.
BYTES = st.sampled_from([b"\r", b"\n", b"-", b"--", b"B", b"\0", b"\r\n--B"])
FILES = st.lists(BYTES).map(lambda parts: b"\xff" + b"".join(parts))  # no text
NAMES = (
    'name="panorama"; filename="p.jpg"',
    "name=panorama; filename*=utf-8''%D1%84.jpg",
    "name=\"panorama\"; filename*0*=utf-8''%D1; filename*1*=%84.jpg",
    'name="panorama"',
    "filename=p.jpg; NAME = panorama",
)


def received(content_type: str, body: bytes, sizes: list[int]) -> list[bytes]:
    """The files of a body that arrives in chunks of these sizes, the last of the rest."""
    ends = [sum(sizes[: n + 1]) for n in range(len(sizes))]
    chunks = [body[a:b] for a, b in zip([0, *ends], [*ends, len(body)], strict=True)]

    async def receive() -> Message:
        return {"type": "http.request", "body": chunks.pop(0), "more_body": bool(chunks)}

    headers = [(b"content-type", content_type.encode())]
    request = Request({"type": "http", "method": "POST", "headers": headers}, receive)

    async def read() -> list[bytes]:
        with Admission(8, 10**6, 8).reserve() as reservation:
            return await read_panoramas(request, LIMITS, reservation)

    return anyio.run(read)


@given(
    boundary=BOUNDARIES,
    files=st.lists(FILES, min_size=1, max_size=3),
    name=st.sampled_from(NAMES),
    preamble=st.sampled_from([b"", b"\r\n", b"A multi-part message -- in MIME.\r\n", b"--\r\n"]),
    padding=st.sampled_from([b"", b" ", b" \t "]),
    epilogue=st.sampled_from([b"", b"\r\n", b"\r\nthe end --"]),
    sizes=st.lists(st.integers(0, 40), max_size=8),
)
@settings(deadline=None, max_examples=150)
def test_a_form_is_read_as_python_s_email_reads_it(
    boundary: str,
    files: list[bytes],
    name: str,
    preamble: bytes,
    padding: bytes,
    epilogue: bytes,
    sizes: list[int],
) -> None:
    line = f"--{boundary}".encode()
    files = [file for file in files if b"\r\n" + line not in b"\r\n" + file] or [b"\xff"]
    head = f"Content-Disposition: form-data; {name}\r\nContent-Type: image/jpeg\r\n\r\n".encode()
    parts = b"\r\n".join(line + padding + b"\r\n" + head + file for file in files)
    body = preamble + parts + b"\r\n" + line + b"--" + epilogue
    content_type = f'multipart/form-data; boundary="{boundary}"; charset=utf-8'
    assert received(content_type, body, sizes) == files
    parsed = message_from_bytes(b"Content-Type: %b\r\n\r\n" % content_type.encode() + body)
    assert len(parsed.get_payload()) == len(files)


@pytest.mark.anyio
async def test_an_image_alone_is_answered_as_in_a_form(tmp_path: Path) -> None:
    """The stated image type does not matter."""
    publish(tmp_path, "town", range(3), FakeEncoder())
    webp = encoded(colours(1).repeat(2, axis=1), "WEBP", lossless=True)
    avif = encoded(colours(1).repeat(2, axis=1), "AVIF", quality=100, subsampling="4:4:4")
    async with served(tmp_path, FakeEncoder()) as client:
        path = "/localize?heading_deg=0&top_k=2"
        in_form = await client.post(path, files={"panorama": ("p.png", panorama_of(1))})
        for data, kind in (
            (panorama_of(1), "image/png"),
            (panorama_of(1), "Image/JPEG; q=1"),
            (webp, "image/webp"),
        ):
            alone = await client.post(path, content=data, headers={"content-type": kind})
            assert alone.json()["matches"] == in_form.json()["matches"]
        lossy = await client.post(path, content=avif, headers={"content-type": "image/avif"})
        assert lossy.json()["matches"][0]["tile_id"] == in_form.json()["matches"][0]["tile_id"]
        kind = {"content-type": "image/jpeg", "accept": "application/geo+json"}
        assert (await client.post(path, content=webp, headers=kind)).json()["features"]


@pytest.mark.anyio
async def test_an_image_alone_holds_its_bytes_while_it_arrives() -> None:
    admission, held = Admission(8, 10**6, 8), []

    async def receive() -> Message:
        held.append(admission.bytes)
        return {"type": "http.request", "body": b"x" * 10, "more_body": len(held) < 4}

    headers = [(b"content-type", b"image/jpeg")]
    request = Request({"type": "http", "method": "POST", "headers": headers}, receive)
    with admission.reserve() as reservation:
        assert await read_panorama(request, LIMITS, reservation) == b"x" * 40
    assert (held, admission.bytes) == ([0, 10, 20, 30], 0)


@pytest.mark.anyio
async def test_the_field_case_is_answered(tmp_path: Path, field_cases: Path) -> None:
    publish(tmp_path, "town", range(3), FakeEncoder())
    body = (field_cases / "filename-star-only" / "body.bin").read_bytes()
    kind = {"content-type": "multipart/form-data; boundary=B"}
    async with served(tmp_path, FakeEncoder()) as client:
        answer: httpx.Response = await client.post("/localize", content=body, headers=kind)
    assert answer.status_code == 200

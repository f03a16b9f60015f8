"""The proxy's configuration against the service's own limits and routes, and in a real nginx."""

import json
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fakes import FakeEncoder
from serving import application, listening

from service.settings import MIB, Settings

CONFIG = (Path(__file__).parent.parent / "deploy" / "nginx.conf").read_text()
PUBLIC = re.findall(r"location ~ (\S+) \{", CONFIG)
TOKEN = "s3cr3t-0123456789"


def value(directive: str) -> int:
    """The directive's number where it first stands."""
    return int(re.search(rf"^\s*{directive} (\d+)[sm]?;", CONFIG, re.MULTILINE)[1])


def is_public(path: str) -> bool:
    return any(re.search(pattern, path) for pattern in PUBLIC)


def test_the_limits_are_the_service_s() -> None:
    settings = Settings()
    assert value("client_max_body_size") * MIB == settings.max_body_bytes
    assert value("client_header_timeout") == settings.header_deadline_s
    assert value("proxy_read_timeout") > settings.request_deadline_s
    assert value("proxy_send_timeout") >= settings.body_deadline_s
    uploads = int(re.search(r"limit_conn uploads (\d+);", CONFIG)[1])
    assert uploads * settings.max_body_bytes < settings.max_in_flight_bytes


def test_every_public_route_passes_and_no_other(tmp_path: Path) -> None:
    app = application(tmp_path, FakeEncoder(), admin_token=TOKEN)
    operations = app.openapi()["paths"]
    closed = {path for path, of in operations.items() if "security" in next(iter(of.values()))}
    assert len(closed) >= 3
    for path in operations.keys() - closed - {"/metrics"}:
        assert is_public(path), path
    for path in closed | {"/metrics", "/index/", "/localize/x", "/admin"}:
        assert not is_public(path), path
    assert all(map(is_public, ("/", "/docs", "/openapi.json", "/web/map.js", "/web/swagger/a")))


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Addresses of the public and the operators' side of nginx before an echo."""
    if shutil.which("nginx") is None:
        pytest.skip("no nginx here")
    folder = tmp_path_factory.mktemp("nginx")
    with listening(echo, lifespan="off") as (host, port):
        text = CONFIG.replace("api:8000", f"{host}:{port}").replace("/tmp/", f"{folder}/")
        text = text.replace("rate=5r/s", "rate=1r/m")  # however slow this machine is
        text = text.replace("/dev/stdout", f"{folder}/log").replace("/dev/stderr", f"{folder}/err")
        addresses = [f"unix:{folder}/{name}" for name in ("public", "operators")]
        for number, address in zip((8080, 8081), addresses, strict=True):
            text = text.replace(f"listen {number};", f"listen {address};")
        (folder / "nginx.conf").write_text(text)
        command = ["nginx", "-c", f"{folder}/nginx.conf", "-e", f"{folder}/err"]
        with subprocess.Popen([*command, "-g", "daemon off;"]) as nginx:
            while not (folder / "operators").exists() and nginx.poll() is None:
                time.sleep(0.02)
            yield tuple(address.removeprefix("unix:") for address in addresses)
            nginx.terminate()


async def echo(scope, receive, send) -> None:  # type: ignore[no-untyped-def]
    """Answers with the request's path and headers."""
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    headers = {name.decode(): text.decode() for name, text in scope["headers"]}
    body = json.dumps({"path": scope["path"], "size": size, **headers}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


def client(path: str) -> httpx.Client:
    return httpx.Client(transport=httpx.HTTPTransport(uds=path), base_url="http://skyfix.test")


def test_a_request_passes_with_its_id_and_without_forged_ones(ports: tuple[str, str]) -> None:
    with client(ports[0]) as public:
        sent = {"X-Request-ID": "from-the-client", "X-Forwarded-For": "1.2.3.4"}
        passed = public.post("/localize", content=b"x" * 100_000, headers=sent).json()
        assert (passed["path"], passed["size"]) == ("/localize", 100_000)
        assert passed["x-request-id"] == "from-the-client"
        assert "1.2.3.4" not in passed["x-forwarded-for"]
        forged = public.get("/index", headers={"X-Request-ID": "a b\tc" * 9}).json()
        assert re.fullmatch("[0-9a-f]{32}", forged["x-request-id"])


CLOSED = ("/metrics", "/%6detrics", "/tiles/../metrics", "/index//rebuild", "/jobs/1", "/x")
CLOSED += (
    "/jobs/..",
    "/jobs/%2e%2e",
    "/jobs/..#",
    "/jobs/.%2E?x",
    "/metrics%2f..",
    "/jobs/1/../../.",
)


def sent_raw(path: str, request: str) -> tuple[str, str]:
    """Head and body of the answer to a request that no client has tidied up."""
    with socket.socket(socket.AF_UNIX) as sender:
        sender.connect(path)
        sender.sendall(request.encode())
        head, _, body = sender.makefile("rb").read().decode().partition("\r\n\r\n")
    return head, body


def test_what_is_not_public_is_for_operators_only(ports: tuple[str, str]) -> None:
    for path in CLOSED:
        head, body = sent_raw(ports[0], f"GET {path} HTTP/1.0\r\n\r\n")
        assert head.startswith("HTTP/1.1 404 "), path
        assert json.loads(body)["status"] == 404
    assert "content-type: application/problem+json" in head.lower()
    with client(ports[1]) as operators:
        assert operators.get("/metrics").json()["path"] == "/metrics"


def test_dots_in_names_and_queries_pass(ports: tuple[str, str]) -> None:
    with client(ports[0]) as public:
        for path in ("/openapi.json", "/web/..a/.b", "/tiles/t...jpg", "/tiles/a?b=/../c"):
            assert public.get(path).json()["path"] == path.partition("?")[0]


def test_too_large_and_too_many_are_problems(ports: tuple[str, str]) -> None:
    request = f"POST /localize HTTP/1.0\r\nContent-Length: {33 * MIB}\r\n\r\n"
    head, body = sent_raw(ports[0], request)
    assert head.startswith("HTTP/1.1 413 ")
    assert "urn:skyfix:problem:body-too-large" in body
    with client(ports[0]) as public:
        many = [public.get("/readyz") for _ in range(30)]
    refused = [answer for answer in many if answer.status_code == 429]
    assert 9 <= len(refused) < 30
    assert refused[0].json()["type"] == "urn:skyfix:problem:rate-limit"
    assert refused[0].headers["retry-after"] == "2"

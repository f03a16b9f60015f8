"""The proxy's configuration against the service's own limits and routes, and in a real nginx."""

import json
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from api_harness import application, listening
from fakes import FakeEncoder
from server_process import wait_until

from service.settings import MIB, Settings

DEPLOY = Path(__file__).parent.parent / "deploy"
CONFIG = (DEPLOY / "nginx.conf").read_text()
EXAMPLE = (DEPLOY / "keys.example.conf").read_text()
PUBLIC = re.findall(r"location ~ (\S+) \{", CONFIG)
TOKEN = "s3cr3t-0123456789"


def value(directive: str) -> int:
    """The number of the directive's first occurrence."""
    return int(re.search(rf"^\s*{directive} (\d+)[sm]?;", CONFIG, re.MULTILINE)[1])


def is_public(path: str) -> bool:
    return any(re.search(pattern, path) for pattern in PUBLIC)


def test_the_limits_agree_with_the_service_s() -> None:
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


def command_in(folder: Path, upstream: str = "127.0.0.1:9") -> list[str]:
    """The command of nginx with its shipped configuration, its files moved to the folder."""
    if shutil.which("nginx") is None:
        pytest.skip("no nginx here")
    text = CONFIG.replace("api:8000", upstream).replace("/tmp/", f"{folder}/")
    text = text.replace("rate=5r/s", "rate=1r/m")  # one minute, also for a slow machine
    text = text.replace('# "https://maps.example"', '"https://maps.example"')
    text = text.replace("/dev/stdout", f"{folder}/log").replace("/dev/stderr", f"{folder}/err")
    for number, name in ((8080, "public"), (8081, "operators")):
        text = text.replace(f"listen {number};", f"listen unix:{folder}/{name};")
    (folder / "nginx.conf").write_text(text)
    return ["nginx", "-c", f"{folder}/nginx.conf", "-e", f"{folder}/err", "-g", "daemon off;"]


@contextmanager
def nginx_before_echo(folder: Path) -> Iterator[tuple[str, str]]:
    """Addresses of the public and the operators' side."""
    with (
        listening(echo, lifespan="off") as (host, port),
        subprocess.Popen(command_in(folder, f"{host}:{port}")) as nginx,
    ):
        try:
            wait_until(lambda: (folder / "operators").exists() or nginx.poll() is not None)
            assert nginx.poll() is None, (folder / "err").read_text()
            yield str(folder / "public"), str(folder / "operators")
        finally:
            nginx.terminate()


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """nginx as it is shipped, without keys."""
    with nginx_before_echo(tmp_path_factory.mktemp("nginx")) as addresses:
        yield addresses


KEYS = {"town-hall": "0f" * 16, "harbour": "A1" * 16, "port": "b2" * 50}


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of an nginx whose keys.conf is the example with three clients in it."""
    folder = tmp_path_factory.mktemp("keyed")
    lines = "".join(f'    "{key}" {name};\n' for name, key in KEYS.items())
    (folder / "keys.conf").write_text(EXAMPLE.replace("}", f"{lines}}}"))
    with nginx_before_echo(folder):
        yield folder


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
    """Head and body of the answer to a request that no client has corrected."""
    with socket.socket(socket.AF_UNIX) as sender:
        sender.connect(path)
        sender.sendall(request.encode())
        head, _, body = sender.makefile("rb").read().decode().partition("\r\n\r\n")
    return head, body


def test_routes_that_are_not_public_are_for_operators_only(ports: tuple[str, str]) -> None:
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


def test_too_large_and_too_many_requests_are_problems(ports: tuple[str, str]) -> None:
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


@pytest.mark.parametrize("request_line", ["TRACE / HTTP/1.1", "GET / HTTP/3.0", "GET / HTTP/1.1"])
def test_a_malformed_request_is_a_problem(ports: tuple[str, str], request_line: str) -> None:
    head, body = sent_raw(ports[0], f"{request_line}\r\nConnection: close\r\n\r\n")
    assert "content-type: application/problem+json" in head.lower()
    assert f" {json.loads(body)['status']} " in head.partition("\n")[0]


def test_no_query_is_logged_whatever_happens(tmp_path: Path) -> None:
    large = f"POST /localize?near=12.5,3 HTTP/1.0\r\nContent-Length: {33 * MIB}\r\n\r\n"
    with nginx_before_echo(tmp_path) as (public, _), client(public) as sender:
        statuses = {sender.post("/localize?near=12.5,3").status_code for _ in range(30)}
        assert statuses == {200, 429}
        assert " 413 " in sent_raw(public, large)[0]
    log = (tmp_path / "log").read_text()
    assert all(f"POST /localize {status} " in log for status in (200, 413, 429))
    assert "12.5" not in log + (tmp_path / "err").read_text()


PAGES = ("/", "/docs", "/index", "/tiles/a.jpg", "/map/1/2/3", "/web/map.js", "/localize")


def holder(folder: Path, key: str | None) -> httpx.Client:
    """A client that sends this key."""
    made = client(str(folder / "public"))
    made.headers.update({"X-API-Key": key} if key is not None else {})
    return made


def test_without_a_keys_file_every_client_passes(ports: tuple[str, str]) -> None:
    with client(ports[0]) as public:
        for path in PAGES[:-1]:
            passed = public.get(path, headers={"X-API-Key": "any"})
            assert (passed.status_code, passed.json()["path"]) == (200, path)
            assert "x-api-key" not in passed.json()


@pytest.mark.parametrize("key", [None, "", "-", "default", "town-hall", "0f" * 15, "~.*"])
def test_a_client_without_a_key_reaches_health_only(keyed: Path, key: str | None) -> None:
    with holder(keyed, key) as stranger:
        for path in PAGES:
            refused = stranger.post(path, content=b"x" * 100_000)
            assert (refused.status_code, refused.json()["status"]) == (401, 401)
            assert refused.json()["type"] == "urn:skyfix:problem:key"
            assert refused.headers["content-type"] == "application/problem+json"
            assert refused.headers["www-authenticate"] == 'ApiKey header="X-API-Key"'
        assert stranger.get("/readyz").json()["path"] == "/readyz"
        assert stranger.get("/livez").json()["path"] == "/livez"


def test_a_page_asks_without_a_key_and_can_read_a_refusal(keyed: Path) -> None:
    with holder(keyed, None) as page:
        asked = page.options("/localize", headers={"Access-Control-Request-Method": "POST"})
        assert (asked.status_code, asked.json()["path"]) == (200, "/localize")
        assert page.options("/metrics").status_code == 404
        for origin, readable in (
            ("https://maps.example", True),
            ("https://maps.example.org", False),
        ):
            refused = page.get("/index", headers={"Origin": origin})
            assert (refused.status_code, refused.headers["vary"]) == (401, "Origin")
            shown = refused.headers.get("access-control-allow-origin")
            assert shown == (origin if readable else None)


@pytest.mark.parametrize("path", ["/livez/../index", "/index#/livez", "/problem", "/index?/livez"])
def test_no_spelling_of_a_path_replaces_a_key(keyed: Path, path: str) -> None:
    head, _ = sent_raw(str(keyed / "public"), f"GET {path} HTTP/1.0\r\n\r\n")
    assert re.match(r"HTTP/1\.1 40[14] ", head)


def test_a_malformed_request_is_no_key_problem(keyed: Path) -> None:
    head, body = sent_raw(str(keyed / "public"), "GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
    assert head.startswith("HTTP/1.1 400 ")
    assert json.loads(body)["type"] == "urn:skyfix:problem:bad-request"


@pytest.mark.parametrize("name", KEYS)
def test_a_key_opens_every_page_and_is_neither_forwarded_nor_logged(keyed: Path, name: str) -> None:
    with holder(keyed, KEYS[name]) as known:
        passed = known.get(f"/index?for={name}", headers={"X-Request-ID": f"asked-by-{name}"})
    assert passed.json()["path"] == "/index"
    assert KEYS[name] not in passed.text
    logged = f"asked-by-{name} client={name}\n"
    wait_until(lambda: logged in (keyed / "log").read_text(), 20.0)
    assert KEYS[name] not in (keyed / "log").read_text() + (keyed / "err").read_text()


def test_operators_need_no_key_and_forward_none(keyed: Path) -> None:
    with client(str(keyed / "operators")) as operators:
        passed = operators.get("/metrics", headers={"X-API-Key": KEYS["port"]})
    assert (passed.status_code, "x-api-key" in passed.json()) == (200, False)


def test_each_client_has_a_share_of_its_own(keyed: Path) -> None:
    with holder(keyed, KEYS["harbour"]) as greedy, holder(keyed, KEYS["town-hall"]) as other:
        many = [greedy.post("/localize").status_code for _ in range(30)]
        assert (set(many), many.count(429) >= 9) == ({200, 429}, True)
        assert other.post("/localize").status_code == 200
    with holder(keyed, None) as stranger:  # counted by address, not by key
        assert stranger.get("/readyz").status_code == 200


def test_the_example_keys_admit_no_client(tmp_path: Path) -> None:
    (tmp_path / "keys.conf").write_text(EXAMPLE)
    with nginx_before_echo(tmp_path) as (public, _), client(public) as sender:
        for key in (*re.findall('"([0-9a-f]+)"', EXAMPLE), ""):
            assert sender.get("/index", headers={"X-API-Key": key}).status_code == 401


def test_keys_that_cannot_be_read_stop_the_proxy(tmp_path: Path) -> None:
    check = [*command_in(tmp_path), "-t"]
    assert subprocess.run(check, capture_output=True).returncode == 0
    (tmp_path / "keys.conf").symlink_to("nowhere")
    assert subprocess.run(check, capture_output=True).returncode != 0
    (tmp_path / "keys.conf").unlink()
    (tmp_path / "keys.conf").write_text('"0f3c" town-hall;')
    assert subprocess.run(check, capture_output=True).returncode != 0

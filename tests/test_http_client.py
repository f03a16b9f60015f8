"""The client keeps its rate, waits as it is asked to, tries again, and shows no secret."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from imagery_server import ImageryServer, Reply, serving

from service.remote.http_client import Client, RemoteError, identity, shown

GOOD = Reply(body=b"imagery")


@pytest.fixture
def server() -> Iterator[ImageryServer]:
    with serving(lambda _: GOOD) as server:
        yield server


def after(*first: Reply) -> object:
    """Answers with these, then with GOOD."""
    waiting = list(first)
    return lambda _: waiting.pop(0) if waiting else GOOD


def client(server: ImageryServer, **options: object) -> Client:
    return Client(server.url, **{"rate": 1000.0, "backoff_s": 0.001, **options})


@pytest.mark.parametrize(
    "first",
    [
        [Reply(500)],
        [Reply(503), Reply(502), Reply(504)],
        [Reply(body=b"a half image", sent=6)],
        [Reply(429, headers={"Retry-After": "0"})],
    ],
)
def test_a_passing_fault_is_tried_again(server: ImageryServer, first: list[Reply]) -> None:
    server.answer = after(*first)
    assert client(server).get(server.url).body == GOOD.body
    assert len(server.seen) == len(first) + 1


def test_retry_after_is_waited_for(server: ImageryServer) -> None:
    server.answer = after(Reply(429, headers={"Retry-After": "1"}))
    began = time.monotonic()
    assert client(server).get(server.url).body == GOOD.body
    assert time.monotonic() - began >= 1.0


@pytest.mark.parametrize(
    ("reply", "requests", "message"),
    [
        (Reply(401), 1, "answers 401: give a key"),
        (Reply(403), 1, "answers 403: give a key"),
        (Reply(400, b"no such layer"), 1, "answers 400: .*no such layer"),
        (Reply(404), 1, "answers 404"),
        (Reply(500), 7, "answers 500: run the same command again"),
        (Reply(429, headers={"Retry-After": "3600"}), 1, "asks to wait 3600 s: lower --rate"),
        (Reply(body=b"a half image", sent=6), 7, "IncompleteRead"),
        (Reply(302, headers={"Location": "file:///etc/passwd"}), 1, "LocationValueError"),
        (Reply(302, headers={"Location": "/"}), 6, "too many redirects"),
    ],
)
def test_a_lasting_fault_is_named(
    server: ImageryServer, reply: Reply, requests: int, message: str
) -> None:
    server.answer = lambda _: reply
    with pytest.raises(RemoteError, match=rf"127\.0\.0\.1.*{message}"):
        client(server).get(server.url)
    assert len(server.seen) == requests


def test_no_server_is_named_and_not_tried_for_ever() -> None:
    with pytest.raises(RemoteError, match=r"127\.0\.0\.1:9.*NewConnectionError"):
        Client("http://127.0.0.1:9", 1000.0, backoff_s=0.0).get("http://127.0.0.1:9/a.tif")


def test_requests_keep_the_rate_and_name_skyfix(server: ImageryServer) -> None:
    slow = client(server, rate=20.0)
    began = time.monotonic()
    for _ in range(5):
        slow.get(server.url)
    assert time.monotonic() - began >= 4 / 20.0
    assert {seen.headers["user-agent"].split("/")[0] for seen in server.seen} == {"skyfix"}


def test_headers_go_to_their_host_alone(server: ImageryServer) -> None:
    with serving(lambda _: GOOD) as other:
        server.answer = lambda _: Reply(302, headers={"Location": other.url})
        keyed = client(server, headers={"X-Key": "secret"})
        keyed.get(server.url)
        keyed.get(other.url)
        assert server.seen[0].headers["x-key"] == "secret"
        assert [seen.headers.get("x-key") for seen in other.seen] == [None, None]


def test_paths_are_read_only_by_the_client_of_a_path(server: ImageryServer, tmp_path: Path) -> None:
    file = tmp_path / "town.tif"
    file.write_bytes(bytes(range(100)))
    local = Client(str(tmp_path / "item.json"), 1000.0)
    answer = local.get(str(file), (90, 199))
    assert (answer.body, answer.headers["content-range"]) == (
        bytes(range(90, 100)),
        "bytes 90-99/100",
    )
    with pytest.raises(RemoteError, match=r"nowhere\.tif cannot be read"):
        local.get(str(tmp_path / "nowhere.tif"))
    for address in (str(file), file.as_uri()):
        with pytest.raises(RemoteError, match="only http and https"):
            client(server).get(address)


def test_secrets_are_neither_logged_nor_raised(
    server: ImageryServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    server.answer = lambda _: Reply(500)
    address = server.url.replace("//", "//me:hidden@")
    with pytest.raises(RemoteError) as raised:
        client(server).get(f"{address}/map/hidden1234hidden5678hidden/a?k=hidden&layers=roads")
    assert "layers=roads" in str(raised.value)
    assert "hidden" not in caplog.text + str(raised.value)


def test_a_url_is_the_same_with_another_token_and_another_with_another_map() -> None:
    first, token, other = (
        f"https://host/wms?map={name}&access_token={token}&sig=x%2F"
        for name, token in (("a", "1"), ("a", "2"), ("b", "1"))
    )
    assert identity(first) == identity(token) != identity(other)
    assert shown(first) == "https://host/wms?map=***&access_token=***&sig=***"


def test_a_connection_that_is_not_encrypted_is_named_at_once(server: ImageryServer) -> None:
    address = server.url.replace("http:", "https:")
    with pytest.raises(RemoteError, match=r"SSLError.*check the address"):
        Client(address, 1000.0).get(address)

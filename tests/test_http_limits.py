"""Slow heads over real sockets: closed in time, while honest connections go on."""

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from api_harness import listening

from service.cli.http_limits import MAX_HEAD_BYTES, protocol

DEADLINE_S = 0.4
HEADERS_SEEN: list[set[bytes]] = []
BODIES_SEEN: list[bytes] = []
TARGETS_SEEN: list[tuple[str, bytes]] = []
REQUEST = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"


async def app(scope, receive, send) -> None:  # type: ignore[no-untyped-def]
    if scope["type"] == "http":
        if scope["path"] == "/slow":
            await asyncio.sleep(0.5)
        body, more = b"", scope["path"] != "/early"
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body")
        HEADERS_SEEN.append({name for name, _ in scope["headers"]})
        BODIES_SEEN.append(body)
        TARGETS_SEEN.append((scope["path"], scope["query_string"]))
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})


@pytest.fixture(scope="module")
def address() -> Iterator[tuple[str, int]]:
    with listening(app, http=protocol(DEADLINE_S), lifespan="off") as bound:
        yield bound


@pytest.fixture(scope="module")
def patient() -> Iterator[tuple[str, int]]:
    """A server whose size limits are reached before its deadlines."""
    with listening(app, http=protocol(60.0), lifespan="off") as bound:
        yield bound


@contextmanager
def connected(address: tuple[str, int]) -> Iterator[socket.socket]:
    with socket.create_connection(address, timeout=5.0) as client:
        yield client


def seconds_until_closed(client: socket.socket, drip: bytes = b"") -> float:
    begun = time.monotonic()
    client.settimeout(0.05)
    while time.monotonic() - begun < 5.0:
        try:
            client.sendall(drip)
            if client.recv(100) == b"":
                break
        except TimeoutError:
            continue
        except ConnectionError:
            break
    return time.monotonic() - begun


@pytest.mark.parametrize("begun", [b"", b"GET / HTTP/1.1\r\nHost: he"])
def test_an_unfinished_head_is_closed(address: tuple[str, int], begun: bytes) -> None:
    with connected(address) as client:
        client.sendall(begun)
        assert DEADLINE_S * 0.9 <= seconds_until_closed(client) < 3.0


def test_dripping_does_not_extend_the_deadline(address: tuple[str, int]) -> None:
    with connected(address) as client:
        client.sendall(b"GET / HTTP/1.1\r\nX: ")
        assert seconds_until_closed(client, drip=b"x") < 3.0


def test_a_second_head_is_bounded_too(address: tuple[str, int]) -> None:
    with connected(address) as client:
        client.sendall(REQUEST)
        assert client.recv(1000).startswith(b"HTTP/1.1 204")
        client.sendall(REQUEST[:10])
        assert seconds_until_closed(client) < 3.0


def test_a_slow_body_is_left_to_the_application(address: tuple[str, int]) -> None:
    with connected(address) as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 20\r\n\r\n")
        for _ in range(20):
            time.sleep(DEADLINE_S / 10)
            client.sendall(b"x")
        assert client.recv(1000).startswith(b"HTTP/1.1 204")


HUGE = MAX_HEAD_BYTES + 1000


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"x" * HUGE,
        b"GET /" + b"x" * HUGE + b" HTTP/1.1\r\nHost: here\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: here\r\nX: " + b"x" * HUGE,
        b"GET / HTTP/1.1\r\nHost: here\r\n" + b"X: xxxxx\r\n" * (HUGE // 6) + b"\r\n",
    ],
    ids=["url", "whole url", "header", "headers"],
)
@pytest.mark.parametrize("piece", [5_000, 10 * HUGE])
def test_a_large_head_is_refused(patient: tuple[str, int], head: bytes, piece: int) -> None:
    with connected(patient) as client:
        with suppress(ConnectionError):
            for start in range(0, len(head), piece):
                client.sendall(head[start : start + piece])
        with suppress(ConnectionError):  # closed with bytes unread, the answer may be lost
            answer = client.recv(1000)
            assert answer.startswith(b"HTTP/1.1 431 ")
            assert answer.endswith(b"The request's head is larger than 65536 bytes: send less.")
        assert seconds_until_closed(client) < 3.0


@pytest.mark.parametrize("size", [MAX_HEAD_BYTES - 100, MAX_HEAD_BYTES + 1])
def test_a_head_may_have_exactly_the_stated_size(patient: tuple[str, int], size: int) -> None:
    with connected(patient) as client:
        client.sendall(REQUEST[:-2] + b"X: " + b"x" * size + b"\r\n\r\n")
        status = 204 if size < MAX_HEAD_BYTES else 431
        answer = client.recv(1000)
        assert answer.startswith(b"HTTP/1.1 %d " % status)
        said = b"\r\n\r\nThe request's head is larger than 65536 bytes" in answer
        assert said == (status == 431)


CHUNKED = b"POST / HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n"


@pytest.mark.parametrize(
    "trailers", [b"X1: y\r\n" * 1000, b"X: " + b"y" * 8000], ids=["many", "long"]
)
def test_endless_trailers_are_cut_off(patient: tuple[str, int], trailers: bytes) -> None:
    with connected(patient) as client:
        client.sendall(CHUNKED)
        sent = 0
        with suppress(ConnectionError):
            while sent < 100 * MAX_HEAD_BYTES:
                client.sendall(trailers)
                sent += len(trailers)
        assert sent < 100 * MAX_HEAD_BYTES


def test_trailers_are_no_headers(patient: tuple[str, int]) -> None:
    with connected(patient) as client:
        client.sendall(CHUNKED + b"X-Smuggled: yes\r\n\r\n")
        assert client.recv(1000).startswith(b"HTTP/1.1 204")
    assert HEADERS_SEEN[-1] == {b"host", b"transfer-encoding"}


@pytest.mark.parametrize("piece", [1, 50, 10_000])
def test_an_offer_of_another_protocol_changes_nothing(patient: tuple[str, int], piece: int) -> None:
    """curl --http2 and Java's client offer HTTP/2 in every request; the body stays HTTP/1.1."""
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    head = b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: %d\r\n" % len(REQUEST)
    last = offer.replace(b"Upgrade,", b"close, Upgrade,")
    posts = [head + more + b"\r\n" + REQUEST for more in (offer, b"", last)]
    stream = (REQUEST[:-2] + offer + b"\r\n").join(posts)
    BODIES_SEEN.clear()
    with connected(patient) as client:
        for start in range(0, len(stream), piece):
            client.sendall(stream[start : start + piece])
        answers = b""
        while more := client.recv(1000):
            answers += more
    assert answers.count(b"HTTP/1.1 204") == 5
    assert BODIES_SEEN == [REQUEST, b"", REQUEST, b"", REQUEST]


def test_a_body_s_end_and_half_a_head_in_one_piece(patient: tuple[str, int]) -> None:
    body = b"x" * 3 * MAX_HEAD_BYTES
    first = b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: %d\r\n\r\n" % len(body)
    with connected(patient) as client:
        client.sendall(first + body + REQUEST[:10])
        assert client.recv(1000).startswith(b"HTTP/1.1 204")
        client.sendall(REQUEST[10:])
        assert client.recv(1000).startswith(b"HTTP/1.1 204")


@pytest.mark.parametrize(
    ("headers", "fault"),
    [
        (b"", b"Missing mandatory Host: header"),
        (b"Host: a\r\nHost: b\r\n", b"Found multiple Host: headers"),
        (b"Host: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n", b"conflicting Content-Length"),
        (
            b"Host: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            b"Content-Length beside Transfer-Encoding",
        ),
    ],
    ids=["no host", "two hosts", "two lengths", "a length beside chunks"],
)
def test_an_ambiguous_head_is_refused(
    patient: tuple[str, int], headers: bytes, fault: bytes
) -> None:
    with connected(patient) as client:
        client.sendall(b"POST / HTTP/1.1\r\n" + headers + b"\r\n0\r\n\r\n")
        answer = client.recv(1000)
        assert answer.startswith(b"HTTP/1.1 400")
        assert fault in answer
        assert client.recv(1000) == b""


@pytest.mark.parametrize(
    ("url", "target"),
    [
        (b"http://here/a%20b?c=1", ("/a b", b"c=1")),
        (b"HTTP://here", ("/", b"")),
        (b"/x", ("/x", b"")),
    ],
)
def test_a_whole_url_is_read_as_its_path(
    patient: tuple[str, int], url: bytes, target: tuple[str, bytes]
) -> None:
    with connected(patient) as client:
        client.sendall(b"GET " + url + b" HTTP/1.1\r\nHost: here\r\n\r\n")
        assert client.recv(1000).startswith(b"HTTP/1.1 204")
    assert TARGETS_SEEN[-1] == target


def test_garbage_is_named(patient: tuple[str, int]) -> None:
    with connected(patient) as client:
        client.sendall(b"garbage\r\n\r\n")
        answer = client.recv(1000)
        assert answer.startswith(b"HTTP/1.1 400")
        assert b"\r\ndate: " in answer
        assert b"\r\n\r\nInvalid HTTP request received: illegal request line" in answer


def test_garbage_is_answered_after_the_previous_request(patient: tuple[str, int]) -> None:
    with connected(patient) as client:
        client.sendall(b"GET /slow HTTP/1.1\r\nHost: here\r\n\r\n" + b"garbage\r\n\r\n")
        answers = b""
        while more := client.recv(1000):
            answers += more
    first, _, rest = answers.partition(b"\r\n\r\n")
    assert first.startswith(b"HTTP/1.1 204")
    assert rest.startswith(b"HTTP/1.1 400")


def test_a_broken_body_never_ends_an_earlier_answer(patient: tuple[str, int]) -> None:
    with connected(patient) as client:
        client.sendall(CHUNKED[:-9] + b"no chunk\r\n")
        with suppress(ConnectionError):
            assert client.recv(1000) == b""


def test_heads_of_many_requests_are_counted_separately(patient: tuple[str, int]) -> None:
    head = REQUEST[:-2] + b"X: " + b"x" * 20_000 + b"\r\n\r\n"
    with connected(patient) as client:
        for _ in range(10):
            client.sendall(head[:9_000])
            time.sleep(0.01)
            client.sendall(head[9_000:])
            assert client.recv(1000).startswith(b"HTTP/1.1 204")


def test_a_body_after_an_early_answer_is_bounded(address: tuple[str, int]) -> None:
    """An endless body does not keep the connection of a request that was answered early."""
    with connected(address) as client:
        client.sendall(b"POST /early HTTP/1.1\r\nHost: here\r\nContent-Length: 9999999\r\n\r\n")
        assert client.recv(1000).startswith(b"HTTP/1.1 204")
        assert seconds_until_closed(client, drip=b"x") < 3.0

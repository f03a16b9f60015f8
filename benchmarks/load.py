"""A light HTTP load generator: ready-made requests over kept-alive connections."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from service.api.errors import RETRY_AFTER_S

BOUNDARY = "skyfix-benchmark"
MOST_OPEN = 512  # an open loop begins no more requests until some are answered


class Answer(NamedTuple):
    """A response; `seconds` from the request's first byte to the response's last."""

    status: int  # 0: the connection broke
    body: bytes
    seconds: float


@dataclass
class Tally:
    """Answers of a load that took `seconds`: latencies, and how many failed."""

    seconds: float = 0.0
    accepted: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)  # 503
    failed: int = 0

    def add(self, answer: Answer) -> None:
        """Count an answer."""
        if answer.status == 200:
            self.accepted.append(answer.seconds)
        elif answer.status == 503:
            self.refused.append(answer.seconds)
        else:
            self.failed += 1

    @property
    def answers(self) -> int:
        """Accepted, refused and failed."""
        return len(self.accepted) + len(self.refused) + self.failed

    @property
    def rate(self) -> float:
        """Accepted answers a second."""
        return len(self.accepted) / self.seconds if self.seconds else 0.0


def quantile(values: list[float], share: float) -> float:
    """The value below which `share` of the values lie; nan without any."""
    if not values:
        return float("nan")
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def request_bytes(path: str, field_name: str, body: bytes) -> bytes:
    """A whole HTTP/1.1 POST of one file."""
    head = (
        f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="{field_name}"; filename="p.jpg"\r\n'
        "content-type: image/jpeg\r\n\r\n"
    ).encode()
    form = head + body + f"\r\n--{BOUNDARY}--\r\n".encode()
    return (
        f"POST {path} HTTP/1.1\r\nhost: benchmark\r\n"
        f"content-type: multipart/form-data; boundary={BOUNDARY}\r\n"
        f"content-length: {len(form)}\r\n\r\n"
    ).encode() + form


class Connection:
    """Connects again when the server has closed."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, request: bytes) -> Answer:
        """Send a whole request and read the response."""
        begun = time.perf_counter()
        try:
            status, body = await self._exchange(request)
        except (OSError, asyncio.IncompleteReadError, ValueError):
            self.close()
            status, body = 0, b""
        return Answer(status, body, time.perf_counter() - begun)

    async def _exchange(self, request: bytes) -> tuple[int, bytes]:
        if self._streams is not None and self._streams[0].at_eof():  # closed while idle
            self.close()
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(request)
        await writer.drain()
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        headers = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        if headers.get("connection") == "close":
            self.close()
        return int(head.split()[1]), body

    def close(self) -> None:
        """Close the connection, if it is open."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def closed_loop(port: int, request: bytes, clients: int, seconds: float) -> Tally:
    """`clients` connections send again as soon as they are answered. After a refusal they wait for
    RETRY_AFTER_S, as the Retry-After header asks, or until the end."""
    tally = Tally()
    begun = time.perf_counter()
    end = begun + seconds

    async def client() -> None:
        connection = Connection(port)
        while time.perf_counter() < end:
            answer = await connection.post(request)
            tally.add(answer)
            if answer.status == 503:
                await asyncio.sleep(min(RETRY_AFTER_S, max(0.0, end - time.perf_counter())))
        connection.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    tally.seconds = time.perf_counter() - begun
    return tally


async def open_loop(
    port: int,
    send: Callable[[Connection], Awaitable[None]],
    rate: float,
    seconds: float,
    on_tick: Callable[[float], None] = lambda now: None,
) -> float:
    """Call `send` with a free connection `rate` times a second, answered or not.

    `on_tick` is called often with the seconds since the beginning. Returns the seconds until all
    calls have ended.
    """
    idle: list[Connection] = []
    begun, count, ended = time.perf_counter(), 0, 0

    async def call() -> None:
        nonlocal ended
        connection = idle.pop() if idle else Connection(port)
        await send(connection)
        idle.append(connection)
        ended += 1

    async with asyncio.TaskGroup() as calls:
        while (now := time.perf_counter() - begun) < seconds:
            while count < now * rate and count - ended < MOST_OPEN:
                count += 1
                calls.create_task(call())
            on_tick(now)
            await asyncio.sleep(0.002)
    for connection in idle:
        connection.close()
    return time.perf_counter() - begun

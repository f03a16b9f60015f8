"""A light HTTP load generator: one panorama, posted over kept-alive connections."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

BOUNDARY = "skyfix-benchmark"


@dataclass
class Tally:
    """What came back. Seconds from a request's first byte to its answer's last."""

    seconds: float = 0.0
    accepted: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)  # 503
    failed: int = 0

    @property
    def rate(self) -> float:
        """Accepted answers a second."""
        return len(self.accepted) / self.seconds if self.seconds else 0.0


def quantile(values: list[float], share: float) -> float:
    """The value below which `share` of them lie; nan without any."""
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


class _Connection:
    """Reconnects when the server has closed."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, request: bytes, tally: Tally) -> None:
        begun = time.perf_counter()
        try:
            status, closes = await self._exchange(request)
        except (OSError, asyncio.IncompleteReadError, ValueError):
            status, closes = 0, True
        taken = time.perf_counter() - begun
        if status == 200:
            tally.accepted.append(taken)
        elif status == 503:
            tally.refused.append(taken)
        else:
            tally.failed += 1
        if closes:
            self.close()

    async def _exchange(self, request: bytes) -> tuple[int, bool]:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(request)
        await writer.drain()
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        headers = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
        await reader.readexactly(int(headers.get("content-length", "0")))
        return int(head.split()[1]), headers.get("connection") == "close"

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def closed_loop(port: int, request: bytes, clients: int, seconds: float) -> Tally:
    """`clients` connections, each asking again as soon as it is answered."""
    tally = Tally()
    end = time.perf_counter() + seconds

    async def client() -> None:
        connection = _Connection(port)
        while time.perf_counter() < end:
            await connection.post(request, tally)
        connection.close()

    begun = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    tally.seconds = time.perf_counter() - begun
    return tally


async def open_loop(port: int, request: bytes, rate: float, seconds: float) -> Tally:
    """`rate` requests a second whether or not they are answered: what overload is."""
    tally = Tally()
    idle: list[_Connection] = []

    async def one() -> None:
        connection = idle.pop() if idle else _Connection(port)
        await connection.post(request, tally)
        idle.append(connection)

    begun = time.perf_counter()
    running = []
    while (now := time.perf_counter() - begun) < seconds:
        while len(running) < now * rate:
            running.append(asyncio.create_task(one()))
        await asyncio.sleep(0.002)
    await asyncio.gather(*running)
    for connection in idle:
        connection.close()
    tally.seconds = time.perf_counter() - begun
    return tally

"""HTTP/1.1 connections whose request heads are bounded in time and in size.

uvicorn keeps a half-sent head open for ever, and a thousand of them would fill all connections.
"""

from __future__ import annotations

import asyncio
import sys
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_HEAD_BYTES = 64 * 1024
_AROUND_HEADER = 4  # ": " and the end of the line
_TOO_LARGE = f"The request's head is larger than {MAX_HEAD_BYTES} bytes: send less."


class BoundedConnection(h11.Connection):
    """h11 bounds a head that is incomplete; here complete heads are bounded and checked too."""

    def __init__(self) -> None:
        super().__init__(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """See h11. Raises RemoteProtocolError, also for a length beside chunks."""
        event = super().next_event()
        if isinstance(event, h11.Request):
            headers = list(event.headers)
            size = sum(len(name) + len(value) + _AROUND_HEADER for name, value in headers)
            if len(event.target) + size > MAX_HEAD_BYTES:
                raise h11.RemoteProtocolError(_TOO_LARGE, error_status_hint=431)
            if {b"content-length", b"transfer-encoding"} <= dict(headers).keys():
                raise h11.RemoteProtocolError("Content-Length beside Transfer-Encoding")
            if event.target.lower().startswith((b"http://", b"https://")):
                return _in_origin_form(event)
        return event


def _in_origin_form(request: h11.Request) -> h11.Request:
    """The request with its target's path and query: RFC 9112, 3.2.2, allows a whole URL."""
    url = urlsplit(request.target)
    target = (url.path or b"/") + (b"?" + url.query if url.query else b"")
    version, headers = request.http_version, request.headers
    return h11.Request(method=request.method, headers=headers, target=target, http_version=version)


class BoundedHeads(H11Protocol):
    """uvicorn's protocol, which also closes connections whose next head takes too long.

    The clock starts with the connection, and for later requests with their first byte. uvicorn's
    own keep-alive timeout ends an idle connection.
    """

    deadline_s: float
    _deadline: asyncio.TimerHandle | None = None

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.conn = BoundedConnection()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """uvicorn calls this while it handles h11's error; the answer names the fault."""
        if self._is_answering():
            self.transport.abort()  # the text would stand in the middle of another answer
            return
        error = sys.exc_info()[1]
        assert isinstance(error, h11.RemoteProtocolError)
        status = HTTPStatus(error.error_status_hint)
        fault = f"Invalid HTTP request received: {str(error)[:200]}."
        text = (_TOO_LARGE if status == 431 else fault).encode()
        headers = [
            *self.server_state.default_headers,
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", b"%d" % len(text)),
            (b"connection", b"close"),
        ]
        head = h11.Response(status_code=status, headers=headers, reason=status.phrase.encode())
        for event in (head, h11.Data(data=text), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _unsupported_upgrade_warning(self) -> None:
        """curl and Java's client offer HTTP/2 with every request: no reason for a warning."""

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _watch(self) -> None:
        if self._is_answering():
            self._stop()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(self.deadline_s, self._expire)

    def _stop(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _expire(self) -> None:
        self.logger.info("a connection is closed: no request head within %g s", self.deadline_s)
        self.transport.abort()


def protocol(deadline_s: float) -> type[BoundedHeads]:
    """BoundedHeads with this deadline: uvicorn takes a class and makes the instances."""
    return type("BoundedHeads", (BoundedHeads,), {"deadline_s": deadline_s})

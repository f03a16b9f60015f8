"""HTTP/1.1 connections that must finish their request's head in time, and within 64 KiB.

uvicorn keeps a half-sent head open for ever, and a thousand of them would fill all connections;
httptools, which reads heads and bodies in C, keeps as much of a head as is sent, takes the trailers
of a chunked body for headers, and the body of a request that offers another protocol for the next
request.
"""

from __future__ import annotations

import asyncio
import sys
from typing import NoReturn

from httptools import HttpParserUpgrade, HttpRequestParser
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

MOST_BYTES = 64 * 1024  # of a head, or of anything else that is neither head nor body
_AROUND_HEADER = 4  # ": " and the end of the line


TOO_LARGE = f"The request's head is larger than {MOST_BYTES} bytes: send less."


class BadHead(Exception):
    """Raised in a callback of the parser, which ends the request as malformed."""


class BoundedHeads(HttpToolsProtocol):
    """uvicorn's protocol, closing connections whose next head takes longer than `deadline_s`, or
    more than MOST_BYTES.

    The clock starts with the connection, and for later requests with their first byte; an idle
    connection is ended by uvicorn's own keep-alive timeout. Trailers are dropped, and so are offers
    of another protocol: curl's and Java's of HTTP/2, say.
    """

    deadline_s: float
    _deadline: asyncio.TimerHandle | None = None
    _in_head = False
    _moved = False  # whether what was received last ended a head or a body, or was of a body
    _unused_bytes = 0  # received since
    _refusal: tuple[int, str] | None = None  # status and text, where they are not uvicorn's
    _offered = False  # whether the head that was read last offers another protocol
    _received = b""  # while it is read
    _again = b""  # to be read once more

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        self._moved = False
        self._again = data
        while self._again:
            self._received, self._again = self._again, b""
            super().data_received(self._received)
        self._received = b""
        self._watch()
        self._unused_bytes = 0 if self._moved else self._unused_bytes + len(data)
        if self._unused_bytes > MOST_BYTES and not self.transport.is_closing():
            self._refusal = 431, TOO_LARGE
            self.send_400_response(TOO_LARGE)

    def send_400_response(self, msg: str) -> None:
        """What uvicorn calls with its own text, whatever was wrong with the head."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.abort()  # it would stand in the middle of another answer
            return
        status, text = self._refusal or (400, msg)
        fields = [
            *self.server_state.default_headers,
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", b"%d" % len(text)),
            (b"connection", b"close"),
        ]
        head = STATUS_LINE[status] + b"".join(b"%s: %s\r\n" % field for field in fields)
        self.transport.write(head + b"\r\n" + text.encode())
        self.transport.close()

    def _refuse(self, status: int, text: str) -> NoReturn:
        self._refusal = status, text
        raise BadHead(text)

    def on_message_begin(self) -> None:
        self._in_head = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._offered = self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"
        if self._offered:
            return
        self._in_head, self._moved = False, True
        lengths = [len(name) + len(value) + _AROUND_HEADER for name, value in self.headers]
        if len(self.url) + sum(lengths) > MOST_BYTES:
            self._refuse(431, TOO_LARGE)
        hosts = [name for name, _ in self.headers if name == b"host"]
        if len(hosts) != 1 and self.parser.get_http_version() == "1.1":
            self._refuse(400, f"The request has {len(hosts)} Host headers: send one.")
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._moved = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._offered:
            return
        self._moved = True
        super().on_message_complete()

    def _unsupported_upgrade_warning(self) -> None:
        """What uvicorn calls when the parser has stopped behind such a head: it and what follows
        are read once more, without the offer."""
        stopped = sys.exc_info()[1]
        if not self._offered or not isinstance(stopped, HttpParserUpgrade):
            return
        fields = [b"%s: %s" % field for field in self.headers if field[0] != b"upgrade"]
        version = self.parser.get_http_version().encode()
        request = b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, version)
        self.parser = HttpRequestParser(self)  # after `Connection: close` the old one reads no more
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's own
        self._again = b"\r\n".join([request, *fields, b"", self._received[stopped.args[0] :]])

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

    def _watch(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
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
    """BoundedHeads with this deadline, as uvicorn wants it: it makes the instances itself."""
    return type("BoundedHeads", (BoundedHeads,), {"deadline_s": deadline_s})

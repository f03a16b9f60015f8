"""HTTP/1.1 connections that must finish their request's head in time, and within 64 KiB.

uvicorn keeps a half-sent head open for ever, and a thousand of them would fill all connections;
httptools, which reads heads and bodies in C, keeps as much of a head as is sent.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MOST_BYTES = 64 * 1024  # of a head


class HeadTooLarge(Exception):
    """Raised in a callback of the parser, which ends the request as malformed, with a 400."""


def protocol(deadline_s: float) -> type[HttpToolsProtocol]:
    """uvicorn's protocol, closing connections whose next head takes longer than `deadline_s`, or
    more than MOST_BYTES.

    The clock starts with the connection, and for later requests with their first byte; an idle
    connection is ended by uvicorn's own keep-alive timeout.
    """

    class BoundedHeads(HttpToolsProtocol):
        _deadline: asyncio.TimerHandle | None = None
        _head_open = False
        _head_bytes = 0  # received of a head that has not ended

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()
            if self._head_open:
                self._head_bytes += len(data)
                if self._head_bytes > MOST_BYTES and not self.transport.is_closing():
                    self.send_400_response("The request's head is too large.")

        def on_message_begin(self) -> None:
            self._head_open, self._head_bytes = True, 0
            super().on_message_begin()

        def on_headers_complete(self) -> None:
            self._head_open = False
            if len(self.url) + sum(len(n) + len(v) for n, v in self.headers) > MOST_BYTES:
                raise HeadTooLarge  # it came in one piece
            super().on_headers_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop()
            super().connection_lost(exc)

        def _watch(self) -> None:
            if self.cycle is not None and not self.cycle.response_complete:
                self._stop()
            elif self._deadline is None:
                self._deadline = self.loop.call_later(deadline_s, self._expire)

        def _stop(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

        def _expire(self) -> None:
            self.logger.info("a connection is closed: no request head within %g s", deadline_s)
            self.transport.abort()

    return BoundedHeads

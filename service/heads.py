"""HTTP/1.1 connections that must finish their request's head in time.

uvicorn keeps a half-sent head open for ever, and a thousand of them would fill all connections.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol


def protocol(deadline_s: float) -> type[H11Protocol]:
    """uvicorn's protocol, closing connections whose next head takes longer than `deadline_s`.

    The clock starts with the connection, and for later requests with their first byte; an idle
    connection is ended by uvicorn's own keep-alive timeout.
    """

    class BoundedHeads(H11Protocol):
        _deadline: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

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

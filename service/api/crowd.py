"""A bound on the requests of all kinds being answered at once, told as any other refusal is."""

from __future__ import annotations

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.admission import OverloadedError
from service.api.errors import problem_of, respond

ALWAYS = "/livez"  # a busy process is not a dead one


class Crowd:
    """Pure ASGI middleware: more than `most` at once get a 503."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app = app
        self._most = most
        self._inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] == ALWAYS:
            await self._app(scope, receive, send)
            return
        if self._inside >= self._most:
            busy = OverloadedError(f"{self._inside} requests are being answered: try again later")
            await respond(Request(scope), problem_of(busy), str(busy))(scope, receive, send)
            return
        self._inside += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._inside -= 1

"""Answers HEAD as GET, without the body (RFC 9110, section 9.3.2)."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class HeadAsGet:
    """Pure ASGI middleware: the application inside sees GET, everything around it sees HEAD.

    The server must see HEAD, since it then knows that no body follows.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def send_without_body(message: Message) -> None:
            await send({**message, "body": b""} if "body" in message else message)

        inside = {**scope, "method": "GET"}
        try:
            await self._app(inside, receive, send_without_body)
        finally:
            scope["route"] = inside.get("route")  # the log and the metrics read the route here

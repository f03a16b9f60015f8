"""Turns an unexpected failure into a problem, inside the middleware that adds headers."""

from __future__ import annotations

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.errors import respond


class FailureAsProblem:
    """Pure ASGI middleware. An answer that has begun is cut off: the server gets the error."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def send_noting(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, send_noting)
        except Exception as error:
            if scope["type"] != "http":
                raise
            failed = respond(Request(scope), error)  # logs the error
            if begun:
                raise
            await failed(scope, receive, send)

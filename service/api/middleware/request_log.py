"""Gives every answer an id, security headers and its time; counts and logs every request.

The log holds method, route, status, sizes and times: never a body, a file's name or a query.
"""

from __future__ import annotations

import logging
import re
import time
import uuid
from contextvars import ContextVar
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.runtime.metrics import Metrics

logger = logging.getLogger(__name__)

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
_USABLE_ID = re.compile(r"[A-Za-z0-9._-]{8,64}")
_SECURITY = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def _policy(pictures_from: str) -> str:
    """The content security policy. pictures_from: an origin whose pictures the page may show."""
    return (
        f"default-src 'self'; img-src 'self' blob: data: {pictures_from}".rstrip()
        + "; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    )


class RequestLog:
    """Pure ASGI middleware. Only Starlette's own handler of unexpected errors lies outside."""

    def __init__(self, app: ASGIApp, metrics: Metrics, pictures_from: str = "") -> None:
        self._app = app
        self._metrics = metrics
        self._security = {**_SECURITY, "Content-Security-Policy": _policy(pictures_from)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = time.perf_counter()
        seen: dict[str, Any] = {"status": 499, "received": 0, "sent": 0}
        request_id = _request_id(Headers(scope=scope))
        token = REQUEST_ID.set(request_id)

        async def receive_counting() -> Message:
            message = await receive()
            seen["received"] += len(message.get("body", b""))
            return message

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                seen["status"] = message["status"]
                headers = MutableHeaders(scope=message)
                headers.update(self._security)
                _finish(headers, request_id, time.perf_counter() - begun)
            seen["sent"] += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive_counting, send_with_headers)
        finally:
            self._record(scope, seen, time.perf_counter() - begun)
            REQUEST_ID.reset(token)

    def _record(self, scope: Scope, seen: dict[str, Any], seconds: float) -> None:
        route = route_of(scope)
        self._metrics.requests.labels(_method(scope), route, seen["status"]).inc()
        self._metrics.seconds.labels(route).observe(seconds)
        fields = {
            "method": _method(scope),
            "route": route,
            **seen,
            "ms": round(seconds * 1000.0, 1),
            **scope.get("state", {}).get("log", {}),
        }
        logger.info("request", extra={"fields": fields})


def _request_id(headers: Headers) -> str:
    given = headers.get("x-request-id", "")
    return given if _USABLE_ID.fullmatch(given) else uuid.uuid4().hex


def _finish(headers: MutableHeaders, request_id: str, seconds: float) -> None:
    headers["X-Request-ID"] = request_id
    stages = headers.get("server-timing")
    total = f"total;dur={seconds * 1000.0:.1f}"
    headers["Server-Timing"] = f"{stages}, {total}" if stages else total


def _method(scope: Scope) -> str:
    known = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
    return scope["method"] if scope["method"] in known else "other"


def route_of(scope: Scope) -> str:
    """The route's template: paths that clients make up must not become labels."""
    path = getattr(scope.get("route"), "path", None)
    return path if isinstance(path, str) else "none"

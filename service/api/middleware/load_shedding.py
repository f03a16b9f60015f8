"""Refuses requests that cannot be answered now, before any other work is done for them.

At overload most requests are refused, so a refusal must be cheap: here it costs a third of a
refusal by a route, for which FastAPI has read the parameters.
"""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.errors import respond
from service.runtime.admission import Admission, OverloadedError

NEVER_REFUSED = "/livez"  # a busy process is alive


class LoadShedding:
    """Pure ASGI middleware that answers 503.

    It refuses every request beyond `max_requests` at once, and requests for `uploads`, the routes
    that locate panoramas, while `admission` is full.
    """

    def __init__(
        self, app: ASGIApp, max_requests: int, admission: Admission, uploads: Sequence[BaseRoute]
    ) -> None:
        self._app = app
        self._max_requests = max_requests
        self._admission = admission
        self._uploads = {route.path: route for route in uploads if isinstance(route, Route)}
        self._active = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] == NEVER_REFUSED:
            await self._app(scope, receive, send)
            return
        try:
            self._check(scope)
        except OverloadedError as busy:
            await respond(Request(scope), busy)(scope, receive, send)
            return
        self._active += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._active -= 1

    def _check(self, scope: Scope) -> None:
        if self._active >= self._max_requests:
            raise OverloadedError(f"{self._active} requests are being answered: try again later")
        upload = self._uploads.get(scope["path"])
        if upload is not None and scope["method"] == "POST":
            scope["route"] = upload  # the log and the metrics read the route here
            self._admission.check()

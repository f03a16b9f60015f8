"""The door: what cannot be answered now is refused before anything else is done for it.

A refusal must cost little, since at overload most requests are refused: here a third of what it
costs once FastAPI has read the parameters (docs/decisions.md).
"""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.errors import respond
from service.runtime.admission import Admission, OverloadedError

ALWAYS = "/livez"  # a busy process is not a dead one


class LoadShedding:
    """Pure ASGI middleware: more than `most` requests at once get a 503, and so do those for
    `uploads`, the routes that locate panoramas, while `admission` would turn them away.
    """

    def __init__(
        self, app: ASGIApp, most: int, admission: Admission, uploads: Sequence[BaseRoute]
    ) -> None:
        self._app = app
        self._most = most
        self._admission = admission
        self._uploads = {route.path: route for route in uploads if isinstance(route, Route)}
        self._inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] == ALWAYS:
            await self._app(scope, receive, send)
            return
        try:
            self._check(scope)
        except OverloadedError as busy:
            await respond(Request(scope), busy)(scope, receive, send)
            return
        self._inside += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._inside -= 1

    def _check(self, scope: Scope) -> None:
        if self._inside >= self._most:
            raise OverloadedError(f"{self._inside} requests are being answered: try again later")
        upload = self._uploads.get(scope["path"])
        if upload is not None and scope["method"] == "POST":
            scope["route"] = upload  # the log and the metrics know it by that
            self._admission.check()

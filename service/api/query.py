"""Query parameters: those that locate a panorama, and that no route ignores any."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, BeforeValidator, Field, field_validator
from starlette.requests import Request

from service.locate.hints import DEFAULT_RADIUS_M, LIMITS, MAX_TOP_K, Hints


def _bounded(name: str, description: str, example: float) -> Any:
    low, high = LIMITS[name]
    return Field(
        None, ge=low, le=high, allow_inf_nan=False, description=description, examples=[example]
    )


async def each_known_and_once(request: Request) -> None:
    """A dependency of every route in the OpenAPI document, which says what each declares.

    Raises:
        RequestValidationError: a parameter that the route does not declare, or one given twice.
    """
    if not request.scope["query_string"]:
        return
    given, paths = request.query_params, request.app.openapi()["paths"]
    operation = paths.get(request.scope["route"].path, {}).get(request.method.lower())
    if operation is None:  # a page: whoever links to it may add what he likes
        return
    known = [one["name"] for one in operation.get("parameters", []) if one["in"] == "query"]
    for name in given:  # the first one only: a query has room for thousands
        if name not in known:
            raise _refused(name[:80], given[name][:80], _unknown(name, known))
    if len(given.multi_items()) > len(given):
        times = {name: len(given.getlist(name)) for name in given}
        name = max(times, key=times.__getitem__)
        raise _refused(name, given.getlist(name)[:2], f"given {times[name]} times: give it once")


def _unknown(name: str, known: Sequence[str]) -> str:
    if not known:
        return "no such parameter: this route takes none"
    closest = get_close_matches(name, known, 1)
    meant = f"did you mean {closest[0]}? " if closest else ""
    return f"no such parameter: {meant}known are {', '.join(known)}"


def _refused(name: str, value: object, reason: str) -> RequestValidationError:
    return RequestValidationError([{"loc": ("query", name), "input": value, "msg": reason}])


def _plain(value: object) -> object:
    if isinstance(value, str) and "_" in value:
        raise ValueError("a number has no underscore")
    return value


WRITTEN_PLAINLY = BeforeValidator(_plain)  # of numbers: pydantic reads 3_5 as 35


class LocateQuery(BaseModel):
    """The query parameters of POST /localize and POST /localize/batch."""

    top_k: int = Field(10, ge=1, le=MAX_TOP_K, description="how many matches at most")
    heading_deg: float | None = _bounded(
        "heading_deg",
        "degrees clockwise from north that the panorama's centre column faces",
        90.0,
    )
    north: float | None = _bounded(
        "north", "the same as (0.5 - heading_deg / 360) mod 1; give one of the two", 0.25
    )
    vertical_fov_deg: float | None = _bounded(
        "vertical_fov_deg", "degrees from the bottom row to the top row", 180.0
    )
    horizontal_fov_deg: float | None = _bounded(
        "horizontal_fov_deg", "degrees from the left to the right edge; 360 is a full turn", 360.0
    )
    horizon: float | None = _bounded(
        "horizon", "the horizon's row as a fraction of the height, from the top", 0.5
    )
    near: str | None = Field(
        None,
        max_length=80,
        description="latitude,longitude in degrees: only tiles centred within radius_m of it",
        examples=["25.7615,-80.1932"],
    )
    radius_m: float | None = _bounded(
        "radius_m", f"metres around near; {DEFAULT_RADIUS_M:g} when near stands alone", 500.0
    )
    bbox: str | None = Field(
        None,
        max_length=160,
        description="west,south,east,north in degrees: only tiles centred inside; west > east "
        "crosses the dateline",
        examples=["-80.21,25.75,-80.18,25.78"],
    )

    explain: bool = Field(
        False, description="also return what the network saw, and where it looked"
    )

    _numbers = field_validator("top_k", *LIMITS, mode="before")(_plain)

    def hints(self) -> Hints:
        """The same as Hints; HintError for contradictions and unreadable places."""
        return Hints.of(self)

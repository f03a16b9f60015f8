"""The query parameters that locate a panorama, and the check that no route ignores a parameter."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Annotated, Any

from fastapi.exceptions import RequestValidationError
from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
    field_validator,
)
from starlette.requests import Request

from model.panorama import ImageProjection
from service.locate.drive_times import Taken
from service.locate.hints import MAX_TOP_K, NUMBERS, UNKNOWN, HintError, Hints


async def check_parameters(request: Request) -> None:
    """Refuse parameters that the route does not declare, or that are given twice.

    A dependency of every route in the OpenAPI document. pydantic's `extra="forbid"` cannot do
    this: FastAPI gives pydantic the last of several values.

    Raises:
        RequestValidationError: naming the parameter.
    """
    if not request.scope["query_string"]:
        return
    given, paths = request.query_params, request.app.openapi()["paths"]
    operation = paths.get(request.scope["route"].path, {}).get(request.method.lower())
    if operation is None:  # a page: links to it may carry any parameter
        return
    parameters = operation.get("parameters", [])
    known = [parameter["name"] for parameter in parameters if parameter["in"] == "query"]
    for name in given:  # only the first: a query has room for thousands
        if name not in known:
            raise _refused(name[:80], given[name][:80], _unknown(name, known))
    for name in given:
        if len(values := given.getlist(name)) > 1:
            raise _refused(name, values[:2], f"given {len(values)} times: give it once")


def _unknown(name: str, known: Sequence[str]) -> str:
    if not known:
        return "no such parameter: this route takes none"
    closest = get_close_matches(name, known, 1)
    meant = f"did you mean {closest[0]}? " if closest else ""
    return f"no such parameter: {meant}known are {', '.join(known)}"


def _refused(name: str, value: object, reason: str) -> RequestValidationError:
    return RequestValidationError([{"loc": ("query", name), "input": value, "msg": reason}])


def _without_underscore(value: object) -> object:
    if isinstance(value, str) and "_" in value:
        raise ValueError("a number has no underscore")
    return value


WRITTEN_PLAINLY = BeforeValidator(_without_underscore)  # pydantic reads 3_5 as 35


def _number(name: str) -> Any:
    low, high, description, example = NUMBERS[name]
    return Field(
        None, ge=low, le=high, allow_inf_nan=False, description=description, examples=[example]
    )


def _or_unknown(value: object, number: ValidatorFunctionWrapHandler) -> object:
    try:
        return value if value == UNKNOWN else number(value)
    except ValidationError:
        low, high, *_ = HEADING_DEG
        raise ValueError(f"give a number from {low:g} to {high:g}, or {UNKNOWN}") from None


HEADING_DEG = NUMBERS["heading_deg"]
HeadingText = Annotated[
    float,
    Field(ge=HEADING_DEG.low, le=HEADING_DEG.high, allow_inf_nan=False),
    WrapValidator(_or_unknown),
    # A union of both would report two faults.
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "minimum": HEADING_DEG.low, "maximum": HEADING_DEG.high},
                {"const": UNKNOWN},
            ]
        }
    ),
]


class HintQuery(BaseModel):
    """The query parameters that state something about panoramas."""

    heading_deg: HeadingText | None = Field(
        None, description=HEADING_DEG.description, examples=[HEADING_DEG.example]
    )
    heading_tolerance_deg: float | None = _number("heading_tolerance_deg")
    north: float | None = _number("north")
    projection: ImageProjection | None = Field(
        None,
        description="how the image lies on the sphere; rectilinear: an ordinary photograph, whose "
        "lens distortion is not corrected",
        examples=["rectilinear"],
    )
    vertical_fov_deg: float | None = _number("vertical_fov_deg")
    horizontal_fov_deg: float | None = _number("horizontal_fov_deg")
    horizon: float | None = _number("horizon")
    pitch_deg: float | None = _number("pitch_deg")
    roll_deg: float | None = _number("roll_deg")
    near: str | None = Field(
        None,
        max_length=80,
        description="latitude,longitude in degrees: only tiles centred within radius_m of it",
        examples=["25.7615,-80.1932"],
    )
    radius_m: float | None = _number("radius_m")
    bbox: str | None = Field(
        None,
        max_length=160,
        description="west,south,east,north in degrees: only tiles centred inside; west > east "
        "crosses the dateline",
        examples=["-80.21,25.75,-80.18,25.78"],
    )

    _numbers = field_validator(*NUMBERS, mode="before")(_without_underscore)

    def hints(self) -> Hints:
        """The hints among the parameters. Raises HintError: unreadable or contradictory."""
        return Hints.of(self)


class LocateQuery(HintQuery):
    """The query parameters of POST /localize and POST /localize/batch."""

    top_k: int = Field(10, ge=1, le=MAX_TOP_K, description="number of matches, at most")
    explain: bool = Field(
        False, description="also return the view that the network read, and its attention"
    )

    _top_k = field_validator("top_k", mode="before")(_without_underscore)


class DriveQuery(HintQuery):
    """The query parameters of the frames of a drive, which apply to every frame of the form."""

    times: str | None = Field(
        None,
        max_length=10_000,
        description="when each frame was taken, in the order of the form, separated by commas: all "
        "in seconds or all in ISO 8601; by default EXIF's DateTimeOriginal",
        examples=["2026-07-31T10:15:00.0Z,2026-07-31T10:15:00.5Z"],
    )

    def taken(self, frames: int) -> list[Taken | None]:
        """The time of each frame, None where EXIF's counts. Raises HintError."""
        if self.times is None:
            return [None] * frames
        times = self.times.split(",")
        if len(times) != frames:
            raise HintError(f"{frames} frames need as many times: {len(times)} given")
        return list(map(Taken.read, times))

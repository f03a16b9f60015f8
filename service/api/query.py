"""The query parameters of POST /localize and POST /localize/batch."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from service.hints import DEFAULT_RADIUS_M, LIMITS, MAX_TOP_K, Hints


def _bounded(name: str, description: str, example: float) -> Any:
    low, high = LIMITS[name]
    return Field(
        None, ge=low, le=high, allow_inf_nan=False, description=description, examples=[example]
    )


class LocateQuery(BaseModel):
    """The query parameters of POST /localize; anything else in the query string is refused."""

    model_config = ConfigDict(extra="forbid")

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

    def hints(self) -> Hints:
        """The same as Hints; HintError for contradictions and unreadable places."""
        return Hints.of(self)

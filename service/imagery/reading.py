"""How a source's files are to be read, where the files do not say so or say something wrong."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from model.errors import SkyfixError


class ReadingError(SkyfixError):
    """An option about the imagery is malformed."""


class Reading(BaseModel):
    """What the user says of imagery; None: as the files say.

    Attributes:
        bands: numbers, from 1, of the bands that hold red, green and blue; one number: grey.
        nodata: the value that stands for no imagery.
        crs: the coordinate reference system, as GDAL reads it: EPSG:32633, WKT, PROJ.
        scheme: whether row 0 of map tiles lies in the north (xyz) or in the south (tms).
        area: where tiles' centres must lie, as service.imagery.area writes it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    bands: tuple[int, ...] | None = None
    nodata: float | None = None
    crs: str | None = None
    scheme: Literal["xyz", "tms"] | None = None
    area: str | None = None

    @classmethod
    def stored(cls, text: str) -> Reading:
        """From `text()`; an empty text says nothing.

        Raises:
            ReadingError: the text was not written by this version.
        """
        try:
            return cls.model_validate_json(text or "{}")
        except ValidationError as error:
            raise ReadingError(
                f"how the imagery is read cannot be understood ({text[:200]!r}): ingest it again"
            ) from error

    def text(self) -> str:
        """For the catalogue: JSON of the values that are stated, empty where none is."""
        stated = self.model_dump_json(exclude_none=True)
        return "" if stated == "{}" else stated

    def over(self, former: Reading) -> Reading:
        """These values, completed by the former ones."""
        return former.model_copy(update=self.model_dump(exclude_none=True))


AS_STATED = Reading()

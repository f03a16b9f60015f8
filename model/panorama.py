"""What a street image covers of the sphere around the camera, and where north lies in it.

Knows nothing of the network or of pixels. Any thread may call it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, NamedTuple, get_args

from model.errors import SkyfixError
from model.images import OpenedImage
from model.tilt import LEVEL, Tilt

MIN_VERTICAL_FOV_DEG = 10.0
ASPECT_TOLERANCE = 0.03  # a resized file may round its sides
MAX_RECTILINEAR_DEG = 179.0  # at 180 degrees the edge of a plane lies at infinity

ImageProjection = Literal["equirectangular", "cylindrical", "rectilinear"]
PROJECTIONS: tuple[ImageProjection, ...] = get_args(ImageProjection)


class GeometryError(SkyfixError):
    """The stated geometry is impossible, or north is needed and unknown."""


class Band(NamedTuple):
    """Elevations of a top and a bottom edge, in degrees above the horizon."""

    top_deg: float
    bottom_deg: float


@dataclass(frozen=True)
class PanoramaGeometry:
    """Where a street image lies on the sphere.

    Convention: columns run clockwise seen from above; rows run downward; fractions count from
    the image's left and top edge.

    Attributes:
        north: fraction of the width that faces north; None when unknown. Outside 0..1 when a
            limited field of view does not contain north.
        horizon: fraction of the height at which the horizon lies while the camera is level.
        vertical_fov_deg: degrees from top to bottom edge; None: the pixels are square.
        horizontal_fov_deg: degrees from left to right edge.
        projection: rows of "equirectangular" are evenly spaced elevations, rows of "cylindrical"
            evenly spaced tangents of elevations. "rectilinear" is a photograph, its lens without
            distortion.
        tilt: how the camera leans, about the image's centre column.
    """

    north: float | None = 0.5
    horizon: float = 0.5
    vertical_fov_deg: float | None = None
    horizontal_fov_deg: float = 360.0
    projection: ImageProjection = "equirectangular"
    tilt: Tilt = LEVEL

    @staticmethod
    def north_of(heading_deg: float, horizontal_fov_deg: float = 360.0) -> float:
        """The `north` of an image whose centre column looks at `heading_deg`."""
        if horizontal_fov_deg >= 360.0:
            return (0.5 - heading_deg / 360.0) % 1.0
        signed = (heading_deg + 180.0) % 360.0 - 180.0
        return 0.5 - signed / horizontal_fov_deg

    @property
    def heading_of_centre_deg(self) -> float | None:
        """Heading of the centre column, degrees clockwise from north; None when unknown."""
        if self.north is None:
            return None
        return ((0.5 - self.north) * self.horizontal_fov_deg) % 360.0

    @property
    def strip_north(self) -> float:
        """`north` as a fraction of the full turn around the image's centre column.

        Raises:
            GeometryError: north is unknown.
        """
        heading = self.heading_of_centre_deg
        if heading is None:
            raise GeometryError(
                "north is unknown: give the heading of the centre column, or try several rolls"
            )
        return self.north_of(heading)

    def extent(self, height: int, width: int) -> Band:
        """Elevations of the top and bottom edge of an image of this size, at its centre column.

        The tilt counts for "rectilinear" only: other images are levelled later.

        Raises:
            GeometryError: no image can have these proportions.
        """
        self._check()
        if self.projection == "equirectangular":
            fov = self._equirectangular_height(height, width)
            return Band(fov * self.horizon, -fov * (1.0 - self.horizon))
        rows_per_radian, _ = self.pixels_per_radian(height, width)
        top, bottom = (
            math.degrees(math.atan(share * height / rows_per_radian))
            for share in (self.horizon, self.horizon - 1.0)
        )
        pitch = self.tilt.pitch_deg if self.projection == "rectilinear" else 0.0
        return Band(top + pitch, bottom + pitch)

    def pitched(self, height: int, width: int) -> PanoramaGeometry:
        """A photograph of this horizon as one whose camera is pitched.

        Raises:
            GeometryError: no image can have these proportions.
        """
        if self.horizon == 0.5:
            return self
        level = replace(self, horizon=0.5)
        _ = level.extent(height, width)  # checks
        rows_per_radian, _ = level.pixels_per_radian(height, width)
        below = (self.horizon - 0.5) * height / rows_per_radian
        pitch = math.atan(below * math.cos(math.radians(self.tilt.roll_deg)))
        return replace(level, tilt=self.tilt._replace(pitch_deg=math.degrees(pitch)))

    def horizon_seen(self, height: int, width: int) -> float:
        """Where the horizon crosses the centre column; of panoramas, while the camera is level."""
        if self.projection != "rectilinear":
            return self.horizon
        rows_per_radian, _ = self.pixels_per_radian(height, width)
        pitch, roll = map(math.radians, self.tilt)
        return self.horizon + math.tan(pitch) / math.cos(roll) * rows_per_radian / height

    def pixels_per_radian(self, height: int, width: int) -> tuple[float, float]:
        """Rows and columns per radian, where the image's centre column meets its horizon.

        Raises:
            GeometryError: no image can have these proportions.
        """
        fov = math.radians(self.horizontal_fov_deg)
        if self.projection == "rectilinear":
            columns = width / (2.0 * math.tan(fov / 2.0))
        else:
            columns = width / fov
        if self.projection == "equirectangular":
            fov_deg = self._equirectangular_height(height, width)
            return height / math.radians(fov_deg), columns
        if self.vertical_fov_deg is None:
            return columns, columns
        # Solves vertical_fov = atan(horizon / f) + atan((1 - horizon) / f), f in image heights.
        sine, cosine = (f(math.radians(self.vertical_fov_deg)) for f in (math.sin, math.cos))
        root = cosine**2 + 4.0 * sine**2 * self.horizon * (1.0 - self.horizon)
        focal = (cosine + math.sqrt(max(0.0, root))) / (2.0 * sine) if sine > 0.0 else 0.0
        if focal <= 0.0 or root < 0.0:
            raise GeometryError(
                f"vertical_fov_deg {self.vertical_fov_deg:g} and horizon {self.horizon:g} exclude "
                f"each other in a {self.projection} image: leave one out"
            )
        return focal * height, columns

    def _equirectangular_height(self, height: int, width: int) -> float:
        fov = self.vertical_fov_deg
        if fov is None:
            fov = self.horizontal_fov_deg * height / width
            if not MIN_VERTICAL_FOV_DEG <= fov <= 180.0 * (1 + ASPECT_TOLERANCE):
                raise GeometryError(
                    f"an image of {width}x{height} covering {self.horizontal_fov_deg:g} degrees of "
                    f"the horizon would be {fov:.0f} degrees high; a panorama has "
                    f"{MIN_VERTICAL_FOV_DEG:g} to 180: state its field of view, and "
                    "projection=rectilinear if it is an ordinary photograph"
                )
            fov = min(fov, 180.0)
        return fov

    def _check(self) -> None:
        flat = self.projection == "rectilinear"
        most = MAX_RECTILINEAR_DEG if flat else 360.0
        _in_range("horizontal_fov_deg", self.horizontal_fov_deg, 1.0, most)
        _in_range("horizon", self.horizon, -1.0, 2.0)
        _in_range("pitch_deg", self.tilt.pitch_deg, -90.0, 90.0)
        _in_range("roll_deg", self.tilt.roll_deg, -180.0, 180.0)
        if self.north is not None and not math.isfinite(self.north):
            raise GeometryError(f"north is {self.north}: it is a fraction of the image's width")
        if self.vertical_fov_deg is not None:
            _in_range("vertical_fov_deg", self.vertical_fov_deg, 1.0, most if flat else 180.0)


@dataclass(frozen=True)
class Panorama:
    """An upload, opened once: the image file and what it covers of the sphere.

    Attributes:
        heading_deg: heading of the centre column, 0 to 360; None when unknown. `geometry.north`
            states the same as a fraction of the image's width.
        heading_tolerance_deg: how far `heading_deg` may be off.
        sources: for `heading_deg`, `projection`, each value of the extent and of the tilt, who
            states it: "given", "GPano", "GPano, corrected", "EXIF", "EXIF, magnetic", "assumed" or
            "unknown".
        notes: for some of these values, what was done to the stated value, or why it was ignored.
    """

    image: OpenedImage
    geometry: PanoramaGeometry = PanoramaGeometry()
    heading_deg: float | None = None
    heading_tolerance_deg: float = 0.0
    sources: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def extent(self) -> Band:
        """Elevations of the top and bottom edge.

        Raises:
            GeometryError: no panorama can have these proportions.
        """
        return self.geometry.extent(*self.image.size)


def _in_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise GeometryError(f"{name} is {value:g}; it must be {low:g} to {high:g}")

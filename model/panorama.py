"""What a panorama covers of the sphere around the camera, and where north lies in it.

Knows nothing of the network. Numpy and Pillow only, so any thread may call it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
from PIL import Image

from model.errors import SkyfixError
from model.images import OpenedImage, Rgb, filled

MIN_VERTICAL_FOV_DEG = 10.0
ASPECT_TOLERANCE = 0.03  # a resized file may round its sides


class GeometryError(SkyfixError):
    """The stated geometry is impossible, or north is needed and unknown."""


class Band(NamedTuple):
    """Elevations of a top and a bottom edge, in degrees above the horizon."""

    top_deg: float
    bottom_deg: float


@dataclass(frozen=True)
class PanoramaGeometry:
    """Where an equirectangular image lies on the sphere.

    Convention: columns run clockwise seen from above; rows run downward; fractions count from
    the image's left and top edge.

    Attributes:
        north: fraction of the width that faces north; None when unknown. Outside 0..1 when a
            limited field of view does not contain north.
        horizon: fraction of the height at which the horizon lies.
        vertical_fov_deg: degrees from top to bottom edge; None: horizontal_fov_deg * H / W.
        horizontal_fov_deg: degrees from left to right edge.
    """

    north: float | None = 0.5
    horizon: float = 0.5
    vertical_fov_deg: float | None = None
    horizontal_fov_deg: float = 360.0

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
        """Elevations of the top and bottom edge of an image of this size.

        Raises:
            GeometryError: no panorama can have these proportions.
        """
        _in_range("horizontal_fov_deg", self.horizontal_fov_deg, 1.0, 360.0)
        _in_range("horizon", self.horizon, -1.0, 2.0)
        if self.north is not None and not math.isfinite(self.north):
            raise GeometryError(f"north is {self.north}: it is a fraction of the image's width")
        fov = self.vertical_fov_deg
        if fov is None:
            fov = self.horizontal_fov_deg * height / width
            if not MIN_VERTICAL_FOV_DEG <= fov <= 180.0 * (1 + ASPECT_TOLERANCE):
                raise GeometryError(
                    f"an image of {width}x{height} covering {self.horizontal_fov_deg:g} degrees of "
                    f"the horizon would be {fov:.0f} degrees high; a panorama has "
                    f"{MIN_VERTICAL_FOV_DEG:g} to 180: state its field of view"
                )
            fov = min(fov, 180.0)
        _in_range("vertical_fov_deg", fov, 1.0, 180.0)
        return Band(fov * self.horizon, -fov * (1.0 - self.horizon))


@dataclass(frozen=True)
class Panorama:
    """An upload, opened once: the image file and what it covers of the sphere.

    Attributes:
        heading_deg: heading of the centre column, 0 to 360; None when unknown. `geometry.north`
            states the same as a fraction of the image's width.
        heading_tolerance_deg: how far `heading_deg` may be off.
        sources: for `heading_deg` and each value of the extent, who states it: "given", "GPano",
            "GPano, corrected", "EXIF", "EXIF, magnetic", "assumed" or "unknown".
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


def cut_band(
    image: Rgb,
    geometry: PanoramaGeometry,
    band: Band | None,
    size: tuple[int, int],
    fill: tuple[int, int, int],
) -> Rgb:
    """Resample a panorama to a full turn around its centre column, between two elevations.

    Args:
        image: uint8 (H, W, 3).
        geometry: the part of the sphere that the image covers; `north` is not used.
        band: elevations kept; None keeps the whole height of the image.
        size: (height, width) of the result.
        fill: RGB of the elevations and headings that the image lacks.

    Returns:
        uint8 (height, width, 3), area-averaged where it shrinks. Missing rows and columns begin
        on a whole pixel: the placement is off by at most half a pixel of the result.

    Raises:
        GeometryError: impossible geometry, or the image does not reach into the band.
    """
    height, width = size
    rows, cols = image.shape[:2]
    extent = geometry.extent(rows, cols)
    wanted = band or extent
    per_degree = height / (wanted.top_deg - wanted.bottom_deg)
    top = max(0, round((wanted.top_deg - extent.top_deg) * per_degree))
    bottom = min(height, round((wanted.top_deg - extent.bottom_deg) * per_degree))
    half = round(width * geometry.horizontal_fov_deg / 360.0 / 2.0)
    if bottom - top < 2 or half < 1:
        raise GeometryError(
            f"the image covers elevations {extent.bottom_deg:.0f} to {extent.top_deg:.0f} degrees; "
            f"nothing of it lies within {wanted.bottom_deg:.0f} to {wanted.top_deg:.0f}: check "
            "horizon and vertical_fov_deg"
        )
    source_per_degree = rows / (extent.top_deg - extent.bottom_deg)
    box_top = (extent.top_deg - (wanted.top_deg - top / per_degree)) * source_per_degree
    box_bottom = (extent.top_deg - (wanted.top_deg - bottom / per_degree)) * source_per_degree
    box = (0.0, max(0.0, box_top), float(cols), min(float(rows), box_bottom))
    if geometry.horizontal_fov_deg >= 360.0:
        left, right = 0, width
    else:
        left, right = width // 2 - half, width // 2 + half
    part = Image.fromarray(image).resize(
        (right - left, bottom - top), Image.Resampling.BILINEAR, box=box, reducing_gap=3.0
    )
    strip = filled(height, width, fill)
    strip[top:bottom, left:right] = np.asarray(part)
    return strip

"""What a panorama covers of the sphere around the camera, and where north lies in it.

Knows nothing of the network. Numpy and Pillow only, so any thread may call it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from model.errors import SkyfixError
from model.images import (
    MAX_METADATA_BYTES,
    Rgb,
    filled,
    open_image,
    read_exif,
    upright_size,
    without_warnings,
)

log = logging.getLogger(__name__)

MIN_VERTICAL_FOV_DEG = 10.0
ASPECT_TOLERANCE = 0.03  # a resized file may round its sides

_GPS_IFD = 0x8825
_GPS_DIRECTION_REF, _GPS_DIRECTION = 16, 17


class GeometryError(SkyfixError):
    """The stated geometry is impossible, or north is needed and unknown."""


class Band(NamedTuple):
    """Elevations of a top and a bottom edge, in degrees above the horizon."""

    top_deg: float
    bottom_deg: float


@dataclass(frozen=True)
class PanoramaGeometry:
    """Where an equirectangular image lies on the sphere.

    Convention: columns run clockwise seen from above; rows run downward; fractions are of the
    image's own width and height, from its left and top edge.

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
        geometry: what the image covers; `north` is not used.
        band: elevations kept; None keeps the whole height of the image, whatever it is.
        size: (height, width) of the result.
        fill: RGB where the image has nothing: missing elevations or headings.

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


@dataclass(frozen=True)
class GeometryReading:
    """A geometry and, for each of its fields, where the value came from.

    Sources are "given", "GPano", "EXIF", "EXIF (magnetic)" or "assumed".
    """

    geometry: PanoramaGeometry
    sources: Mapping[str, str] = field(default_factory=dict)


_EXTENT = ("horizon", "vertical_fov_deg", "horizontal_fov_deg")


def read_geometry(data: bytes, given: Collection[str] = ()) -> GeometryReading:
    """Read GPano XMP, then EXIF's image direction; what nothing states is assumed.

    Unstated north stays None. A GPano crop whose proportions are not the image's (the file was
    cut after it was written) is ignored, and the log says so.

    given: fields of PanoramaGeometry that the caller knows better. What only they need is not read,
        so that it cannot be wrong; their values here mean nothing.

    Raises:
        ImageError: not an image.
        GeometryError: GPano states another projection than equirectangular, or nonsense.
    """
    image = open_image(data)
    gpano = {} if {*_EXTENT, "north"} <= set(given) else _gpano(image)
    crop = _gpano_crop(gpano, image)
    sources = dict.fromkeys(_EXTENT, "GPano")
    if crop is None:
        crop = _Crop(0.5, None, 360.0, 0.0)
        sources = dict.fromkeys(sources, "assumed")
    heading, sources["north"] = (None, "assumed") if "north" in given else _heading(gpano, image)
    north = None
    if heading is not None:
        # GPano's heading is that of the full sphere's centre, not of the crop's.
        north = PanoramaGeometry.north_of(heading + crop.centre_deg, crop.horizontal_fov_deg)
    geometry = PanoramaGeometry(north, crop.horizon, crop.vertical_fov_deg, crop.horizontal_fov_deg)
    return GeometryReading(geometry, sources)


class _Crop(NamedTuple):
    horizon: float
    vertical_fov_deg: float | None
    horizontal_fov_deg: float
    centre_deg: float  # heading of the crop's centre relative to the full sphere's


_CORRECT = f"correct it, or give heading_deg, {', '.join(_EXTENT)}: it is not read then"


def _gpano(image: Image.Image) -> dict[str, str]:
    """GPano's fields, without namespace; empty when there are none."""
    size = len(image.info.get("xmp", b""))
    if size > MAX_METADATA_BYTES:
        log.warning("the XMP metadata has %d bytes, too many, and is ignored", size)
        return {}
    try:
        tree = image.getxmp()
    except Exception as error:  # ParseError, EntitiesForbidden, whatever hostile XMP provokes
        log.warning("the XMP metadata cannot be parsed and is ignored: %s", error)
        return {}
    known = {key: value for key, value in _leaves(tree) if key in _GPANO_FIELDS}
    projection = known.get("ProjectionType", "equirectangular")
    if projection.lower() != "equirectangular":
        raise GeometryError(
            f"GPano states ProjectionType {projection[:40]!r}; only equirectangular is understood: "
            f"project the image again. If GPano is wrong, {_CORRECT}"
        )
    return known


_GPANO_FIELDS = {
    "ProjectionType",
    "PoseHeadingDegrees",
    "FullPanoWidthPixels",
    "FullPanoHeightPixels",
    "CroppedAreaImageWidthPixels",
    "CroppedAreaImageHeightPixels",
    "CroppedAreaLeftPixels",
    "CroppedAreaTopPixels",
}


def _leaves(tree: object) -> Iterator[tuple[str, str]]:
    stack = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, list):
            stack.extend(node)
        elif isinstance(node, dict):
            for key, value in node.items():
                if isinstance(value, str):
                    yield key, value.strip()
                else:
                    stack.append(value)


def _number(
    fields: Mapping[str, str], name: str, low: float, high: float, fix: str
) -> float | None:
    text = fields.get(name)
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        raise GeometryError(
            f"GPano states {name} {text[:40]!r}; expected {low:g} to {high:g}: {fix}"
        )
    return value


def _gpano_crop(gpano: Mapping[str, str], image: Image.Image) -> _Crop | None:
    def pixels(name: str, low: float) -> float | None:
        return _number(gpano, name, low, 1e6, _CORRECT)

    full_width = pixels("FullPanoWidthPixels", 1.0)
    full_height = pixels("FullPanoHeightPixels", 1.0)
    if full_width is None or full_height is None:
        return None
    width = pixels("CroppedAreaImageWidthPixels", 1.0) or full_width
    height = pixels("CroppedAreaImageHeightPixels", 1.0) or full_height
    left = pixels("CroppedAreaLeftPixels", 0.0) or 0.0
    top = pixels("CroppedAreaTopPixels", 0.0) or 0.0
    if left + width > full_width * 1.001 or top + height > full_height * 1.001:
        raise GeometryError(
            f"GPano states a crop of {width:g}x{height:g} at ({left:g}, {top:g}) outside its full "
            f"panorama of {full_width:g}x{full_height:g}: {_CORRECT}"
        )
    rows, columns = upright_size(image)
    if abs(width / height / (columns / rows) - 1.0) > ASPECT_TOLERANCE:
        log.warning(
            "GPano states a crop of %gx%g but the image is %dx%d: its crop is ignored",
            *(width, height, columns, rows),
        )
        return None
    return _Crop(
        horizon=(full_height / 2.0 - top) / height,
        vertical_fov_deg=180.0 * height / full_height,
        horizontal_fov_deg=min(360.0, 360.0 * width / full_width),
        centre_deg=((left + width / 2.0) / full_width - 0.5) * 360.0,
    )


def _heading(gpano: Mapping[str, str], image: Image.Image) -> tuple[float | None, str]:
    heading = _number(gpano, "PoseHeadingDegrees", -360.0, 720.0, "correct it, or give heading_deg")
    if heading is not None:
        return heading, "GPano"
    try:
        with without_warnings():
            gps: Mapping[int, Any] = read_exif(image).get_ifd(_GPS_IFD)
        direction = float(gps[_GPS_DIRECTION])
    except KeyError:
        return None, "assumed"
    except Exception as error:  # damaged EXIF raises whatever its parser meets
        log.warning("the EXIF direction cannot be read and is ignored: %s", error)
        return None, "assumed"
    if not 0.0 <= direction <= 360.0:
        log.warning("the EXIF direction %g is not 0 to 360 and is ignored", direction)
        return None, "assumed"
    magnetic = gps.get(_GPS_DIRECTION_REF) == "M"
    return direction, "EXIF (magnetic)" if magnetic else "EXIF"

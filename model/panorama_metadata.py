"""A panorama's geometry from its file: GPano XMP, then EXIF's image direction."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from PIL import Image

from model.images import MAX_METADATA_BYTES, open_image, without_warnings
from model.panorama import ASPECT_TOLERANCE, GeometryError, Panorama, PanoramaGeometry

log = logging.getLogger(__name__)

_GPS_IFD = 0x8825
_GPS_DIRECTION_REF, _GPS_DIRECTION = 16, 17

_EXTENT = ("horizon", "vertical_fov_deg", "horizontal_fov_deg")
_CORRECT = f"correct it, or give heading_deg, {', '.join(_EXTENT)}: it is not read then"
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


def read_panorama(
    data: bytes,
    *,
    heading_deg: float | None = None,
    horizon: float | None = None,
    vertical_fov_deg: float | None = None,
    horizontal_fov_deg: float | None = None,
) -> Panorama:
    """Open a panorama and settle its geometry: given values, then the file's, then assumed ones.

    A GPano crop whose proportions are not the image's is ignored and logged: the file was cut
    after the crop was written. Metadata that only given values would need is not read, so that
    it cannot be wrong.

    Args:
        data: a JPEG, PNG or WebP file.
        heading_deg: heading of the centre column; the others as in `PanoramaGeometry`.

    Raises:
        ImageError: not an image.
        GeometryError: GPano states another projection than equirectangular, or nonsense.
    """
    image = open_image(data)
    values = dict(zip(_EXTENT, (horizon, vertical_fov_deg, horizontal_fov_deg), strict=True))
    given = {name: value for name, value in values.items() if value is not None}
    all_given = heading_deg is not None and len(given) == len(_EXTENT)
    gpano = {} if all_given else _gpano(image.stored)
    crop = _gpano_crop(gpano, image.size)
    sources = dict.fromkeys(_EXTENT, "assumed" if crop is None else "GPano")
    sources |= dict.fromkeys([*given, "heading_deg"], "given")
    crop = crop or _Crop(0.5, None, 360.0, 0.0)
    if heading_deg is None:
        heading_deg, sources["heading_deg"] = _heading(gpano, image.exif)
        if heading_deg is not None:
            heading_deg += crop.centre_deg  # GPano's heading is the full sphere's centre's
    extent = {name: given.get(name, getattr(crop, name)) for name in _EXTENT}
    if heading_deg is None:
        return Panorama(image, PanoramaGeometry(None, **extent), None, sources)
    north = PanoramaGeometry.north_of(heading_deg, extent["horizontal_fov_deg"])
    geometry = PanoramaGeometry(north, **extent)
    return Panorama(image, geometry, heading_deg % 360.0, sources)


class _Crop(NamedTuple):
    horizon: float
    vertical_fov_deg: float | None
    horizontal_fov_deg: float
    centre_deg: float  # heading of the crop's centre relative to the full sphere's


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
    fields: Mapping[str, str], name: str, low: float, high: float, remedy: str
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
            f"GPano states {name} {text[:40]!r}; expected {low:g} to {high:g}: {remedy}"
        )
    return value


def _gpano_crop(gpano: Mapping[str, str], size: tuple[int, int]) -> _Crop | None:
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
    rows, columns = size
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


def _heading(gpano: Mapping[str, str], exif: Image.Exif) -> tuple[float | None, str]:
    """The heading that the file states, and its source."""
    heading = _number(gpano, "PoseHeadingDegrees", -360.0, 720.0, "correct it, or give heading_deg")
    if heading is not None:
        return heading, "GPano"
    try:
        with without_warnings():
            gps = exif.get_ifd(_GPS_IFD)
        direction = float(gps[_GPS_DIRECTION])
    except KeyError:
        return None, "unknown"
    except Exception as error:  # damaged EXIF raises whatever its parser meets
        log.warning("the EXIF direction cannot be read and is ignored: %s", error)
        return None, "unknown"
    if not 0.0 <= direction <= 360.0:
        log.warning("the EXIF direction %g is not 0 to 360 and is ignored", direction)
        return None, "unknown"
    magnetic = gps.get(_GPS_DIRECTION_REF) == "M"
    return direction, "EXIF (magnetic)" if magnetic else "EXIF"

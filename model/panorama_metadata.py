"""A panorama's geometry from its file: GPano XMP, then EXIF's image direction."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from model.gpano import read_gpano
from model.images import open_image
from model.panorama import ASPECT_TOLERANCE, GeometryError, Panorama, PanoramaGeometry
from model.stated_heading import choose_heading

log = logging.getLogger(__name__)

_EXTENT = ("horizon", "vertical_fov_deg", "horizontal_fov_deg")
_CORRECT = f"correct it, or give heading_deg, {', '.join(_EXTENT)}: it is not read then"


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
    gpano = {} if all_given else _gpano(image.xmp)
    crop = _gpano_crop(gpano, image.size)
    sources = dict.fromkeys(_EXTENT, "assumed" if crop is None else "GPano")
    sources |= dict.fromkeys(given, "given")
    notes: dict[str, str] = {}  # of every value that a note explains
    crop = crop or _Crop(0.5, None, 360.0, 0.0)
    stated = choose_heading(heading_deg, gpano, image.exif)
    sources["heading_deg"] = stated.source
    if stated.note is not None:
        notes["heading_deg"] = stated.note
    extent = {name: given.get(name, getattr(crop, name)) for name in _EXTENT}
    heading, north = stated.degrees, None
    if heading is not None:
        if stated.source != "given":
            heading += crop.centre_deg  # a file states the heading of the full sphere's centre
        north = PanoramaGeometry.north_of(heading, extent["horizontal_fov_deg"])
        heading %= 360.0
    geometry = PanoramaGeometry(north, **extent)
    return Panorama(image, geometry, heading, stated.tolerance_deg, sources, notes)


class _Crop(NamedTuple):
    horizon: float
    vertical_fov_deg: float | None
    horizontal_fov_deg: float
    centre_deg: float  # heading of the crop's centre relative to the full sphere's


def _gpano(packets: Iterable[bytes]) -> dict[str, str]:
    fields = read_gpano(packets)
    projection = fields.get("ProjectionType", "equirectangular")
    if projection.lower() != "equirectangular":
        raise GeometryError(
            f"GPano states ProjectionType {projection[:40]!r}; only equirectangular is understood: "
            f"project the image again. If GPano is wrong, {_CORRECT}"
        )
    return fields


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

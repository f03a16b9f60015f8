"""A street image's geometry from its file, GPano XMP and EXIF, and from given values."""

from __future__ import annotations

import math
from collections.abc import Mapping

from model.gpano import read_gpano
from model.images import open_image
from model.panorama import GeometryError, ImageProjection, Panorama, PanoramaGeometry
from model.stated_extent import (
    ASSUMED,
    CORRECTED,
    EXTENT,
    HORIZON,
    HORIZONTAL,
    VERTICAL,
    StatedExtent,
)
from model.stated_heading import BELIEVED, HeadingTrust, StatedHeading, choose_heading
from model.stated_lens import read_lens
from model.stated_projection import StatedProjection, choose_projection, extent_of
from model.stated_tilt import ANGLES, PITCH, choose_tilt
from model.tilt import Tilt


def read_panorama(
    data: bytes,
    *,
    heading_deg: float | None = None,
    heading_tolerance_deg: float | None = None,
    trust: HeadingTrust = BELIEVED,
    projection: ImageProjection | None = None,
    horizon: float | None = None,
    vertical_fov_deg: float | None = None,
    horizontal_fov_deg: float | None = None,
    pitch_deg: float | None = None,
    roll_deg: float | None = None,
) -> Panorama:
    """Open a street image and settle its geometry: given values, the file's, then assumed ones.

    Metadata that only given values would need is not read, so that it cannot be wrong.

    Args:
        data: an image file, see `open_image`.
        heading_deg: heading of the centre column.
        heading_tolerance_deg, trust: see `choose_heading`.
        projection, vertical_fov_deg, horizontal_fov_deg: as in `PanoramaGeometry`.
        horizon: as in `PanoramaGeometry`; of a rectilinear image, where the horizon crosses its
            centre column. A file's pitch is then not read.
        pitch_deg, roll_deg: as in `Tilt`, about the centre column.

    Raises:
        ImageError: not an image.
        GeometryError: GPano states an unknown projection, nonsense, or an extent that can be read
            in several ways; or the horizontal field of view is needed and unknown.
    """
    image = open_image(data)
    values = (horizon, vertical_fov_deg, horizontal_fov_deg, pitch_deg, roll_deg)
    named = zip((*EXTENT, *ANGLES), values, strict=True)
    given = {name: value for name, value in named if value is not None}
    heading_settled = heading_deg is not None or "GPano" not in trust.sources
    gpano = {} if heading_settled and given.keys() >= {*EXTENT} else read_gpano(image.xmp)
    lens = read_lens(image.exif, image.size)
    widest_deg = max(given.get(VERTICAL, 0.0), given.get(HORIZONTAL, 0.0))
    chosen = choose_projection(projection, gpano, lens, image.size, widest_deg)
    extent = _with_given(extent_of(chosen.name, gpano, lens, image.size), given)
    tilt = choose_tilt(_given_tilt(given, chosen), gpano, image.exif, extent.centre_deg)
    heading = _at_centre(
        choose_heading(heading_deg, heading_tolerance_deg, trust, gpano, image.exif), tilt.turn_deg
    )
    geometry = _geometry(chosen, extent, tilt.tilt, heading.degrees, image.size)
    sources = {"heading_deg": heading.source, "projection": chosen.source}
    notes = {"heading_deg": heading.note, "projection": chosen.note}
    sources |= {**extent.sources, **tilt.sources}
    is_photograph = chosen.name == "rectilinear"
    if is_photograph and HORIZON not in given:
        sources[HORIZON] = sources[PITCH]  # both state the same
    elif not is_photograph and PITCH not in given and HORIZON in given:
        sources[PITCH] = ASSUMED
    notes |= {**extent.notes, **tilt.notes}
    degrees = None if heading.degrees is None else heading.degrees % 360.0
    noted = {name: note for name, note in notes.items() if note is not None}
    return Panorama(image, geometry, degrees, heading.tolerance_deg, sources, noted)


def _with_given(stated: StatedExtent, given: Mapping[str, float]) -> StatedExtent:
    """What a file states of the extent, where nothing else is given."""
    extent = {name: given[name] for name in EXTENT if name in given}
    sources = {**stated.sources, **dict.fromkeys(extent, "given")}
    notes = {name: note for name, note in stated.notes.items() if name not in given}
    if HORIZONTAL in given and sources[VERTICAL] in (CORRECTED, "EXIF"):
        stated = stated._replace(vertical_fov_deg=None)  # the given value tells a pixel's degrees
        sources[VERTICAL] = ASSUMED
        notes.pop(VERTICAL, None)
    return stated._replace(**extent, sources=sources, notes=notes)


def _given_tilt(given: Mapping[str, float], chosen: StatedProjection) -> dict[str, float]:
    """The given angles. A given horizon stands for a pitch, so that the file's is not added."""
    angles = {name: given[name] for name in ANGLES if name in given}
    if HORIZON in given:
        if PITCH in given and chosen.name == "rectilinear":
            raise GeometryError(
                f"horizon={given[HORIZON]:g} and pitch_deg={given[PITCH]:g} state a photograph's "
                "pitch twice: give one of them"
            )
        angles.setdefault(PITCH, 0.0)
    return angles


def _geometry(
    chosen: StatedProjection,
    extent: StatedExtent,
    tilt: Tilt,
    heading_deg: float | None,
    size: tuple[int, int],
) -> PanoramaGeometry:
    height, width = size
    fov_deg = extent.horizontal_fov_deg
    is_photograph = chosen.name == "rectilinear"
    if fov_deg is None and is_photograph and extent.vertical_fov_deg is not None:
        half = math.tan(math.radians(extent.vertical_fov_deg) / 2.0) * width / height
        fov_deg = math.degrees(2.0 * math.atan(half))
    if fov_deg is None:
        raise GeometryError(
            f"horizontal_fov_deg of this {chosen.name} image is unknown: neither GPano nor EXIF "
            "states it. Give horizontal_fov_deg"
        )
    north = None if heading_deg is None else PanoramaGeometry.north_of(heading_deg, fov_deg)
    geometry = PanoramaGeometry(
        north, extent.horizon, extent.vertical_fov_deg, fov_deg, chosen.name, tilt
    )
    return geometry.pitched(height, width) if is_photograph else geometry


def _at_centre(heading: StatedHeading, turn_deg: float | None) -> StatedHeading:
    """The heading of the image's centre: a file states the heading of the full sphere's centre."""
    if heading.degrees is None or heading.source == "given":
        return heading
    if turn_deg is None:
        note = (
            f"{heading.source}'s heading {heading.degrees:g} is ignored: GPano leaves open which "
            "part of its full panorama the image shows"
        )
        return StatedHeading(None, 180.0, "unknown", note)
    return heading._replace(degrees=heading.degrees + turn_deg)

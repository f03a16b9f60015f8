"""A panorama's geometry from its file: GPano XMP, then EXIF's image direction."""

from __future__ import annotations

from collections.abc import Iterable

from model.gpano import read_gpano
from model.images import open_image
from model.panorama import GeometryError, Panorama, PanoramaGeometry
from model.stated_extent import ASSUMED, CORRECTED, EXTENT, GIVE, choose_extent, tilt_note
from model.stated_heading import BELIEVED, HeadingTrust, StatedHeading, choose_heading


def read_panorama(
    data: bytes,
    *,
    heading_deg: float | None = None,
    heading_tolerance_deg: float | None = None,
    trust: HeadingTrust = BELIEVED,
    horizon: float | None = None,
    vertical_fov_deg: float | None = None,
    horizontal_fov_deg: float | None = None,
) -> Panorama:
    """Open a panorama and settle its geometry: given values, then the file's, then assumed ones.

    Metadata that only given values would need is not read, so that it cannot be wrong.

    Args:
        data: a JPEG, PNG or WebP file.
        heading_deg: heading of the centre column.
        heading_tolerance_deg, trust: see `choose_heading`.
        horizon, vertical_fov_deg, horizontal_fov_deg: as in `PanoramaGeometry`.

    Raises:
        ImageError: not an image.
        GeometryError: GPano states another projection than equirectangular, nonsense, or an extent
            that can be read in several ways.
    """
    image = open_image(data)
    values = dict(zip(EXTENT, (horizon, vertical_fov_deg, horizontal_fov_deg), strict=True))
    given = {name: value for name, value in values.items() if value is not None}
    heading_settled = heading_deg is not None or "GPano" not in trust.sources
    all_given = heading_settled and len(given) == len(EXTENT)
    gpano = {} if all_given else _gpano(image.xmp)
    stated = choose_extent(gpano, image.size)
    extent = {name: given.get(name, getattr(stated, name)) for name in EXTENT}
    heading = _at_centre(
        choose_heading(heading_deg, heading_tolerance_deg, trust, gpano, image.exif),
        stated.centre_deg,
    )
    sources = {**stated.sources, **dict.fromkeys(given, "given"), "heading_deg": heading.source}
    notes = {name: note for name, note in stated.notes.items() if name not in given}
    if "horizontal_fov_deg" in given and sources["vertical_fov_deg"] == CORRECTED:
        extent["vertical_fov_deg"] = None  # the given value tells the degrees of a pixel
        sources["vertical_fov_deg"] = ASSUMED
        del notes["vertical_fov_deg"]
    if heading.note is not None:
        notes["heading_deg"] = heading.note
    if (tilt := tilt_note(gpano)) is not None:
        notes["horizon"] = "; ".join([*filter(None, [notes.get("horizon")]), tilt])
    north, degrees = None, heading.degrees
    if degrees is not None:
        north = PanoramaGeometry.north_of(degrees, extent["horizontal_fov_deg"])
        degrees %= 360.0
    geometry = PanoramaGeometry(north, **extent)
    return Panorama(image, geometry, degrees, heading.tolerance_deg, sources, notes)


def _at_centre(heading: StatedHeading, centre_deg: float | None) -> StatedHeading:
    """The heading of the image's centre: a file states the heading of the full sphere's centre."""
    if heading.degrees is None or heading.source == "given":
        return heading
    if centre_deg is None:
        note = (
            f"{heading.source}'s heading {heading.degrees:g} is ignored: GPano leaves open which "
            "part of its full panorama the image shows"
        )
        return StatedHeading(None, 180.0, "unknown", note)
    return heading._replace(degrees=heading.degrees + centre_deg)


def _gpano(packets: Iterable[bytes]) -> dict[str, str]:
    fields = read_gpano(packets)
    projection = fields.get("ProjectionType", "equirectangular")
    if projection.lower() != "equirectangular":
        raise GeometryError(
            f"GPano states ProjectionType {projection[:40]!r}; only equirectangular is understood: "
            f"project the image again. If GPano is wrong, correct it, or {GIVE}"
        )
    return fields

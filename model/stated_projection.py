"""How a street image lies on the sphere, as a caller or a file states it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from model.panorama import MAX_RECTILINEAR_DEG, PROJECTIONS, GeometryError, ImageProjection
from model.stated_extent import (
    ASSUMED,
    GIVE,
    STATED,
    UNKNOWN,
    StatedExtent,
    choose_cylinder,
    choose_extent,
)

MAX_ASPECT = 1.9  # width by height of a photograph that only its lens shows to be one; 16:9 is 1.78


class StatedProjection(NamedTuple):
    """A projection, who states it, and perhaps what else the file states."""

    name: ImageProjection
    source: str
    note: str | None = None


def choose_projection(
    given: ImageProjection | None,
    gpano: Mapping[str, str],
    lens: StatedExtent | None,
    size: tuple[int, int],
    widest_deg: float,
) -> StatedProjection:
    """The given projection, else GPano's, else a photograph's where EXIF states a lens.

    Args:
        lens: the extent that EXIF states; None: none.
        size: (height, width) of the upright image.
        widest_deg: the widest field of view that the caller gives.

    Raises:
        GeometryError: GPano states another projection.
    """
    if given is not None:
        return StatedProjection(given, "given")
    if "ProjectionType" in gpano:
        return StatedProjection(_known(gpano["ProjectionType"]), STATED)
    is_panorama = any("Pano" in name or "Crop" in name for name in gpano)
    if lens is None or is_panorama or widest_deg > MAX_RECTILINEAR_DEG:
        return StatedProjection("equirectangular", ASSUMED)
    height, width = size
    if width <= MAX_ASPECT * height:
        return StatedProjection("rectilinear", "EXIF")
    note = (
        f"EXIF states a lens, but an image of {width}x{height} is taken for a panorama: give "
        "projection=rectilinear if it is a photograph"
    )
    return StatedProjection("equirectangular", ASSUMED, note)


def extent_of(
    projection: ImageProjection,
    gpano: Mapping[str, str],
    lens: StatedExtent | None,
    size: tuple[int, int],
) -> StatedExtent:
    """What the file states of an image's extent in this projection.

    Raises:
        GeometryError: see `choose_extent`.
    """
    if projection == "rectilinear":
        return lens or UNKNOWN
    if gpano.get("ProjectionType", projection).lower() != projection:
        gpano = {}  # its numbers are of another projection
    return choose_cylinder(gpano) if projection == "cylindrical" else choose_extent(gpano, size)


def _known(stated: str) -> ImageProjection:
    for known in PROJECTIONS:
        if stated.lower() == known:
            return known
    raise GeometryError(
        f"GPano states ProjectionType {stated[:40]!r}; understood are {', '.join(PROJECTIONS)}: "
        f"project the image again. If GPano is wrong, give projection, or {GIVE}"
    )

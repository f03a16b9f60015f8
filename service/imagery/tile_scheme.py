"""Whether map tiles' rows count from the north (XYZ) or from the south (TMS).

Files beside the map tiles may state the scheme, or bounds that only one scheme agrees with.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast, get_args

from defusedxml import DefusedXmlException, ElementTree

from model.geo import EQUATORIAL_RADIUS_M, Bounds, wrap_longitude
from service.imagery.grid import Extent
from service.imagery.map_tile_levels import Scheme
from service.imagery.source import SourceError

JSON_FILES = ("metadata.json", "tilejson.json", "tiles.json")
XML_FILE = "tilemapresource.xml"
CORNERS = ("minx", "miny", "maxx", "maxy")
SCHEMES: tuple[Scheme, ...] = get_args(Scheme)
SLACK = 0.01  # degrees by which stated bounds may be rounded
MIN_AGREEMENT = 0.75  # share of the smaller box that the boxes share
MERCATOR = ("3857", "900913", "3785", "102100", "102113", "41001", "mercator")
OTHER_PROFILES = ("geodetic", "global-geodetic", "raster", "none")


class Statement(NamedTuple):
    """What one file says of the map tiles.

    bounds: readings of the stated bounds; none: the file states no bounds.
    """

    file: Path
    scheme: Scheme | None
    bounds: Sequence[Bounds]


class Decision(NamedTuple):
    """The scheme, and why: "as tilemapresource.xml says"."""

    scheme: Scheme
    reason: str


def statements(folders: Sequence[Path]) -> list[Statement]:
    """What the files in the folders state, the first folder's first.

    Raises:
        SourceError: a file cannot be read, or says that the map tiles are not in Web Mercator.
    """
    found = []
    for folder in folders:
        xml = folder / XML_FILE
        if xml.is_file():
            found.append(_of_xml(xml))
        found += [_of_json(folder / name) for name in JSON_FILES if (folder / name).is_file()]
    return found


def decide(
    xyz: Extent, given: Scheme | None, stated: Sequence[Statement], margin_deg: float
) -> Decision:
    """The scheme that is given, stated, follows from stated bounds, or is assumed.

    Args:
        xyz: where the map tiles lie if row 0 lies in the north.
        given: the user's choice, which replaces the stated schemes.
        margin_deg: by how much map tiles reach beyond their imagery.

    Raises:
        SourceError: two files state different schemes, or no bounds agree with the scheme.
    """
    reasons = {s.scheme: f"{s.file.name} says" for s in reversed(stated) if s.scheme}
    if given:
        reasons = {given: "--scheme says"}
    if len(reasons) > 1:
        both = " and ".join(f"{reason} {scheme}" for scheme, reason in reasons.items())
        raise SourceError(f"{stated[0].file.parent}: {both}: state the right one with --scheme")
    extents: dict[Scheme, Extent] = {"xyz": xyz, "tms": flipped(xyz)}
    left = list(reasons) or list(SCHEMES)
    for file, _, readings in stated:
        if readings:
            left = [s for s in left if any(_agree(extents[s], b, margin_deg) for b in readings)]
            if not left:
                raise _contradiction(file, readings[0], extents, reasons)
            if len(left) == 1:
                reasons.setdefault(left[0], f"the bounds in {file.name} say")
    if reasons:
        return Decision(left[0], f"as {reasons[left[0]]}")
    return Decision(
        "xyz",
        f"as no file says otherwise; counted from the south (--scheme tms) they would lie around "
        f"{middle(extents['tms'])}",
    )


def only_xyz(what: str, given: Scheme | None) -> Decision:
    """The scheme of files that have no choice.

    Raises:
        SourceError: the user states another.
    """
    if given == "tms":
        raise SourceError(f"{what} count their rows from the north: leave out --scheme tms")
    return Decision("xyz", f"as {what} are")


def flipped(extent: Extent) -> Extent:
    """The extent of the same rows, counted from the other end."""
    west, south, east, north = extent
    return Extent(west, -north, east, -south)


def middle(extent: Extent) -> str:
    """Latitude and longitude, for messages."""
    latitude, longitude = extent.middle
    return f"{latitude:.5f}, {wrap_longitude(longitude):.5f}"


def _contradiction(
    file: Path, bounds: Bounds, extents: dict[Scheme, Extent], reasons: dict[Scheme, str]
) -> SourceError:
    told = "".join(f"{reason} {scheme}, but " for scheme, reason in reasons.items())
    lie = " and ".join(
        f"{scheme} puts the rows around {middle(extents[scheme])}" for scheme in SCHEMES
    )
    return SourceError(
        f"{told}{file} states the bounds {','.join(f'{v:.6g}' for v in bounds)} "
        f"(west,south,east,north), while {lie} (latitude, longitude): state the right scheme with "
        "--scheme, or mend the bounds"
    )


def _agree(extent: Extent, bounds: Bounds, margin_deg: float) -> bool:
    """Whether most of the smaller of both boxes lies in the other."""
    slack = SLACK + margin_deg
    west, south, east, north = bounds
    width = (east - west) % 360.0 or 360.0
    apart = wrap_longitude((extent.west + extent.east) / 2.0 - (west + width / 2.0))
    half, own_half = width / 2.0 + slack, (extent.east - extent.west) / 2.0
    across = min(half, apart + own_half) - max(-half, apart - own_half)
    down = min(north + slack, extent.north) - max(south - slack, extent.south)
    smaller = min(
        4.0 * half * ((north - south) / 2.0 + slack),
        2.0 * own_half * (extent.north - extent.south),
    )
    return min(across, down) > 0.0 and across * down >= MIN_AGREEMENT * smaller


def _of_xml(file: Path) -> Statement:
    """The TMS specification's file, which gdal2tiles writes.

    gdal2tiles states degrees whatever its <SRS> says, and before GDAL 2 latitude as x.
    """
    try:
        root = ElementTree.parse(file).getroot()
        box = root.find("BoundingBox")
        values = (
            []
            if box is None
            else [box.get(f"{end}{axis}") for end in ("min", "max") for axis in "xy"]
        )
        profile = getattr(root.find("TileSets"), "attrib", {}).get("profile", "")
        srs = root.findtext("SRS") or ""
    except (OSError, ElementTree.ParseError, DefusedXmlException) as error:
        raise SourceError(f"{file} cannot be read as XML: {error}") from error
    _check_projection(file, profile, srs)
    bounds = _bounds(file, values) if values else []
    return Statement(file, "tms", [*bounds, *(Bounds(s, w, n, e) for w, s, e, n in bounds)])


def _of_json(file: Path) -> Statement:
    """TileJSON, or the metadata of an MBTiles file."""
    try:
        said = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise SourceError(f"{file} cannot be read as JSON: {error}") from error
    if not isinstance(said, dict):
        return Statement(file, None, [])
    srs = said.get("crs") or said.get("srs") or ""
    _check_projection(file, str(said.get("profile", "")), srs if isinstance(srs, str) else "")
    scheme = said.get("scheme")
    if scheme not in (None, *SCHEMES):
        raise SourceError(f"{file} states the scheme {scheme!r}: xyz or tms is needed")
    values = said.get("bounds") or []
    values = values.split(",") if isinstance(values, str) else values
    return Statement(file, cast(Scheme | None, scheme), _bounds(file, values) if values else [])


def _check_projection(file: Path, profile: str, srs: str) -> None:
    mercator = not srs or any(name in srs.lower() for name in MERCATOR)
    if profile.lower() in OTHER_PROFILES or not mercator:
        raise SourceError(
            f"{file} says that the map tiles are {profile or srs!r}: Web Mercator (EPSG:3857) is "
            "needed: write them again, for example with gdal2tiles.py"
        )


def _bounds(file: Path, values: Any) -> list[Bounds]:
    """The stated west, south, east, north, in degrees or in Web Mercator's metres."""
    try:
        west, south, east, north = (float(value) for value in values)
    except (TypeError, ValueError):
        raise SourceError(
            f"{file} states the bounds {values!r}: west, south, east, north are needed"
        ) from None
    if max(map(abs, (west, south, east, north))) > 360.0:
        west, east = (math.degrees(x / EQUATORIAL_RADIUS_M) for x in (west, east))
        south, north = (
            math.degrees(math.atan(math.sinh(y / EQUATORIAL_RADIUS_M))) for y in (south, north)
        )
    return [Bounds(west, south, east, north)]

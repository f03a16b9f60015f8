"""Own pairs: a folder with pairs.csv.

Columns: street, aerial (file names relative to the folder) and metres_per_pixel of the aerial.
Optional: id, split, latitude and longitude, column and row (the street's point in the aerial in
pixels; default: its middle), heading_deg (of the panorama's centre column), horizon,
vertical_fov_deg. Without the last three, the panorama's metadata state the geometry; without
heading_deg, they state the heading. The scale is what the table states: nothing checks it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

import rasterio
from PIL import Image

from model.geo import LatLon, offset
from model.panorama import PanoramaGeometry
from training.data.datasets import list_files
from training.data.pairs import AerialPoint, GalleryTile, Pair, PairError

TABLE = "pairs.csv"
REQUIRED = {"street", "aerial", "metres_per_pixel"}

Row = dict[str, str]  # the cells by column


def splits(root: Path) -> Sequence[str]:
    """The splits that the table names, in its order."""
    return _named([row for _, row in _rows(root)])


def pairs(root: Path, split: str) -> Sequence[Pair]:
    """The rows of pairs.csv with that `split`; all rows for "all"."""
    rows = _rows(root)
    wanted = [at for at in rows if split == "all" or at[1].get("split", "") == split]
    if rows and not wanted:
        known = _known([row for _, row in rows])
        raise PairError(f"{root / TABLE}, split {split!r}: it lists no pairs; {known}")
    return [_pair(root, line, row) for line, row in wanted]


def gallery(root: Path, split: str) -> Sequence[GalleryTile]:
    """The aerial images of the split's rows, each once."""
    by_path = {pair.aerial.path: pair for pair in pairs(root, split)}
    return [_gallery_tile(pair) for pair in by_path.values()]


def _gallery_tile(pair: Pair) -> GalleryTile:
    point = pair.aerial
    middle = _middle(point.path, point.metres_per_pixel)
    if not math.isfinite(middle.column):
        return GalleryTile(pair.tile, middle)
    east = (middle.column - point.column) * point.metres_per_pixel
    north = (point.row - middle.row) * point.metres_per_pixel
    return GalleryTile(pair.tile, middle, pair.position and offset(pair.position, east, north))


def _rows(root: Path) -> list[tuple[int, Row]]:
    table = root / TABLE
    if not table.is_file():
        raise PairError(f"{table} is missing: one row a pair, columns {sorted(REQUIRED)}")
    return list_files.records(table, REQUIRED)


def _named(rows: Sequence[Row]) -> list[str]:
    named = list(dict.fromkeys(row.get("split", "") for row in rows))
    return named if any(named) else []


def _known(rows: Sequence[Row]) -> str:
    """The splits to ask for instead of an absent split."""
    if named := ", ".join(filter(None, _named(rows))):
        return f"it has the splits {named} and all"
    lacking = "its column split is empty" if "split" in rows[0] else "it has no column split"
    return f"{lacking}: use --split all, to measure with it --validation-split all"


def _pair(root: Path, line: int, row: Row) -> Pair:
    table = root / TABLE
    if not row["street"] or not row["aerial"]:
        raise PairError(f"{table}, line {line} is a row without street or aerial: {row}")
    with list_files.fault_at(f"{table}, line {line}, row of {row['street']}"):
        return Pair(
            id=row.get("id") or _name(root, row["street"]),
            street=root / row["street"],
            aerial=_point(root / row["aerial"], row),
            geometry=_geometry(row),
            position=_position(row),
            tile=_name(root, row["aerial"]),
        )


def _name(root: Path, cell: str) -> str:
    """An id for an image: its path from `root`, or its whole path in the letters of a tile id."""
    inside = root.absolute()
    path = inside / Path(cell).with_suffix("")
    if path.is_relative_to(inside):
        return "-".join(path.relative_to(inside).parts)
    whole = "-".join(path.parts[1:])
    return re.sub(r"[^A-Za-z0-9._-]", lambda found: f"_{ord(found[0]):x}", whole)


def _point(path: Path, row: Row) -> AerialPoint:
    scale = float(row["metres_per_pixel"])
    if not 0.0 < scale < math.inf:
        raise ValueError(f"metres_per_pixel is {scale}: it must be above 0")
    given = _both(row, "column", "row")
    if given is None:
        return _middle(path, scale)
    column, line = map(list_files.number, ("column", "row"), given)
    return AerialPoint(path, scale, column, line)


def _middle(path: Path, metres_per_pixel: float) -> AerialPoint:
    """The image's middle; NaN if the image is absent or damaged: other pairs can still be read."""
    try:
        width, height = _size(path)
    except (OSError, Image.DecompressionBombError):
        width = height = math.nan
    return AerialPoint(path, metres_per_pixel, width / 2, height / 2)


def _size(path: Path) -> tuple[float, float]:
    """Width and height, from the image's header."""
    if path.suffix.lower() in (".tif", ".tiff"):
        with rasterio.open(path) as raster:
            return raster.width, raster.height
    with Image.open(path) as image:
        return image.size


def _geometry(row: Row) -> PanoramaGeometry | None:
    heading, horizon, fov = (row.get(k) for k in ("heading_deg", "horizon", "vertical_fov_deg"))
    if not (heading or horizon or fov):
        return None
    return PanoramaGeometry(
        north=PanoramaGeometry.north_of(list_files.number("heading_deg", heading))
        if heading
        else None,
        horizon=list_files.number("horizon", horizon or 0.5),
        vertical_fov_deg=list_files.number("vertical_fov_deg", fov) if fov else None,
    )


def _position(row: Row) -> LatLon | None:
    given = _both(row, "latitude", "longitude")
    return list_files.position(*given) if given else None


def _both(row: Row, *names: str) -> list[str] | None:
    """Two cells that need each other; None if both are empty. Raises ValueError."""
    cells = [row.get(name, "") for name in names]
    if any(cells) and not all(cells):
        stated, lacking = names if cells[0] else reversed(names)
        raise ValueError(f"it has a {stated} but no {lacking}: give both or neither")
    return cells if any(cells) else None

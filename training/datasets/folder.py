"""Own pairs: a folder with pairs.csv.

Columns: street, aerial (file names relative to the folder) and metres_per_pixel of the aerial;
optional: id, split, latitude, longitude, column, row (where the street stands in the aerial, in
pixels; its middle by default), heading_deg (of the panorama's centre column; its metadata by
default), horizon, vertical_fov_deg.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from model.geo import LatLon, offset
from model.panorama import PanoramaGeometry
from training.pairs import AerialView, Pair, PairError, Reference

MARK = "pairs.csv"
SPLITS: dict[str, int] = {}  # whatever the table names
STREET_SIZE = AERIAL_SIZE = None
REQUIRED = {"street", "aerial", "metres_per_pixel"}


def pairs(root: Path, split: str) -> Sequence[Pair]:
    """The rows of pairs.csv whose `split` is the one named; all of them for "all"."""
    table = root / "pairs.csv"
    if not table.is_file():
        raise PairError(f"{table} is missing: one row a pair, columns {sorted(REQUIRED)}")
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if rows and not rows[0].keys() >= REQUIRED:
        raise PairError(f"{table} lacks the columns {sorted(REQUIRED - rows[0].keys())}")
    wanted = [row for row in rows if split == "all" or row.get("split") == split]
    return [_pair(root, row, table) for row in wanted]


def references(root: Path, split: str) -> Sequence[Reference]:
    """The aerial images of the split's rows, each once."""
    return [
        _reference(pair) for pair in {one.aerial.path: one for one in pairs(root, split)}.values()
    ]


def _reference(pair: Pair) -> Reference:
    view = pair.aerial
    if not view.path.is_file():
        return Reference(pair.tile, view)
    middle = _middle(view.path, view.metres_per_pixel)
    east = (middle.column - view.column) * view.metres_per_pixel
    north = (view.row - middle.row) * view.metres_per_pixel
    place = pair.position and offset(pair.position, east, north)
    return Reference(pair.tile, middle, place)


def _pair(root: Path, row: dict[str, str], table: Path) -> Pair:
    if not row["street"] or not row["aerial"]:
        raise PairError(f"{table} has a row without street or aerial: {row}")
    street, aerial = root / row["street"], root / row["aerial"]
    try:
        return Pair(
            id=row.get("id") or street.stem,
            street=street,
            aerial=_view(aerial, row),
            geometry=_geometry(row),
            position=_position(row),
            tile="-".join(Path(row["aerial"]).with_suffix("").parts),
        )
    except (ValueError, TypeError, OSError) as error:
        raise PairError(f"{table}, row of {row['street']}: {error}") from error


def _view(path: Path, row: dict[str, str]) -> AerialView:
    scale = float(row["metres_per_pixel"])
    if row.get("column") and row.get("row"):
        return AerialView(path, scale, float(row["column"]), float(row["row"]))
    # An absent image has no middle; its pair is counted as absent and never read.
    return _middle(path, scale) if path.is_file() else AerialView(path, scale, 0.0, 0.0)


def _middle(path: Path, metres_per_pixel: float) -> AerialView:
    with Image.open(path) as image:
        width, height = image.size
    return AerialView(path, metres_per_pixel, width / 2, height / 2)


def _geometry(row: dict[str, str]) -> PanoramaGeometry | None:
    heading = row.get("heading_deg")
    if not heading:
        return None
    fov = row.get("vertical_fov_deg")
    return PanoramaGeometry(
        north=PanoramaGeometry.north_of(float(heading)),
        horizon=float(row.get("horizon") or 0.5),
        vertical_fov_deg=float(fov) if fov else None,
    )


def _position(row: dict[str, str]) -> LatLon | None:
    latitude, longitude = row.get("latitude"), row.get("longitude")
    return LatLon(float(latitude), float(longitude)) if latitude and longitude else None

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

from model.geo import LatLon
from model.panorama import PanoramaGeometry
from training.pairs import AerialView, Pair, PairError

REQUIRED = {"street", "aerial", "metres_per_pixel"}


def load(root: Path, split: str) -> Sequence[Pair]:
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


def _pair(root: Path, row: dict[str, str], table: Path) -> Pair:
    # A row that is too short leaves None; the folder itself then is what is named.
    street, aerial = root / (row["street"] or ""), root / (row["aerial"] or "")
    for path in (street, aerial):
        if not path.is_file():
            raise PairError(f"{table} names {path}, which is not there")
    try:
        return Pair(
            id=row.get("id") or street.stem,
            street=street,
            aerial=_view(aerial, row),
            geometry=_geometry(row),
            position=_position(row),
        )
    except (ValueError, TypeError, OSError) as error:
        raise PairError(f"{table}, row of {row['street']}: {error}") from error


def _view(path: Path, row: dict[str, str]) -> AerialView:
    column, line = row.get("column"), row.get("row")
    if not column or not line:
        with Image.open(path) as image:
            width, height = image.size
        return AerialView(path, float(row["metres_per_pixel"]), width / 2, height / 2)
    return AerialView(path, float(row["metres_per_pixel"]), float(column), float(line))


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

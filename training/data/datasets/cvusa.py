"""CVUSA: 35,532 training and 8,884 validation pairs, aligned to north.

Layout: splits/{train,val}-19zl.csv, bingmap/19/, streetview/panos/, and optionally
split_locations/all.csv with the coordinates (row i is id i).

Published: level 19 of Web Mercator, the street at the aerial's middle, north at the panorama's
middle. Lane dashes, which repeat every 40 feet, confirm the scale to 1 %. Estimated: the horizon
(4 rows) and the vertical field of view (1 degree).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from model.geo import LatLon
from model.panorama import PanoramaGeometry
from training.data.datasets import list_files
from training.data.pairs import AerialPoint, Pair, PairError

AERIAL_SIZE = (750, 750)
# The panoramas are cut to about 65 degrees; their horizon lies near row 128 of 224.
GEOMETRY = PanoramaGeometry(north=0.5, horizon=128 / 224, vertical_fov_deg=65.0)
# Ground resolution of the tiles, which are Web Mercator's level 19, at the equator.
METRES_PER_PIXEL_AT_EQUATOR = 0.2986


def pairs(root: Path, split: str) -> Sequence[Pair]:
    """The listed pairs; without coordinates, the ground resolution of latitude 38."""
    names = ["train", "val"] if split == "all" else [split]
    positions = _positions(root / "split_locations" / "all.csv")
    files = [root / "splits" / f"{name}-19zl.csv" for name in names]
    return [pair for path in files for pair in _listed(root, path, positions)]


def _listed(root: Path, path: Path, positions: Sequence[LatLon]) -> Iterator[Pair]:
    if not path.is_file():
        raise PairError(f"{path} is missing: is this the root of CVUSA?")
    for line, cells in list_files.rows(path):
        with list_files.fault_at(f"{path}, line {line} is no pair of files"):
            yield _pair(root / cells[0], root / cells[1], positions)


def _positions(path: Path) -> list[LatLon]:
    if not path.is_file():
        at_root = path.parents[1] / path.name
        hint = f"; {at_root} exists: move it there" if at_root.is_file() else ""
        list_files.warn_once(f"{path} is absent: the pairs have no coordinates{hint}")
        return []
    positions = []
    for line, cells in list_files.rows(path):
        with list_files.fault_at(f"{path}, line {line} is no position"):
            positions.append(list_files.position(cells[2], cells[3]))
    return positions


def _pair(aerial: Path, street: Path, positions: Sequence[LatLon]) -> Pair:
    number = int(aerial.stem)
    position = positions[number - 1] if number <= len(positions) else None
    # Without coordinates, the middle of the contiguous United States: within 20 % there.
    latitude = 38.0 if position is None else position.latitude
    scale = METRES_PER_PIXEL_AT_EQUATOR * math.cos(math.radians(latitude))
    centre = AERIAL_SIZE[0] / 2
    return Pair(
        id=f"{number:07d}",
        street=street,
        aerial=AerialPoint(aerial, scale, centre, centre),
        geometry=GEOMETRY,
        position=position,
    )

"""CVUSA: 35,532 training and 8,884 validation pairs, aligned to north.

Layout: splits/{train,val}-19zl.csv, bingmap/19/, streetview/panos/, and where it is held
split_locations/all.csv with the coordinates (row i is id i).
"""

from __future__ import annotations

import csv
import logging
import math
from collections.abc import Sequence
from pathlib import Path

from model.geo import LatLon
from model.panorama import PanoramaGeometry
from training.pairs import AerialView, Pair, PairError

log = logging.getLogger(__name__)

# The panoramas are cut to about 65 degrees; their horizon lies near row 128 of 224.
GEOMETRY = PanoramaGeometry(north=0.5, horizon=128 / 224, vertical_fov_deg=65.0)
AERIAL_PIXELS = 750
# Ground resolution of the tiles, which are Web Mercator's level 19, at the equator.
METRES_PER_PIXEL_AT_EQUATOR = 0.2986
SPLITS = {"train": "train-19zl.csv", "val": "val-19zl.csv"}


def load(root: Path, split: str) -> Sequence[Pair]:
    """The pairs of "train", "val" or "all" of which both images are there; the rest is logged."""
    names = list(SPLITS) if split == "all" else [split]
    if not set(names) <= SPLITS.keys():
        raise PairError(f"CVUSA has the splits train, val and all, not {split!r}")
    listed = [row for name in names for row in _rows(root / "splits" / SPLITS[name])]
    positions = _positions(root / "split_locations" / "all.csv")
    pairs = [_pair(root, row[0], row[1], positions) for row in listed]
    present = [one for one in pairs if one.aerial.path.is_file() and one.street.is_file()]
    missing = len(pairs) - len(present)
    if missing:
        log.warning("CVUSA %s: %d of %d listed pairs are absent", split, missing, len(pairs))
    return present


def _rows(path: Path) -> list[list[str]]:
    if not path.is_file():
        raise PairError(f"{path} is missing: is this the root of CVUSA?")
    with path.open(newline="") as file:
        return [row for row in csv.reader(file) if row]


def _positions(path: Path) -> list[LatLon]:
    if not path.is_file():
        log.warning("%s is absent: the pairs have no coordinates", path)
        return []
    with path.open(newline="") as file:
        return [LatLon(float(row[2]), float(row[3])) for row in csv.reader(file) if row]


def _pair(root: Path, aerial: str, street: str, positions: Sequence[LatLon]) -> Pair:
    number = int(Path(aerial).stem)
    position = positions[number - 1] if number <= len(positions) else None
    # Without coordinates, the middle of the contiguous United States: within 20 % there.
    latitude = 38.0 if position is None else position.latitude
    scale = METRES_PER_PIXEL_AT_EQUATOR * math.cos(math.radians(latitude))
    centre = AERIAL_PIXELS / 2
    return Pair(
        id=f"{number:07d}",
        street=root / street,
        aerial=AerialView(root / aerial, scale, centre, centre),
        geometry=GEOMETRY,
        position=position,
    )

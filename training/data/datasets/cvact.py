"""CVACT: Canberra; 35,532 training, 8,884 validation and 92,802 test pairs, aligned to north.

Layout: ACT_data.mat; ANU_data_small (train, val) and ANU_data_test (test), each with
streetview/<id>_grdView.jpg and satview_polish/<id>_satView_polish.jpg. The validation pairs are
among the test pairs: 35,532 + 92,802 is all that was published.

Published: the street lies at the aerial's middle, north is the panorama's middle. Measured: the
scale (`METRES_PER_PIXEL_AT_EQUATOR`). Inferred: the UTM zone, which the file does not name.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rasterio.warp import transform
from scipy.io import loadmat

from model.file_kind import MATLAB_5, kind_of_file
from model.geo import LatLon
from model.panorama import PanoramaGeometry
from training.data.datasets import list_files
from training.data.pairs import AerialPoint, Pair, PairError

TABLE = "ACT_data.mat"
AERIAL_SIZE = (1200, 1200)
GEOMETRY = PanoramaGeometry()  # the full sphere, its centre column north
# Web Mercator's level 20, fetched at twice its resolution: 73 m a tile. The paper states 0.12 m per
# pixel; the give-way lines of a tile, which repeat every 1.2 m, measure 0.0607 at latitude 35.3.
METRES_PER_PIXEL_AT_EQUATOR = 0.149291 / 2
POSITIONS_CRS = "EPSG:32755"  # the file names no zone; Canberra lies in UTM 55 south
UTM_EAST, UTM_NORTH = (0.0, 1e6), (0.0, 1e7)  # metres: the zone and some more
INDICES = {
    "train": ("trainSet", "trainInd"),
    "val": ("valSet", "valInd"),
    "test": ("valSetAll", "valInd"),
}


def pairs(root: Path, split: str) -> Sequence[Pair]:
    """The pairs of ACT_data.mat; "all" is train and val."""
    names = ["train", "val"] if split == "all" else [split]
    path = root / TABLE
    content = _read(path)
    try:
        ids = [str(name).strip() for name in np.atleast_1d(content["panoIds"])]
        fields = [INDICES[name] for name in names]
        rows = np.concatenate([np.atleast_1d(content[group][key]) for group, key in fields]) - 1
        utm = np.asarray(content["utm"], np.float64).reshape(len(ids), 2)[rows]
        chosen = [ids[row] for row in rows]
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise PairError(f"{path} does not hold CVACT's tables: {error!r}") from error
    for name, (east, north) in zip(chosen, utm.tolist(), strict=True):
        # The transform of all pairs would fail without a name.
        with list_files.fault_at(f"{path}, {name}"):
            list_files.number("utm east", east, *UTM_EAST)
            list_files.number("utm north", north, *UTM_NORTH)
    longitudes, latitudes = transform(POSITIONS_CRS, "EPSG:4326", utm[:, 0], utm[:, 1])
    folder = root / ("ANU_data_test" if split == "test" else "ANU_data_small")
    positions = map(LatLon, latitudes, longitudes)
    return [_pair(folder, *row) for row in zip(chosen, positions, strict=True)]


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        elsewhere = next(path.parent.glob(f"*/{path.name}"), None)
        hint = f"; {elsewhere} exists: give the folder that holds it and ANU_data_small"
        raise PairError(f"{path} is missing: is this the root of CVACT?{hint if elsewhere else ''}")
    try:
        content: dict[str, Any] = loadmat(path, simplify_cells=True)
    except Exception as error:  # a damaged file fails anywhere in its parser
        kind = kind_of_file(path) or "no MATLAB file"
        if kind == MATLAB_5:
            kind = f"cut off or damaged: copy it again ({error!r})"
        raise PairError(f"{path} is {kind}") from error
    return content


def _pair(folder: Path, name: str, position: LatLon) -> Pair:
    scale = METRES_PER_PIXEL_AT_EQUATOR * math.cos(math.radians(position.latitude))
    aerial = folder / "satview_polish" / f"{name}_satView_polish.jpg"
    centre = AERIAL_SIZE[0] / 2
    return Pair(
        id=name,
        street=folder / "streetview" / f"{name}_grdView.jpg",
        aerial=AerialPoint(aerial, scale, centre, centre),
        geometry=GEOMETRY,
        position=position,
    )

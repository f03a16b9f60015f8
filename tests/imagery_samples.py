"""Small imagery, written by the tests."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from PIL import Image

from model.images import Rgb

UTM_33N = "EPSG:32633"
EAST_M, NORTH_M = 500_000.0, 5_540_000.0  # on the central meridian: grid north is true north


def patchwork(height: int, width: int, seed: int = 0, cell: int = 16) -> Rgb:
    """Random coloured cells: every tile of it looks different."""
    random = np.random.default_rng(seed)
    cells = random.integers(1, 256, (-(-height // cell), -(-width // cell), 3), dtype=np.uint8)
    return np.repeat(np.repeat(cells, cell, 0), cell, 1)[:height, :width]


def write_raster(
    path: Path,
    image: NDArray[np.generic],
    *,
    crs: str | None = UTM_33N,
    transform: Any = None,
    resolution_m: float = 0.5,
    mask: NDArray[np.uint8] | None = None,
    **profile: Any,
) -> Path:
    """(H, W, C) as a GeoTIFF, by default with its north-west corner at EAST_M, NORTH_M."""
    height, width, bands = image.shape
    if transform is None:
        transform = Affine(resolution_m, 0.0, EAST_M, 0.0, -resolution_m, NORTH_M)
    with rasterio.open(
        path, "w", driver="GTiff", height=height, width=width, count=bands, dtype=image.dtype,
        crs=crs, transform=transform, **profile,
    ) as raster:  # fmt: skip
        raster.write(np.moveaxis(image, -1, 0))
        if mask is not None:
            raster.write_mask(mask)
    return path


def write_folder(folder: Path, count: int = 4, size_m: float = 64.0, side: int = 96) -> Path:
    """`count` images 0.png, 1.png ... 100 m apart, with their tiles.csv."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(count):
        Image.fromarray(patchwork(side, side, seed=number)).save(folder / f"{number}.png")
        rows.append([number, 50.0 + number * 0.0009, 15.0, size_m])
    write_rows(folder, ["id", "latitude", "longitude", "size_m"], rows)
    return folder


def write_rows(folder: Path, header: list[str], rows: list[list[Any]]) -> None:
    with (folder / "tiles.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])

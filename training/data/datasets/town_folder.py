"""Procedural towns that `skyfix-train synth` wrote: a raster, panoramas and true poses.

The files state scale (the raster), place (poses.csv) and north (the panoramas' GPano), exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import rasterio
from rasterio.warp import transform

from training.data.datasets import list_files
from training.data.pairs import AerialPoint, Pair, PairError

TABLE = "poses.csv"


def pairs(root: Path, split: str) -> Sequence[Pair]:
    """All panoramas of the town at `root`, or of every town folder in it; `split` must be "all".

    The geometry comes from the panoramas' own GPano, as in serving.
    """
    if split != "all":
        raise PairError(f"a town has only the split 'all', not {split!r}: give other seeds instead")
    tables = sorted(root.glob(TABLE)) or sorted(root.glob(f"*/{TABLE}"))
    if not tables:
        raise PairError(f"no town at {root}: make one with `skyfix-train synth`")
    return [pair for table in tables for pair in _town(table)]


def _town(table: Path) -> list[Pair]:
    folder, raster = table.parent, table.parent / "aerial.tif"
    records = list_files.records(table, ("id", "file", "latitude", "longitude"))
    positions = []
    for line, row in records:
        try:
            positions.append(list_files.position(row["latitude"], row["longitude"]))
        except ValueError as error:
            raise ValueError(f"{table}, line {line}: {error}") from error
    with rasterio.open(raster) as image:
        east, north = transform(
            "EPSG:4326",
            image.crs,
            [position.longitude for position in positions],
            [position.latitude for position in positions],
        )
        pixels = [~image.transform @ point for point in zip(east, north, strict=True)]
        metres_per_pixel = float(image.res[0])
    return [
        Pair(
            id=f"{folder.name}/{row['id']}",
            street=folder / row["file"],
            aerial=AerialPoint(raster, metres_per_pixel, column, line),
            position=position,
        )
        for (_, row), position, (column, line) in zip(records, positions, pixels, strict=True)
    ]

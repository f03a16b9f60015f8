"""Map tiles coloured by the positions of their pixels, by PROJ alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyproj
from PIL import Image

from model.geo import LatLon

TO_MERCATOR = pyproj.Transformer.from_crs(4326, 3857, always_xy=True)
HALF_M = 20037508.342789244
ORIGIN = LatLon(60.0, 179.9995)  # some cuts cross the dateline
SCALE_M = 200.0  # colours run from 0 to 255 over this many metres

Layout = Callable[[int, int, int], str]  # zoom, column, row from the north: path without suffix


def xyz(zoom: int, column: int, row: int) -> str:
    return f"{zoom}/{column}/{row}"


def tms(zoom: int, column: int, row: int) -> str:
    return f"{zoom}/{column}/{2**zoom - 1 - row}"


def quadkey(zoom: int, column: int, row: int) -> str:
    bits = zip(f"{column:0{zoom}b}", f"{row:0{zoom}b}", strict=True)
    return "a" + "".join(str(int(x) + 2 * int(y)) for x, y in bits)


def colour(east_m: np.ndarray, north_m: np.ndarray) -> np.ndarray:
    """uint8 (..., 3): the position of a pixel relative to ORIGIN, as a colour."""
    ramps = [np.clip((m / SCALE_M + 0.5) * 255.0, 1, 255) for m in (east_m, north_m)]
    return np.stack([*ramps, np.full_like(ramps[0], 128)], axis=-1).round().astype(np.uint8)


def write_map_tiles(
    folder: Path,
    levels: tuple[int, ...],
    reach: int = 1,
    suffix: str = "png",
    layout: Layout = xyz,
    side: int = 256,
) -> Path:
    """The map tiles around ORIGIN, coloured by position; one of level 17 is 153 m wide."""
    x0, y0 = TO_MERCATOR.transform(ORIGIN.longitude, ORIGIN.latitude)
    for zoom in levels:
        tiles, pixel = 2**zoom, 2 * HALF_M / 2**zoom / side
        column, line = int((x0 + HALF_M) / pixel) // side, int((HALF_M - y0) / pixel) // side
        for x in range(column - reach, column + reach + 1):
            for y in range(line - reach, line + reach + 1):
                at = (np.arange(side) + 0.5) * pixel
                # 0.50126 and 0.50042: of WGS84 at 60 degrees, east and north
                east = (at + x * side * pixel - HALF_M - x0)[None, :] * 0.50126
                north = (HALF_M - y * side * pixel - at - y0)[:, None] * 0.50042
                picture = colour(*np.broadcast_arrays(east, north))
                file = folder / f"{layout(zoom, x % tiles, y)}.{suffix}"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture).save(file, quality=95)
    return folder

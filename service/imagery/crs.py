"""Coordinate reference systems (CRS): points projected between them, and where they wrap."""

from __future__ import annotations

import re

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio._err import CPLE_AppDefinedError
from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.warp import transform

from service.imagery.reading import ReadingError

Pair = tuple[NDArray[np.float64], NDArray[np.float64]]  # x, y

WGS84 = CRS.from_epsg(4326)
WRAP_STEP = 15.0  # degrees between the points that `wrap_width` compares


def parse_crs(text: str) -> CRS:
    """The CRS that a user names.

    Raises:
        ReadingError: PROJ knows no such CRS.
    """
    try:
        with rasterio.Env():  # without, PROJ's errors go to the terminal
            return CRS.from_user_input(f"EPSG:{text}" if text.isdecimal() else text)
    except CRSError as error:
        raise ReadingError(
            f"the CRS {text!r} is not known: give a code such as EPSG:32633, or WKT"
        ) from error


def project(source: CRS, target: CRS, xs: list[float], ys: list[float]) -> Pair:
    """Coordinates in the target; NaN where there are none, sometimes for all points if for one.

    Raises:
        rasterio._err.CPLE_NotSupportedError: no transformation joins the two CRSs.
    """
    try:
        found = np.array(transform(source, target, xs, ys))
    except CPLE_AppDefinedError:  # "Point outside of projection domain"
        found = np.full((2, len(xs)), np.nan)
    found[~np.isfinite(found)] = np.nan
    return found[0], found[1]


def wrap_width(crs: CRS) -> float:
    """How much further east a CRS shows the same place again.

    360 degrees, or the width of Mercator's world in metres; 0 where the CRS is no such cylinder.
    """
    if crs.is_geographic:
        return 360.0
    longitudes = np.tile(np.arange(-180.0, 180.0, WRAP_STEP), 2)
    latitudes = np.repeat([0.0, 60.0], longitudes.size // 2)
    xs, ys = project(WGS84, crs, longitudes.tolist(), latitudes.tolist())
    if np.isnan(xs).any():
        return 0.0
    steps = np.diff(xs.reshape(2, -1))
    step = float(np.median(steps))
    # One step of each row may lead over the edge of the map.
    even = np.isclose(steps, step, rtol=1e-6).sum() >= steps.size - 2
    level = np.ptp(ys.reshape(2, -1), axis=1).max() <= 1e-6 * abs(step)
    return abs(step) * 360.0 / WRAP_STEP if even and level else 0.0


def crs_name(crs: CRS) -> str:
    """The name in the CRS's definition, which may be pages long."""
    found = re.search(r'"([^"]*)"', crs.to_wkt())
    return found[1] if found else "without a name"

"""Rasters without a CRS, placed by ground control points (GCPs): warped to where the points say.

GDAL fits a polynomial of first or second order to the points. The polynomial misses points of radar
over mountains by 200 m (Sentinel-1, measured). Where it misses a point by more than MAX_MISFIT, the
image is bent through every point instead, by a thin plate spline. GDAL approximates both warps, to
0.2 of a pixel on that image.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from rasterio import DatasetReader
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import RasterioError
from rasterio.transform import GCPTransformer
from rasterio.vrt import WarpedVRT

from service.imagery.source import SourceError

log = logging.getLogger(__name__)

FEWEST = 3  # points that place a raster
MAX_MISFIT = 0.5  # pixels
MOST_BENT = 1000  # points: a spline's set-up grows with the cube of their number


def warped(raster: DatasetReader, path: Path, crs: CRS, nodata: float | None) -> WarpedVRT:
    """The raster in its points' CRS, north up, with an alpha band.

    Args:
        nodata: the value that stands for no imagery; None: as the raster says.

    Raises:
        SourceError: no map goes through the points, for example where all lie on one line.
    """
    try:
        bent = {"METHOD": "GCP_TPS"} if _is_bent(raster) else {}
        mixed = raster.colorinterp[0] != ColorInterp.palette  # a palette's numbers have no mean
        how = Resampling.bilinear if mixed else Resampling.nearest
        stated = {} if nodata is None else {"src_nodata": nodata}
        lacks_alpha = ColorInterp.alpha not in raster.colorinterp
        return WarpedVRT(
            raster, src_crs=crs, crs=crs, add_alpha=lacks_alpha, resampling=how, **stated, **bent
        )
    except (RasterioError, CPLE_BaseError, ValueError) as error:
        raise SourceError(
            f"{path.name}: its ground control points do not place it: {error}: correct them, for "
            "example with gdal_edit.py -gcp"
        ) from error


def _is_bent(raster: DatasetReader) -> bool:
    """Whether the polynomial misses a point, and a spline can go through all points."""
    points, _ = raster.gcps
    places, pixels = [(p.x, p.y) for p in points], [(p.row, p.col) for p in points]
    with GCPTransformer(points) as polynomial:
        rows, columns = polynomial.rowcol(*map(list, zip(*places, strict=True)), op=float)
    misfit = float(np.hypot(*(np.array([rows, columns]) - np.transpose(pixels))).max())
    can_bend = len(points) <= MOST_BENT and len(set(places)) == len(set(pixels)) == len(points)
    if misfit > MAX_MISFIT and not can_bend:
        log.warning("%s: lies up to %.1f pixels from its control points", raster.name, misfit)
    return misfit > MAX_MISFIT and can_bend

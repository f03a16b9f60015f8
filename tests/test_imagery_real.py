"""Real rasters are cut to the pixel where independent geodesy says, or refused with the reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from imagery_oracle import ACROSS, largest_error, rows_and_columns, tiles_of
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from service.imagery.raster import RasterSource
from service.imagery.source import SourceError

REAL = Path(__file__).parents[2] / "shared" / "real" / "georaster"
UNPLACED = "rotated.tif"  # a transform, but no CRS
PLACED = sorted(path for path in REAL.glob("*.tif") if path.name != UNPLACED)

pytestmark = [
    pytest.mark.skipif(not REAL.is_dir(), reason="the real rasters are not here"),
    pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning"),
]
placed = pytest.mark.parametrize("path", PLACED, ids=lambda path: path.stem[-12:])


def test_a_raster_without_a_crs_is_refused() -> None:
    with pytest.raises(SourceError, match="names no coordinate reference system"):
        RasterSource(REAL / UNPLACED)


@placed
def test_every_pixel_lies_where_geodesy_says(path: Path, tmp_path: Path) -> None:
    """Tiles of 64 pixels of 900 m bend by 0.07 of a pixel; GDAL approximates the warp of control
    points within 0.125."""
    tolerance = 0.25 if path.name == "cog_gcps.tif" else 0.15
    assert largest_error(path, tmp_path) < tolerance


@placed
def test_tiles_show_the_rasters_own_pixels(path: Path) -> None:
    """A tile agrees best at its own pixels; where nothing is stretched, its centre is equal."""
    source = RasterSource(path)
    with rasterio.open(path) as raster:
        image, mask = raster.read(1).astype(float), raster.dataset_mask()

    def own(at: NDArray[np.float64], down: int = 0, right: int = 0) -> NDArray[np.float64]:
        return map_coordinates(image, [at[0] + down, at[1] + right], order=1)

    looked_at = 0
    for cut in tiles_of(source, path):
        at = rows_and_columns(path, cut, ACROSS)
        picture = source.read(cut, ACROSS).pixels[..., 0].astype(float)
        if map_coordinates(mask, at, order=0).min() == 0 or np.ptp(picture) == 0.0:
            continue  # a collar
        looked_at += 1
        shifts = [(0, 0), (0, 1), (0, -1), (1, 0), (-1, 0)]
        alike = [np.corrcoef(picture.flat, own(at, *shift).flat)[0, 1] for shift in shifts]
        assert alike[0] > 0.9  # radar's speckle, bilinear twice: 0.95
        assert alike[0] > max(alike[1:])
        if source.value_range is None:
            middle = slice(ACROSS // 2 - 1, ACROSS // 2 + 1)
            assert np.abs(picture - own(at))[middle, middle].max() < 1.5  # Pillow cuts fractions
    assert looked_at >= 1


def test_the_dateline_is_crossed() -> None:
    source = RasterSource(REAL / "cog_dateline.tif")
    longitudes = [cut.centre.longitude for cut in source.cuts(20_000.0, 10_000.0)]
    assert min(longitudes) < -178.0
    assert max(longitudes) > 179.0

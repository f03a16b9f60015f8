"""Control points place a raster to the pixel, or it is refused with the reason."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import rasterio
from imagery_oracle import largest_error
from imagery_samples import EAST_M, NORTH_M, patchwork
from rasterio.control import GroundControlPoint

from service.imagery import control_points
from service.imagery.raster import RasterSource
from service.imagery.source import SourceError

SIDE = 300
STEP = 50

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def write_placed(path: Path, points: list[GroundControlPoint]) -> Path:
    with rasterio.open(
        path, "w", driver="GTiff", height=SIDE, width=SIDE, count=3, dtype="uint8", gcps=points,
        crs="EPSG:32633",
    ) as raster:  # fmt: skip
        raster.write(np.moveaxis(patchwork(SIDE, SIDE), -1, 0))
    return path


def point(row: float, column: float, bend_m: float = 0.0) -> GroundControlPoint:
    """A point at half a metre a pixel, bent to the east and back, as slopes bend radar."""
    east_m = bend_m * np.sin(2.0 * np.pi * row / SIDE)
    return GroundControlPoint(row, column, EAST_M + column * 0.5 + east_m, NORTH_M - row * 0.5)


@pytest.mark.parametrize("bend_m", [0.0, 0.2, 1.0])
def test_a_raster_lies_where_its_points_say(bend_m: float, tmp_path: Path) -> None:
    places = range(0, SIDE + 1, STEP)
    points = [point(row, column, bend_m) for row in places for column in places]
    misfit = 0.4 if bend_m == 0.2 else 0.0  # pixels: too little to bend the raster for
    assert largest_error(write_placed(tmp_path / "a.tif", points), tmp_path) < 0.25 + misfit


def test_points_that_no_spline_can_join_are_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    corners = [point(row, column) for row in (0, SIDE) for column in (0, SIDE)]
    twice = GroundControlPoint(
        SIDE, SIDE, EAST_M, NORTH_M
    )  # a pixel that another point places elsewhere
    RasterSource(write_placed(tmp_path / "a.tif", [*corners, twice]))
    assert re.search(r"a\.tif: lies up to \d+\.\d pixels from its control points", caplog.text)


def test_points_on_a_line_are_refused(tmp_path: Path) -> None:
    on_a_line = [point(at, at) for at in (0, 100, 200, 300)]
    with pytest.raises(SourceError, match=r"control points do not place it: .*gdal_edit\.py"):
        RasterSource(write_placed(tmp_path / "a.tif", on_a_line))


def test_a_palette_keeps_its_colours(tmp_path: Path) -> None:
    path, turned = tmp_path / "a.tif", []
    for row in (0, SIDE):
        for column in (0, SIDE):
            east_m, north_m = column * 0.5 + row * 0.1, column * 0.1 - row * 0.5
            turned.append(GroundControlPoint(row, column, EAST_M + east_m, NORTH_M + north_m))
    with rasterio.open(
        path, "w", driver="GTiff", height=SIDE, width=SIDE, count=1, dtype="uint8", gcps=turned,
        crs="EPSG:32633",
    ) as raster:  # fmt: skip
        raster.write((patchwork(SIDE, SIDE)[..., 0] > 128).astype(np.uint8) * 200, 1)
        raster.write_colormap(
            1, dict.fromkeys(range(256), (0, 255, 0)) | {0: (250, 0, 0), 200: (0, 0, 250)}
        )
    with (
        rasterio.open(path) as raster,
        control_points.warped(raster, path, raster.gcps[1], None) as warped,
    ):
        assert set(np.unique(warped.read(1))) == {0, 200}

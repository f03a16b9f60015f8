"""Tiles read together are the tiles read alone, wherever a run begins and ends."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from imagery_samples import patchwork, write_raster
from test_imagery_raster import CRSES

from model.geo import LatLon, offset
from service.imagery.grid import Extent, grid_place, latitude_at, rows, tile_id
from service.imagery.gridded_source import GriddedSource, Strip
from service.imagery.mosaic import MosaicSource
from service.imagery.parallelogram import View
from service.imagery.raster import RasterSource
from service.imagery.source import Cut, Ground, Source

PIXELS = 64


def written(folder: Path, name: str) -> Path:
    crs, (left, top), resolution = CRSES[name]
    north_west = Affine(resolution, 0.0, left, 0.0, -resolution, top)
    return write_raster(folder / "a.tif", patchwork(600, 600, 24), crs=crs, transform=north_west)


def read_in_runs(source: Source, cuts: list[Cut]) -> list[np.ndarray]:
    runs = source.runs(cuts, PIXELS)
    return [picture.pixels for run in runs for picture in source.read_run(run, PIXELS)]


@pytest.mark.parametrize("name", CRSES)
def test_a_strip_shows_what_each_tile_shows(name: str, tmp_path: Path) -> None:
    source = RasterSource(written(tmp_path, name))
    size_m = 8.0 * round(5.0 * source.resolution_m())  # an id holds six digits of the stride
    cuts = list(source.cuts(size_m, size_m / 4.0))
    cuts = cuts[:60] + cuts[len(cuts) // 2 :][:120]
    together = np.stack(read_in_runs(source, cuts)).astype(int)
    alone = np.stack([source.read(cut, PIXELS).pixels for cut in cuts]).astype(int)
    assert sum(1 for _ in source.runs(cuts, PIXELS)) < len(cuts) / 6
    # A tenth of a pixel's shift would be seen: edges of the patchwork are 100 levels high.
    assert np.abs(together - alone).mean() < 1.0


def test_a_tiles_pixels_do_not_depend_on_its_run(tmp_path: Path) -> None:
    source = MosaicSource(written(tmp_path, "utm").parent)
    cuts = list(source.cuts(32.0, 8.0))[:200]
    whole = dict(zip(cuts, read_in_runs(source, cuts), strict=True))
    some = cuts[5::3]
    for cut, pixels in zip(some, read_in_runs(source, some), strict=True):
        assert (pixels == whole[cut]).all()


def test_every_cut_comes_once_and_in_order(tmp_path: Path) -> None:
    source = RasterSource(written(tmp_path, "utm"))
    for stride_m in (8.0, 7.1, 32.0):  # 7.1 m: neighbours are no whole pixels apart
        cuts = list(source.cuts(32.0, stride_m))
        assert [cut for run in source.runs(cuts, PIXELS) for cut in run] == cuts
    assert {len(run) for run in source.runs(source.cuts(32.0, 7.1), PIXELS)} == {1}


@pytest.mark.parametrize("stride_m", [0.25, 16.0, 21.5, 1e6, 1e7])
@pytest.mark.parametrize("row", [-350123, 0, 7])
def test_a_name_says_its_place(stride_m: float, row: int) -> None:
    assert grid_place(tile_id("a-town-3m-n1-e2", stride_m, row, 4711)) == (stride_m, row, 4711)


@pytest.mark.parametrize("name", ["town", "town-16m-n1", "town-xm-n1-e1", "a-16m-n1-e1.jpg"])
def test_other_names_say_none(name: str) -> None:
    assert grid_place(name) is None


def test_a_name_that_lies_is_cut_where_it_is() -> None:
    place = LatLon(latitude_at(350_000 * 16.0), 13.0)
    (row,) = rows(Extent(13.0, place.latitude - 1e-6, 13.01, place.latitude + 1e-6), 16.0)
    there = LatLon(row.latitude, row.longitudes[3])
    name = tile_id("town", 16.0, row.row, int(row.columns[3]))
    assert Strip.of(Cut(name, there, 64.0), 128) is not None
    assert Strip.of(Cut(name, offset(there, 0.01, 0.0), 64.0), 128) is None


class Meridians(GriddedSource):
    """Shows each place's longitude, as degrees east of the dateline times a thousand."""

    def look(self, ground: Ground, shape: tuple[int, int]) -> View:
        corners = [corner.longitude % 360.0 - 180.0 for corner in ground.corners()]
        across = np.linspace(corners[0], corners[1], shape[1], dtype=np.float64) * 1e4 + 128.0
        light = np.broadcast_to(across[None, :, None], (*shape, 3)).astype(np.float32)
        full = np.ones(shape, np.float32)
        return View(light, full, full > 0.0)


def test_the_dateline_ends_no_strip_in_the_wrong_place() -> None:
    source = Meridians()
    # Columns are numbered from Greenwich: the dateline is in the middle of a strip or at its edge.
    row = next(rows(Extent(179.995, 52.0, 180.005, 52.0003), 16.0))
    cuts = [
        Cut(tile_id("sea", 16.0, row.row, int(column)), LatLon(row.latitude, longitude), 64.0)
        for column, longitude in zip(row.columns, row.longitudes, strict=True)
    ]
    assert {cut.centre.longitude > 0 for cut in cuts} == {True, False}
    for cut, pixels in zip(cuts, read_in_runs(source, cuts), strict=True):
        assert np.abs(pixels.astype(int) - source.read(cut, PIXELS).pixels).max() <= 1


def test_a_raster_that_ends_at_the_dateline_is_cut_to_its_edge(tmp_path: Path) -> None:
    edge_m = 20_037_508.342789244
    north_west = Affine(0.8, 0.0, edge_m - 300 * 0.8, 0.0, -0.8, 6_440_000.0)
    image = patchwork(300, 300, 24)
    path = write_raster(tmp_path / "a.tif", image, crs="EPSG:3857", transform=north_west)
    source = RasterSource(path)
    cuts = list(source.cuts(16.0, 4.0))
    row = [cut for cut in cuts if cut.centre.latitude == cuts[len(cuts) // 2].centre.latitude]
    pictures = [
        picture for run in source.runs(row, PIXELS) for picture in source.read_run(run, PIXELS)
    ]
    for cut, picture in zip(row, pictures, strict=True):
        metres_to_the_line = (180.0 - abs(cut.centre.longitude)) * 111_320.0 * 0.62
        if metres_to_the_line > 8.5:
            alone = source.read(cut, PIXELS).pixels.astype(int)
            assert np.abs(picture.pixels - alone).mean() < 1.0
        elif cut.centre.longitude > 0.0:
            assert picture.valid == pytest.approx(0.5 + metres_to_the_line / 16.0, abs=0.02)


@pytest.mark.parametrize("latitude", [0.0, 60.0, 85.0, 88.9])
@pytest.mark.parametrize("size_m", [64.0, 20_000.0])
def test_no_strip_leaves_its_parallel(latitude: float, size_m: float) -> None:
    row = next(rows(Extent(10.0, latitude, 30.0, latitude + 1.0), size_m / 4.0))
    cut = Cut(
        tile_id("a", size_m / 4.0, row.row, int(row.columns[0])),
        LatLon(row.latitude, float(row.longitudes[0])),
        size_m,
    )
    strip = Strip.of(cut, 128)
    if strip is not None:
        bend_m = strip.ground.width_m**2 * np.tan(np.radians(latitude)) / (8.0 * 6_371_000.0)
        assert bend_m < 0.101 * size_m / 128
    assert strip is not None or size_m > 64.0 or latitude > 88.0

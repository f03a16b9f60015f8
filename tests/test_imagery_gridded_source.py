"""Tiles read in a run equal tiles read alone, wherever the run begins and ends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from imagery_samples import patchwork, write_raster
from test_imagery_raster import CRSES

from model.geo import LatLon
from service.imagery.grid import Extent, GridError, GridPlace, GridRow, rows
from service.imagery.gridded_source import RowSegment, SampledSource, runs
from service.imagery.layer import Layer
from service.imagery.mosaic import MosaicSource
from service.imagery.raster import RasterSource
from service.imagery.source import Cut, Ground, Source

PIXELS = 64


def written(folder: Path, name: str) -> Path:
    crs, (left, top), resolution = CRSES[name]
    north_west = Affine(resolution, 0.0, left, 0.0, -resolution, top)
    return write_raster(folder / "a.tif", patchwork(600, 600, 24), crs=crs, transform=north_west)


def read_in_runs(source: Source, cuts: list[Cut]) -> list[np.ndarray]:
    found = runs(cuts, PIXELS)
    return [image.pixels for run in found for image in source.read_run(run, PIXELS)]


def cuts_of(row: GridRow, size_m: float, stride_m: float) -> list[Cut]:
    places = [GridPlace(stride_m, row.row, int(column)) for column in row.columns]
    centres = [LatLon(row.latitude, float(longitude)) for longitude in row.longitudes]
    return [Cut("any", at, size_m, place) for at, place in zip(centres, places, strict=True)]


@pytest.mark.parametrize("name", CRSES)
def test_a_run_shows_the_picture_of_each_tile(name: str, tmp_path: Path) -> None:
    source = RasterSource(written(tmp_path, name))
    size_m = 40.0 * source.resolution_m()
    cuts = list(source.cuts(size_m, size_m / 4.0))
    cuts = cuts[:60] + cuts[len(cuts) // 2 :][:120]
    together = np.stack(read_in_runs(source, cuts)).astype(int)
    alone = np.stack([source.read(cut, PIXELS).pixels for cut in cuts]).astype(int)
    assert sum(1 for _ in runs(cuts, PIXELS)) < len(cuts) / 6
    # A shift of a tenth of a pixel would show: edges of the patchwork are 100 levels high.
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
    for stride_m in (8.0, 7.1, 32.0):  # at 7.1 m neighbours are no whole number of pixels apart
        cuts = list(source.cuts(32.0, stride_m))
        assert [cut for run in runs(cuts, PIXELS) for cut in run] == cuts
    assert {len(run) for run in runs(source.cuts(32.0, 7.1), PIXELS)} == {1}


def test_a_tile_on_no_grid_is_read_alone() -> None:
    (row,) = rows(Extent(13.0, 50.0, 13.001, 50.0001), 16.0)
    on_the_grid = cuts_of(row, 64.0, 16.0)[0]
    assert RowSegment.of(on_the_grid, 128) is not None
    assert RowSegment.of(on_the_grid._replace(place=None), 128) is None


class Meridians(SampledSource):
    """Shows the longitude of each pixel: 10,000 levels a degree, 128 at the dateline."""

    def signature(self) -> str:
        return ""

    def cuts(self, size_m: float | None, stride_m: float | None) -> Iterator[Cut]:
        return iter(())

    def count(self, size_m: float | None, stride_m: float | None) -> int:
        return 0

    def sample(self, ground: Ground, shape: tuple[int, int]) -> Layer:
        corners = [corner.longitude % 360.0 - 180.0 for corner in ground.corners()]
        across = np.linspace(corners[0], corners[1], shape[1], dtype=np.float64) * 1e4 + 128.0
        light = np.broadcast_to(across[None, :, None], (*shape, 3)).astype(np.float32)
        full = np.ones(shape, np.float32)
        return Layer(light, full, full > 0.0)


def test_the_dateline_ends_no_segment_at_the_wrong_longitude() -> None:
    source = Meridians()
    # Columns are numbered from Greenwich: the dateline may cross a segment or lie at its edge.
    row = next(rows(Extent(179.995, 52.0, 180.005, 52.0003), 16.0))
    cuts = cuts_of(row, 64.0, 16.0)
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
    images = [image for run in runs(row, PIXELS) for image in source.read_run(run, PIXELS)]
    for cut, seen in zip(row, images, strict=True):
        metres_to_the_line = (180.0 - abs(cut.centre.longitude)) * 111_320.0 * 0.62
        if metres_to_the_line > 8.5:
            alone = source.read(cut, PIXELS).pixels.astype(int)
            assert np.abs(seen.pixels - alone).mean() < 1.0
        elif cut.centre.longitude > 0.0:
            assert seen.valid == pytest.approx(0.5 + metres_to_the_line / 16.0, abs=0.02)


@pytest.mark.parametrize("latitude", [0.0, 60.0, 85.0, 88.9])
@pytest.mark.parametrize("size_m", [64.0, 20_000.0])
def test_no_segment_leaves_its_parallel(latitude: float, size_m: float) -> None:
    row = next(rows(Extent(10.0, latitude, 30.0, latitude + 1.0), size_m / 4.0))
    segment = RowSegment.of(cuts_of(row, size_m, size_m / 4.0)[0], 128)
    if segment is not None:
        bend_m = segment.ground.width_m**2 * np.tan(np.radians(latitude)) / (8.0 * 6_371_000.0)
        assert bend_m < 0.101 * size_m / 128
    assert segment is not None or size_m > 64.0 or latitude > 88.0


def test_a_cache_of_the_whole_earth_is_refused_before_it_is_cut(tmp_path: Path) -> None:
    """67 million pixels each way, as GDAL shows an ArcGIS cache."""
    (tmp_path / "conf.vrt").write_text(
        '<VRTDataset rasterXSize="67108864" rasterYSize="67108864"><SRS>EPSG:3857</SRS>'
        "<GeoTransform>-20037508.34, 0.59716428, 0, 20037508.34, 0, -0.59716428</GeoTransform>"
        '<VRTRasterBand dataType="Byte" band="1"/></VRTDataset>'
    )
    with pytest.raises(GridError, match=r"about 6e\+12 tiles of it: cut out the part"):
        next(RasterSource(tmp_path / "conf.vrt").cuts(64.0, 16.0))

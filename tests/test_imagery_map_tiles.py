"""Map tiles land where an independent projection says; holes, levels and bad files are handled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyproj
import pytest
from PIL import Image

from model.geo import LatLon, offset, wrap_longitude
from service.imagery.grid import GridError
from service.imagery.map_tiles import MapTileSource
from service.imagery.source import Cut, SourceError
from service.imagery.source_kinds import open_source
from service.index.catalogue import Catalogue
from service.ingest import ingest

TO_MERCATOR = pyproj.Transformer.from_crs(4326, 3857, always_xy=True)
HALF_M = 20037508.342789244
ORIGIN = LatLon(60.0, 179.9995)  # some cuts cross the dateline
SCALE_M = 200.0  # colours run from 0 to 255 over this many metres


def colour(east_m: np.ndarray, north_m: np.ndarray) -> np.ndarray:
    """uint8 (..., 3): the position of a pixel relative to ORIGIN, as a colour."""
    ramps = [np.clip((m / SCALE_M + 0.5) * 255.0, 1, 255) for m in (east_m, north_m)]
    return np.stack([*ramps, np.full_like(ramps[0], 128)], axis=-1).round().astype(np.uint8)


def write_map_tiles(
    folder: Path, levels: tuple[int, ...], reach: int = 1, suffix: str = "png"
) -> Path:
    """The map tiles around ORIGIN, coloured by position; on level 17, 256 pixels are 153 m."""
    x0, y0 = TO_MERCATOR.transform(ORIGIN.longitude, ORIGIN.latitude)
    for zoom in levels:
        tiles, pixel = 2**zoom, 2 * HALF_M / 2**zoom / 256
        column, line = int((x0 + HALF_M) / pixel) // 256, int((HALF_M - y0) / pixel) // 256
        for x in range(column - reach, column + reach + 1):
            for y in range(line - reach, line + reach + 1):
                at = (np.arange(256) + 0.5) * pixel
                east = (at + x * 256 * pixel - HALF_M - x0)[
                    None, :
                ] * 0.50126  # WGS84 at 60 degrees
                north = (HALF_M - y * 256 * pixel - at - y0)[:, None] * 0.50042
                picture = colour(*np.broadcast_arrays(east, north))
                file = folder / f"{zoom}" / f"{x % tiles}" / f"{y}.{suffix}"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture).save(file)
    return folder


@pytest.mark.parametrize("level", [16, 18, 19])
def test_pixels_lie_at_their_positions(tmp_path: Path, level: int) -> None:
    source = MapTileSource(write_map_tiles(tmp_path / "map", (level,), reach=2))
    for east, north in ((0.0, 0.0), (35.0, -20.0), (-30.0, 25.0)):
        cut = Cut("t", offset(ORIGIN, east, north), 32.0)
        picture = source.read(cut, 32)
        steps = np.arange(32) - 15.5  # one pixel a metre
        expected = colour(*np.meshgrid(east + steps, north - steps))
        assert picture.valid == 1.0
        assert np.abs(picture.pixels.astype(int) - expected).max() <= 1  # 1 is 0.8 m


def test_cuts_cover_the_deepest_level_across_the_dateline(tmp_path: Path) -> None:
    source = MapTileSource(write_map_tiles(tmp_path / "map", (15, 18)))
    longitudes = {wrap_longitude(cut.centre.longitude) > 0 for cut in source.cuts(32.0, 16.0)}
    assert longitudes == {True, False}
    with Catalogue.of(tmp_path) as catalogue:
        report = ingest(catalogue, tmp_path / "map", size_m=32.0, stride_m=16.0)
        assert catalogue.source("map").kind == "xyz"
    side_m = 3 * 256 * 2 * HALF_M / 2**18 / 256 * 0.501
    assert report.tiles == pytest.approx((side_m / 16.0) ** 2, rel=0.1)
    assert report.skipped_empty <= 4


def test_the_coarsest_level_that_is_fine_enough_is_read(tmp_path: Path) -> None:
    folder = write_map_tiles(tmp_path / "map", (16, 18))
    for file in (folder / "16").rglob("*.png"):
        Image.new("RGB", (256, 256), (9, 9, 9)).save(file)
    source = MapTileSource(folder)
    cut = Cut("t", ORIGIN, 64.0)
    assert (source.read(cut, 32).pixels == 9).all()  # 2 m a pixel, level 16 has 1.2
    assert (source.read(cut, 128).pixels[..., 2] == 128).all()
    for file in (folder / "16").rglob("*.png"):
        file.unlink()
        Image.new("RGBA", (256, 256), (9, 9, 9, 0)).save(file)
    hole = MapTileSource(folder).read(cut, 32)
    assert (hole.pixels[..., 2] == 128).all()
    assert hole.valid == 1.0


def test_missing_map_tiles_are_counted_as_empty(tmp_path: Path) -> None:
    folder = write_map_tiles(tmp_path / "map", (18,), reach=0)
    source = MapTileSource(folder)
    cuts = list(source.cuts(64.0, 16.0))
    valid = [source.read(cut, 32).valid for cut in cuts]
    assert 0.2 < min(valid) < 0.5 < max(valid) <= 1.0


def test_unusable_map_tiles_are_refused_with_the_reason(tmp_path: Path) -> None:
    folder = write_map_tiles(tmp_path / "map", (12,))
    with pytest.raises(GridError, match=r"19\.1 m per pixel .* deeper levels"):
        list(MapTileSource(folder).cuts(64.0, 16.0))
    (folder / "13").mkdir()
    with pytest.raises(SourceError, match=r"13 holds no map tile: expected 13/x/y\.png"):
        open_source(folder)
    (folder / "13").rmdir()
    file = next(folder.rglob("*.png"))
    Image.new("RGB", (256, 128)).save(file)
    with pytest.raises(SourceError, match="256x128"):
        [MapTileSource(folder).read(Cut("t", ORIGIN, 900.0), 64) for _ in (1,)]
    (folder / "tilemapresource.xml").touch()
    with pytest.raises(SourceError, match="--xyz"):
        open_source(folder)


def test_a_damaged_map_tile_is_named(tmp_path: Path) -> None:
    folder = write_map_tiles(tmp_path / "map", (18,), reach=0)
    source = MapTileSource(folder)
    file = next(folder.rglob("*.png"))
    file.write_bytes(file.read_bytes()[:-3000])
    with pytest.raises(SourceError, match=file.name):
        source.read(Cut("t", ORIGIN, 32.0), 32)
    before = source.signature()
    file.write_bytes(b"")
    assert source.signature() != before

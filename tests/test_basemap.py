"""Map tiles against the plain formulas of the Web Mercator tile scheme, and real pixels."""

import math
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from fakes import coloured_region, colours
from imagery_samples import patchwork, write_raster
from pyproj import Transformer

from model.images import Rgb
from service.basemap import BLANK, BaseMap, MapBusy, MapTile, MapTileUnknown
from service.index.catalogue import Catalogue
from service.ingest import ingest


def tile_at(latitude: float, longitude: float, z: int) -> MapTile:
    """OpenStreetMap's formula."""
    side = 2**z
    turn = math.asinh(math.tan(math.radians(latitude)))
    return MapTile(z, int((longitude + 180) / 360 * side), int((1 - turn / math.pi) / 2 * side))


@pytest.fixture
def base_map(tmp_path: Path) -> Iterator[BaseMap]:
    made = BaseMap(tmp_path / "catalogue.sqlite")
    yield made
    made.close()


@pytest.mark.parametrize(("latitude", "longitude"), [(50.0, 15.0), (-33.9, 151.2), (65.0, -179.99)])
def test_bounds_are_those_of_web_mercator(latitude: float, longitude: float) -> None:
    tile = tile_at(latitude, longitude, 15)
    to_metres = Transformer.from_crs(4326, 3857, always_xy=True)
    side = 2.0 * 20037508.342789244 / 2**15
    west, south = to_metres.transform(*tile.bounds[:2])
    east, north = to_metres.transform(*tile.bounds[2:])
    assert (east - west, north - south) == pytest.approx((side, side), abs=1e-3)
    assert tile.bounds.west <= longitude <= tile.bounds.east
    assert tile.bounds.south <= latitude <= tile.bounds.north


@pytest.mark.parametrize("tile", [MapTile(1, 2, 0), MapTile(3, 0, -1), MapTile(23, 0, 0)])
def test_an_address_outside_the_world_is_refused(tile: MapTile) -> None:
    with pytest.raises(MapTileUnknown, match=f"{tile.z}/{tile.x}/{tile.y}"):
        tile.checked()


def test_nothing_is_drawn_where_no_imagery_is(tmp_path: Path, base_map: BaseMap) -> None:
    tile = tile_at(50.0, 15.0, 16)
    assert base_map.draw(tile, []).result() is None
    raster = write_raster(tmp_path / "r.tif", patchwork(400, 400), crs="EPSG:32633")
    with Catalogue.of(tmp_path) as catalogue:
        ingest(catalogue, raster, size_m=32.0)
    assert base_map.draw(tile_at(0.0, 0.0, 16), []).result() is None


def test_a_folders_images_lie_at_their_positions(tmp_path: Path, base_map: BaseMap) -> None:
    region = coloured_region(tmp_path / "town", [5])
    with Catalogue.of(tmp_path) as catalogue:
        ingest(catalogue, region, size_m=64.0)
        (tile,) = catalogue.tiles()
    mine = tile_at(tile.latitude, tile.longitude, 17)
    picture = base_map.draw(mine, ["t5", "gone"]).result()
    assert picture is not None
    box = mine.bounds
    column = int((tile.longitude - box.west) / (box.east - box.west) * 256)
    row = int((box.north - tile.latitude) / (box.north - box.south) * 256)
    width = 64.0 / (mine.ground().width_m / 256)
    for east, south, field in ((-0.44, -0.44, (4, 4)), (-0.44, 0.44, (60, 4))):
        seen = picture[int(row + south * width), int(column + east * width)]
        assert np.abs(seen.astype(int) - colours(5)[field]).max() < 60


def test_a_raster_in_web_mercator_is_drawn_unchanged(tmp_path: Path, base_map: BaseMap) -> None:
    tile = tile_at(50.0, 15.0, 17)
    west, north = Transformer.from_crs(4326, 3857, always_xy=True).transform(
        tile.bounds.west, tile.bounds.north
    )
    step = 2.0 * 20037508.342789244 / 2**17 / 256
    picture = patchwork(256, 256, cell=32)
    place = Affine(step, 0.0, west, 0.0, -step, north)
    raster = write_raster(tmp_path / "r.tif", picture, crs="EPSG:3857", transform=place)
    with Catalogue.of(tmp_path) as catalogue:
        ingest(catalogue, raster, size_m=32.0)
    drawn = base_map.draw(tile, []).result()
    assert drawn is not None
    centres = np.s_[16::32, 16::32]
    assert np.abs(drawn[centres].astype(int) - picture[centres]).max() <= 2
    assert np.abs(drawn.astype(int) - picture).mean() < 6.0


@pytest.mark.parametrize("path", ["rasters/r.tif", "rasters"])
def test_ground_without_imagery_is_blank(path: str, tmp_path: Path, base_map: BaseMap) -> None:
    (tmp_path / "rasters").mkdir()
    write_raster(tmp_path / "rasters/r.tif", patchwork(400, 400), crs="EPSG:32633")
    with Catalogue.of(tmp_path) as catalogue:
        ingest(catalogue, tmp_path / path, size_m=32.0)
        centre = next(catalogue.tiles()).centre
    drawn = base_map.draw(tile_at(*centre, 15), []).result()  # 780 m wide, the raster 200 m
    assert drawn is not None
    assert 0.85 < (drawn == BLANK).all(axis=-1).mean() < 1.0


def test_a_full_queue_refuses_and_cancelled_tiles_are_not_drawn(tmp_path: Path) -> None:
    drawn: list[MapTile] = []
    go = threading.Event()

    class Held(BaseMap):
        def _draw(self, tile: MapTile, tile_ids: list[str]) -> Rgb | None:
            assert go.wait(10.0)
            drawn.append(tile)
            return None

    tiles = [MapTile(12, 0, y) for y in range(4)]
    base_map = Held(tmp_path / "catalogue.sqlite", most=3)
    first, second, _ = [base_map.draw(tile, []) for tile in tiles[:3]]
    with pytest.raises(MapBusy, match="3 map tiles"):
        base_map.draw(tiles[3], [])
    assert second.cancel()
    last = base_map.draw(tiles[3], [])
    go.set()
    assert (first.result(5.0), last.result(5.0)) == (None, None)
    assert drawn == [tiles[0], tiles[2], tiles[3]]
    base_map.close()

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from imagery_samples import patchwork, write_raster
from pair_samples import tiny, write_pairs
from PIL import Image
from rasterio.transform import Affine

from model.geo import LatLon, earth_centred
from model.panorama import PanoramaGeometry
from training.data.arrays import margin_pixels, read_arrays
from training.data.datasets import load
from training.data.pairs import AerialPoint, Pair, PairError, raster_size, read_chip

FILL = (9, 8, 7)


@pytest.fixture
def raster(tmp_path):
    """Noise of 50 x 70 pixels, as a PNG, and its pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "aerial.png")
    return tmp_path / "aerial.png", pixels


@pytest.mark.parametrize("column", [10, 35, 3, 69])
@pytest.mark.parametrize("row", [25, 0, 48])
def test_an_unscaled_chip_is_cut_pixel_by_pixel(raster, column, row):
    path, pixels = raster
    chip = read_chip(AerialPoint(path, 0.5, column, row), size_m=8.0, pixels=16, fill=FILL)
    expected = np.empty((16, 16, 3), np.uint8)
    for y, x in np.ndindex(16, 16):
        v, u = row - 8 + y, column - 8 + x
        expected[y, x] = pixels[v, u] if 0 <= v < 50 and 0 <= u < 70 else FILL
    assert (chip == expected).all()


@pytest.mark.parametrize("pixels", [16, 40, 64, 100])
@pytest.mark.parametrize(("column", "row"), [(35.3, 24.6), (5.0, 45.25)])
def test_a_scaled_chip_shows_each_point_at_its_metres(tmp_path, pixels, column, row):
    """A raster whose colours are its coordinates, three levels a pixel."""
    y, x = np.mgrid[0:50, 0:70]
    Image.fromarray(np.stack([3 * x, 3 * y, 0 * x], -1).astype(np.uint8)).save(tmp_path / "a.png")
    chip = read_chip(AerialPoint(tmp_path / "a.png", 0.25, column, row), 8.0, pixels, FILL)
    centres = ((np.arange(pixels) + 0.5) / pixels - 0.5) * 32
    u, v = column + centres - 0.5, row + centres - 0.5
    inside = np.ix_((v > 1) & (v < 48), (u > 1) & (u < 68))
    # Half a pixel of the chip where the raster's border is rounded to a pixel, and a level.
    slack = 3 * (0.5 * 32 / pixels if row > 40 else 0) + 1.5
    shown = chip[inside].astype(float)
    assert np.abs(shown[..., 0] - 3 * u[(u > 1) & (u < 68)]).max() <= slack
    assert np.abs(shown[..., 1] - 3 * v[(v > 1) & (v < 48), None]).max() <= slack
    outside = (v < -1 - 32 / pixels) | (v > 50 + 32 / pixels)
    assert (chip[outside] == FILL).all()


def test_a_point_outside_the_raster_is_refused(raster):
    with pytest.raises(PairError, match="outside"):
        read_chip(AerialPoint(raster[0], 0.5, 200, 25), 8.0, 16, FILL)


def write_tiff(path, bands, dtype=np.uint8):
    profile = {"driver": "GTiff", "height": 50, "width": 70, "count": len(bands), "dtype": dtype}
    place = {"crs": "EPSG:32632", "transform": Affine(1, 0, 500_000, 0, -1, 5_600_000)}
    with rasterio.open(path, "w", **profile, **place) as file:
        file.write(bands)


def test_a_geotiff_is_read_like_a_picture_and_other_bands_are_refused(raster, tmp_path):
    bands = np.moveaxis(raster[1], -1, 0)
    write_tiff(tmp_path / "a.tif", bands)
    assert raster_size(tmp_path / "a.tif") == (50, 70)
    picture, tiff = (
        read_chip(AerialPoint(path, 1, 30, 20), 10, 20, FILL)
        for path in (raster[0], tmp_path / "a.tif")
    )
    assert (picture == tiff).all()
    write_tiff(tmp_path / "grey.tif", bands[:1])
    write_tiff(tmp_path / "deep.tif", bands.astype(np.uint16), np.uint16)
    for name in ("grey.tif", "deep.tif"):
        with pytest.raises(PairError, match=name):
            read_chip(AerialPoint(tmp_path / name, 1, 30, 20), 10, 20, FILL)


def test_arrays_hold_strips_norths_chips_and_positions(tmp_path):
    config = tiny().encoder
    pairs = load("folder", write_pairs(tmp_path, 3), "all")
    arrays = read_arrays(pairs, config, offset_m=5.0)
    margin = margin_pixels(config, 5.0)
    assert (arrays.margin, margin, len(arrays)) == (7, 7, 3)
    assert arrays.strips.shape == (3, 24, 128, 3)
    assert arrays.chips.shape == (3, 32 + 2 * margin, 32 + 2 * margin, 3)
    assert (arrays.norths == 0.5).all()
    assert arrays.positions[1] == pytest.approx(earth_centred(LatLon(50.01, 8.0)))
    inner = read_arrays(pairs, config, offset_m=0.0).chips
    assert np.abs(arrays.chips[:, 7:-7, 7:-7].astype(int) - inner).max() <= 1


def test_every_unreadable_pair_is_counted_and_the_first_is_named(tmp_path):
    pairs = list(load("folder", write_pairs(tmp_path, 4), "all"))
    (tmp_path / "street-1.png").write_bytes(b"broken")
    (tmp_path / "aerial-3.png").write_bytes(b"")
    with pytest.raises(PairError, match="2 of 4 pairs"):
        read_arrays(pairs, tiny().encoder, 0.0)
    unknown = Pair("n", tmp_path / "street-0.png", pairs[0].aerial, PanoramaGeometry(north=None))
    missing = Pair("m", Path("none.jpg"), pairs[0].aerial, PanoramaGeometry())
    for pair, reason in [(unknown, "n: north is unknown"), (missing, "m: .*none.jpg")]:
        with pytest.raises(PairError, match=reason):
            read_arrays([pair], tiny().encoder, 0.0)


def test_a_small_share_of_unreadable_pairs_is_left_out_by_name(tmp_path, caplog):
    pairs = load("folder", write_pairs(tmp_path, 5), "all")
    whole = read_arrays(pairs, tiny().encoder, 0.0)
    (tmp_path / "street-2.png").write_bytes(b"broken")
    arrays = read_arrays(pairs, tiny().encoder, 0.0, skip_share=0.2)
    assert "1 of 5 pairs cannot be read" in caplog.text
    assert "street-2: " in caplog.text
    for name in ("strips", "norths", "chips", "positions"):
        assert (getattr(arrays, name) == np.delete(getattr(whole, name), 2, axis=0)).all()
    limit = "1 of 5 pairs cannot be read, more than the 19% that may be left out; first: street-2"
    with pytest.raises(PairError, match=limit):
        read_arrays(pairs, tiny().encoder, 0.0, skip_share=0.19)


def test_a_truncated_raster_is_named(tmp_path):
    path = tmp_path / "town.tif"
    write_raster(path, patchwork(400, 400, 0))
    path.write_bytes(path.read_bytes()[:30_000])
    with pytest.raises(PairError, match=r"town\.tif cannot be read: .*failed"):
        read_chip(AerialPoint(path, 0.5, 300.0, 300.0), 24.0, 32, (0, 0, 0))


def test_a_raster_that_is_something_else_is_named(tmp_path):
    path = tmp_path / "town.tif"
    path.write_bytes(b"<!doctype html><title>403</title>")
    with pytest.raises(PairError, match=r"town\.tif cannot be read: .*; the file is an HTML page"):
        read_chip(AerialPoint(path, 0.5, 300.0, 300.0), 24.0, 32, (0, 0, 0))


NAMES = ("strips", "norths", "chips", "positions", "tiles")


def test_arrays_too_large_for_memory_are_the_same_in_a_file(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    pairs, cache = load("folder", write_pairs(tmp_path / "data", 5), "all"), tmp_path / "run"
    for skip_share in (0.0, 0.2):
        known = read_arrays(pairs, tiny().encoder, 5.0, skip_share=skip_share, cache=cache)
        assert not cache.exists()
        filed = read_arrays(
            pairs, tiny().encoder, 5.0, skip_share=skip_share, cache=cache, memory_share=0.0
        )
        assert all((getattr(known, name) == getattr(filed, name)).all() for name in NAMES)
        assert f"GB of pairs lie in a file in {cache}" in caplog.text
        assert list(cache.iterdir()) == []  # the file has no name and ends with the process
        cache.rmdir()
        caplog.clear()
        (tmp_path / "data" / "street-2.png").write_bytes(b"broken")


def test_a_disk_that_is_too_small_is_refused_before_decoding(tmp_path):
    vast = replace(tiny().encoder.preprocessing, strip_size=(10**7, 10**7))
    pair = Pair("m", Path("none.jpg"), AerialPoint(Path("none.png"), 1.0, 0, 0), PanoramaGeometry())
    with pytest.raises(PairError, match=r"take 300000\.0 GB.* has only .* GB free"):
        read_arrays([pair], replace(tiny().encoder, preprocessing=vast), 0.0, cache=tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_pairs_of_one_tile_have_one_number(tmp_path):
    """The number is the row of the tile's first readable pair."""
    pairs = load("folder", write_pairs(tmp_path, 5), "all")
    assert read_arrays(pairs, tiny().encoder, 0.0).tiles.tolist() == [0, 1, 2, 3, 4]
    shared = [
        replace(pair, tile=tile) for pair, tile in zip(pairs, ["a", "b", "b", "a", ""], strict=True)
    ]
    assert read_arrays(shared, tiny().encoder, 0.0).tiles.tolist() == [0, 1, 1, 0, 4]
    (tmp_path / "street-0.png").write_bytes(b"broken")
    left = read_arrays(shared, tiny().encoder, 0.0, skip_share=0.2)
    assert left.tiles.tolist() == [0, 0, 2, 3]


def test_a_tile_narrower_than_the_footprint_is_logged_with_its_width(tmp_path, caplog):
    """Tiles of 64 pixels of 0.75 m are 48 m wide: a fourth of the area of 96 m."""
    pairs = load("folder", write_pairs(tmp_path, 2), "all")
    read_arrays(pairs, tiny().encoder, 0.0)
    assert "fill" not in caplog.text
    read_arrays(pairs, tiny("encoder.aerial_footprint_m=96").encoder, 0.0)
    assert "75 % of the aerial views is fill" in caplog.text
    assert "--set encoder.aerial_footprint_m=48" in caplog.text
    caplog.clear()
    aside = [replace(pair, aerial=replace(pair.aerial, column=56.0)) for pair in pairs]  # 6 m of 12
    read_arrays(aside, tiny().encoder, 0.0)
    assert "25 % of the aerial views is fill" in caplog.text
    assert "--set encoder.aerial_footprint_m=12" in caplog.text


def test_a_tile_of_unknown_size_is_refused(raster):
    with pytest.raises(PairError, match=r"the point of the street in .*aerial\.png is unknown"):
        read_chip(AerialPoint(raster[0], 0.5, np.nan, np.nan), 8.0, 16, FILL)

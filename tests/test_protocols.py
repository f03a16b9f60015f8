from dataclasses import replace

import numpy as np
import pytest
import rasterio
import torch
from pair_samples import World, tiny, write_pairs
from PIL import Image
from rasterio.transform import Affine

from model.checkpoint import Checkpoint
from model.encoder import Encoder
from model.panorama import PanoramaGeometry
from training.datasets import load
from training.evaluate import EvaluationError
from training.pairs import AerialView, Arrays, Pair, read_arrays
from training.protocols import centre, centred_tiles, evaluate, grid, lattice

CONFIG = tiny().encoder


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    network = CONFIG.build()
    network.aerial.load_state_dict(network.street.state_dict())
    return Encoder(Checkpoint(CONFIG, network.state_dict()))


def write_raster(path):
    pixels = World(0).tile(96, 96.0)
    place = {"crs": "EPSG:32632", "transform": Affine(1, 0, 5e5, 0, -1, 56e5)}
    size = {"driver": "GTiff", "count": 3, "height": 96, "width": 96, "dtype": "uint8"}
    with rasterio.open(path, "w", **size, **place) as file:
        file.write(np.moveaxis(pixels, -1, 0))


def test_the_tile_that_looks_like_the_ground_is_found(encoder, tmp_path):
    """Twin branches and a metric projection: a random network already knows its own picture."""
    pairs = load("folder", write_pairs(tmp_path, 12), "all")
    arrays = read_arrays(pairs, CONFIG, offset_m=3.0)
    known = centre(encoder, arrays)
    assert (known["N"], known["K"]) == (12, 1)
    assert known["1"] >= 0.5
    turned = replace(arrays, norths=arrays.norths + 0.25)
    assert centre(encoder, turned)["1"] < known["1"]
    assert known["10 m"] == known["50 m"] == known["1"]  # the worlds are a kilometre apart


def test_without_positions_there_are_no_metres(encoder, tmp_path):
    arrays = read_arrays(load("folder", write_pairs(tmp_path, 3), "all"), CONFIG, 0.0)
    arrays.positions[1] = np.nan
    assert set(centre(encoder, arrays)) == {"1", "5", "10", "1%", "N", "K"}


def test_centred_tiles_are_the_chips_without_their_margin():
    chips = np.arange(2 * 8 * 8 * 3).reshape(2, 8, 8, 3)
    arrays = Arrays(chips, np.zeros(2), chips, np.zeros((2, 3)), 3)
    assert (centred_tiles(arrays) == chips[:, 3:5, 3:5]).all()
    assert centred_tiles(replace(arrays, margin=0)).shape == chips.shape


def test_the_lattice_covers_the_raster_with_whole_tiles(tmp_path):
    write_raster(tmp_path / "a.tif")
    views = lattice(AerialView(tmp_path / "a.tif", 1.0, 0, 0), footprint_m=24.0, stride_m=12.0)
    columns = [12, 24, 36, 48, 60, 72, 84]
    assert [(one.row, one.column) for one in views] == [(r, c) for r in columns for c in columns]


def test_the_grid_is_judged_in_metres_from_the_true_place(encoder, tmp_path):
    """The panorama stands at the raster's centre, which is a tile's centre, and beside it."""
    write_raster(tmp_path / "aerial.tif")
    Image.fromarray(World(0).panorama(256, 512)).save(tmp_path / "street.png")
    view = AerialView(tmp_path / "aerial.tif", 1.0, 48.0, 48.0)
    pair = Pair("p", tmp_path / "street.png", view, PanoramaGeometry())
    aside = replace(pair, aerial=replace(view, column=51.0, row=52.0))
    for one, metres in [(pair, 0.0), (aside, 5.0)]:
        figures = evaluate(encoder, [one], stride_m=12.0)["grid"]
        assert (figures["N"], figures["stride_m"]) == (49, 12.0)
        assert figures["median_m"] == pytest.approx(metres)


def test_the_grid_needs_one_raster(encoder, tmp_path):
    pairs = load("folder", write_pairs(tmp_path, 2), "all")
    with pytest.raises(EvaluationError, match="one raster, not 2"):
        grid(encoder, pairs, read_arrays(pairs, CONFIG, 0.0), 12.0)

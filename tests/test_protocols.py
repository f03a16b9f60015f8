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
from training.data.arrays import Arrays, read_arrays
from training.data.datasets import load
from training.data.image_operations import limit_view
from training.data.pairs import AerialPoint, GalleryTile, Pair, PairError
from training.evaluate.encoded_pairs import centred_tiles, measure_centre
from training.evaluate.gallery import dataset_tiles, lattice, read_in_chunks
from training.evaluate.protocols import (
    PROTOCOLS,
    Options,
    description,
    evaluate,
    heading_error_deg,
)
from training.evaluate.recall import EvaluationError
from training.evaluate.street_views import Condition, encode_streets

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
    """With equal branches and a metric projection, even a random network finds its own picture."""
    pairs = load("folder", write_pairs(tmp_path, 12), "all")
    arrays = read_arrays(pairs, CONFIG, offset_m=3.0)
    known = measure_centre(encoder, arrays)
    assert (known["N"], known["K"]) == (12, 1)
    assert known["1"] >= 0.5
    turned = replace(arrays, norths=arrays.norths + 0.25)
    assert measure_centre(encoder, turned)["1"] < known["1"]
    assert known["10 m"] == known["50 m"] == known["1"]  # the worlds are a kilometre apart


def test_without_positions_there_are_no_metres(encoder, tmp_path):
    arrays = read_arrays(load("folder", write_pairs(tmp_path, 3), "all"), CONFIG, 0.0)
    arrays.positions[1] = np.nan
    assert set(measure_centre(encoder, arrays)) == {"1", "5", "10", "1%", "N", "K"}


def test_centred_tiles_are_the_chips_without_their_margin():
    chips = np.arange(2 * 8 * 8 * 3).reshape(2, 8, 8, 3)
    arrays = Arrays(chips, np.zeros(2), chips, np.zeros((2, 3)), 3)
    assert (centred_tiles(arrays) == chips[:, 3:5, 3:5]).all()
    assert centred_tiles(replace(arrays, margin=0)).shape == chips.shape


def test_the_lattice_covers_the_raster_with_whole_tiles(tmp_path):
    write_raster(tmp_path / "a.tif")
    views = lattice(AerialPoint(tmp_path / "a.tif", 1.0, 0, 0), footprint_m=24.0, stride_m=12.0)
    columns = [12, 24, 36, 48, 60, 72, 84]
    assert [(view.row, view.column) for view in views] == [(r, c) for r in columns for c in columns]


def test_the_grid_is_judged_in_metres_from_the_true_position(encoder, tmp_path):
    """The panorama stands at the raster's centre, which is a tile's centre, and beside it."""
    write_raster(tmp_path / "aerial.tif")
    Image.fromarray(World(0).panorama(256, 512)).save(tmp_path / "street.png")
    view = AerialPoint(tmp_path / "aerial.tif", 1.0, 48.0, 48.0)
    pair = Pair("p", tmp_path / "street.png", view, PanoramaGeometry())
    aside = replace(pair, aerial=replace(view, column=51.0, row=52.0))
    for query, metres in [(pair, 0.0), (aside, 5.0)]:
        figures = evaluate(encoder, [query], ["grid", "hard"], options=Options(stride_m=12.0))
        assert (figures["grid"]["N"], figures["hard"]["N"]) == (49, 49)
        assert figures["grid"]["median_m"] == pytest.approx(metres)
        assert figures["hard"]["median_heading_deg"] <= 180.0


def test_the_grid_needs_one_raster(encoder, tmp_path):
    pairs = load("folder", write_pairs(tmp_path, 2), "all")
    with pytest.raises(EvaluationError, match="one raster, not 2"):
        evaluate(encoder, pairs, ["grid"])


def test_chunks_do_not_change_the_figures(encoder, tmp_path):
    pairs = load("folder", write_pairs(tmp_path, 12), "all")
    assert evaluate(encoder, pairs)["centre"] == measure_centre(
        encoder, read_arrays(pairs, CONFIG, 0.0)
    )
    assert list(read_in_chunks(range(7), str, "reading", size=3)) == [
        ["0", "1", "2"],
        ["3", "4", "5"],
        ["6"],
    ]


def test_the_group_size_of_streets_does_not_change_descriptors(encoder, tmp_path):
    """Chunks hold 64 panoramas; three rolls fill a third of a search."""
    pairs = [*load("folder", write_pairs(tmp_path, 5), "all")] * 28
    conditions = [Condition(), Condition(fov_deg=90.0), Condition(rolls=3)]

    def groups(at_once):
        return list(encode_streets(encoder, pairs, conditions, 0, at_once=at_once))

    few, many, (whole,) = groups(1), groups(300), groups(2048)
    assert [len(group[0]) for group in few] == [64, 64, 12]
    assert [group[0] for group in many] == [range(128), range(128, 140)]
    assert whole[0] == range(140)
    for some in (few, many):
        assert (np.concatenate([group[1] for group in some]) == whole[1]).all()
        for condition in conditions:
            together = np.concatenate([group[2][condition] for group in some])
            assert (together == whole[2][condition]).all()
    assert whole[2][conditions[2]].shape == (140, 3, 16)


def test_an_unknown_heading_is_found_with_the_tile(encoder, tmp_path):
    """The 4 rolls include the true heading, so an answer is at most half a step off.

    A stated heading, 90 degrees off, changes nothing.
    """
    pairs = load("folder", write_pairs(tmp_path, 12), "all")
    figures = evaluate(encoder, pairs, ["centre", "rolls"], options=Options(rolls=4))
    assert figures["rolls"]["median_heading_deg"] <= 45.0
    turned = [replace(pair, geometry=PanoramaGeometry(north=0.25)) for pair in pairs]
    blind = evaluate(encoder, turned, ["centre", "rolls"], options=Options(rolls=4))
    assert blind["rolls"]["1"] == figures["rolls"]["1"] >= 0.5
    off, blind_off = (result["rolls"].pop("median_heading_deg") for result in (figures, blind))
    assert off < blind_off
    assert blind["rolls"] == figures["rolls"]
    assert blind["centre"]["1"] < figures["centre"]["1"]


def test_heading_errors_wrap():
    north, true = np.array([0.99, 0.5, 0.0, 0.25]), np.array([0.01, 0.0, 1.0, 0.5])
    assert heading_error_deg(north, true) == pytest.approx([7.2, 180.0, 0.0, 90.0])


def test_a_limited_view_keeps_its_share_of_columns_around_its_centre():
    strip = torch.full((1, 4, 360, 3), 9, dtype=torch.uint8)
    seen = (limit_view(strip, np.array([90.0]), np.zeros(1), (1, 2, 3)) == 9).numpy().all((0, 1, 3))
    assert seen.sum() == 90
    assert seen[:45].all()
    assert seen[-45:].all()
    assert (strip == 9).all()


def test_a_narrow_view_finds_less_and_a_full_view_the_same(encoder, tmp_path):
    pairs = load("folder", write_pairs(tmp_path, 12), "all")
    figures = evaluate(encoder, pairs, ["centre", "fov"], options=Options(fov_deg=(30.0, 360.0)))
    assert figures["fov-360"] == figures["centre"]
    assert figures["fov-30"]["1"] < figures["centre"]["1"]
    again = evaluate(encoder, pairs, ["fov"], options=Options(fov_deg=(30.0,)))
    assert again["fov-30"] == figures["fov-30"]


def test_any_tile_within_5_metres_is_right(encoder, tmp_path):
    """Each tile twice, 1 m apart: by id the twin counts as wrong, by metres as right."""
    pairs = load("folder", write_pairs(tmp_path, 12), "all")
    twins = [replace(pair, id=f"{pair.id}-twin", tile=f"{pair.tile}-twin") for pair in pairs]
    figures = evaluate(encoder, [*pairs, *twins], ["centre", "near"])
    assert figures["centre"]["1"] == 0.0
    assert figures["near"]["1"] >= 0.5
    lost = [replace(pair, position=None) for pair in pairs]
    with pytest.raises(EvaluationError, match="no position"):
        evaluate(encoder, lost, ["near"])


def test_a_tile_of_two_streets_is_not_its_own_rival(encoder, tmp_path):
    """Each tile has two streets: the gallery holds the tile once, and the figures stay."""
    pairs = load("folder", write_pairs(tmp_path, 12), "all")
    twice = [*pairs, *(replace(pair, id=f"{pair.id}-again") for pair in pairs)]
    once = evaluate(encoder, pairs)["centre"]
    assert evaluate(encoder, twice)["centre"] == once
    assert measure_centre(encoder, read_arrays(twice, CONFIG, 3.0))["1"] == once["1"]
    assert measure_centre(encoder, read_arrays(twice, CONFIG, 0.0)) == once
    # At another point of the image, the street has a picture of its own.
    aside = [*pairs, *(replace(pair, aerial=replace(pair.aerial, column=36.0)) for pair in pairs)]
    assert evaluate(encoder, aside)["centre"]["N"] == 24
    assert (
        measure_centre(encoder, read_arrays(aside, CONFIG, 0.0))
        == evaluate(encoder, aside)["centre"]
    )


def test_semi_positives_do_not_count_in_the_hit_rate(encoder, tmp_path):
    pairs = load("folder", write_pairs(tmp_path, 12), "all")
    tiles = [GalleryTile(f"t{i}", pair.aerial, pair.position) for i, pair in enumerate(pairs)]
    copies = [GalleryTile(f"c{i}", pair.aerial, pair.position) for i, pair in enumerate(pairs)]
    asked = [replace(pair, tile=f"t{i}", semi_positives=(f"c{i}",)) for i, pair in enumerate(pairs)]
    figures = evaluate(encoder, asked, ["vigor"], gallery_tiles=[*tiles, *copies])["vigor"]
    assert figures["N"] == 24
    assert figures["1"] == 0.0
    assert figures["hit"] == evaluate(encoder, pairs)["centre"]["1"]
    with pytest.raises(EvaluationError, match=r"tile 't0' of pair .* not among the 12"):
        dataset_tiles(encoder, asked, copies)


def test_an_unknown_protocol_and_an_unreadable_panorama_are_named(encoder, tmp_path):
    pairs = load("folder", write_pairs(tmp_path, 2), "all")
    with pytest.raises(EvaluationError, match="'center' is unknown; known: centre, rolls"):
        evaluate(encoder, pairs, ["center"])
    pairs[1].street.write_bytes(b"no picture")
    with pytest.raises(PairError, match="street-1: "):
        evaluate(encoder, pairs)
    assert "best of 36 headings" in description("hard", Options())
    assert all(description(name, Options()) for name in PROTOCOLS)

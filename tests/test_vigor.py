import numpy as np
import pytest
from dataset_samples import MIDDLE, QUERY_M, SCALE, vigor_tree

from model.geo import distance_m, offset
from training.data.datasets import DATASETS, load, load_gallery
from training.data.pairs import PairError, read_chip

LAYOUTS = [
    ("{city}/panorama", "{city}/satellite"),
    ("ground/{city}", "satellite/{city}"),
    ("{city}/ground", "{city}/satellite"),
    ("ground", "satellite"),
]


@pytest.mark.parametrize(("ground", "satellite"), LAYOUTS)
def test_a_street_has_its_point_in_its_tile(tmp_path, ground, satellite):
    (pair,) = load("vigor", vigor_tree(tmp_path, ground, satellite), "same-train")
    assert pair.id == "abc-_1"
    assert distance_m(pair.position, offset(MIDDLE, *QUERY_M)) < 0.1
    chip = read_chip(pair.aerial, 0.5, 5, (0, 0, 0))
    assert (chip == (255, 0, 0)).all()
    assert pair.aerial.metres_per_pixel == SCALE


def test_the_gallery_holds_tiles_without_a_street(tmp_path):
    root = vigor_tree(tmp_path)
    (pair,), tiles = load("vigor", root, "same-train"), load_gallery("vigor", root, "same-train")
    assert pair.tile_id == tiles[0].id
    assert pair.semi_positives == (tiles[1].id,) * 3
    assert [tile.position for tile in tiles] == [MIDDLE, MIDDLE._replace(latitude=47.61)]
    assert (tiles[0].aerial.column, tiles[0].aerial.row) == (320, 320)


def test_cities_without_lists_and_uncorrected_lists_are_reported(tmp_path, caplog):
    (pair,) = load("vigor", vigor_tree(tmp_path), "same-test")
    assert pair.id == "uncorrected"
    assert "same_area_balanced_test: NewYork, SanFrancisco, Chicago" in caplog.text
    assert "is not the corrected list" in caplog.text
    with pytest.raises(PairError, match=r"SanFrancisco.*pano_label_balanced.* is missing"):
        load("vigor", tmp_path, "cross-test")


@pytest.mark.parametrize(
    "line",
    [
        "a,1,2,.jpg tile.png 0.0",
        "a.jpg" + " t.png 0 0" * 4,
        "a,91,2,.jpg" + " t.png 0 0" * 4,
        "a,1,2,.jpg" + " t.png 0 nan" * 4,
    ],
)
def test_a_bad_line_is_named(tmp_path, line):
    path = vigor_tree(tmp_path) / "splits/Seattle/same_area_balanced_train__corrected.txt"
    path.write_text(path.read_text() + line)
    with pytest.raises(PairError, match=r"train__corrected\.txt, line 2"):
        load("vigor", tmp_path, "same-train")


def test_a_tile_named_for_an_impossible_position_is_refused(tmp_path):
    path = vigor_tree(tmp_path) / "splits/Seattle/satellite_list.txt"
    path.write_text("satellite_nan_-122.3.png")
    with pytest.raises(PairError, match=r"satellite_list\.txt names .*latitude is nan: it must be"):
        load_gallery("vigor", tmp_path, "same-train")


@pytest.mark.parametrize(("split", "count"), [("same-train", 11_876), ("same-test", 11_875)])
def test_points_in_real_tiles_agree_with_real_coordinates(real, split, count):
    """The corrected lists of Seattle: pixels in a tile and degrees say the same."""
    vigor = DATASETS["vigor"]
    pairs = vigor.pairs(real / "vigor", split)
    tiles = {tile.id: tile for tile in vigor.gallery(real / "vigor", split)}
    assert len(pairs) == count
    off_m = []
    for pair in pairs[::40]:
        tile, view = tiles[pair.tile], pair.aerial
        east, north = ((view.column - 320) * SCALE, (320 - view.row) * SCALE)
        off_m.append(distance_m(offset(tile.position, east, north), pair.position))
        assert set(pair.semi_positives) < tiles.keys()
    assert np.max(off_m) < 0.3

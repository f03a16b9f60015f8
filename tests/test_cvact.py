import math

import pytest
from dataset_samples import CANBERRA, cvact_tree
from pyproj import Transformer

from model.geo import LatLon, distance_m
from model.panorama import PanoramaGeometry
from training.data.datasets import load, load_gallery
from training.data.pairs import PairError


@pytest.mark.parametrize("as_cells", [False, True])
def test_splits_are_one_based_rows_of_the_table(tmp_path, as_cells):
    root = cvact_tree(tmp_path, as_cells=as_cells)
    assert [pair.id[0] for pair in load("cvact", root, "train")] == ["d", "b"]
    assert [pair.id[0] for pair in load("cvact", root, "val")] == ["a"]
    assert [pair.id[0] for pair in load("cvact", root, "all")] == ["d", "b", "a"]
    assert [tile.id[0] for tile in load_gallery("cvact", root, "train")] == ["d", "b"]


def test_positions_are_utm_of_canberra(tmp_path):
    (pair,) = load("cvact", cvact_tree(tmp_path), "val")
    longitude, latitude = Transformer.from_crs(32755, 4326, always_xy=True).transform(*CANBERRA)
    assert distance_m(pair.position, LatLon(latitude, longitude)) < 0.01
    assert distance_m(pair.position, LatLon(-35.3, 149.1)) < 5_000
    level_20 = 2 * math.pi * 6_378_137 / 256 / 2**20
    scale = pair.aerial.metres_per_pixel
    assert 2 * scale == pytest.approx(level_20 * math.cos(math.radians(latitude)), rel=1e-5)
    assert (pair.geometry, pair.aerial.column) == (PanoramaGeometry(), 600)


def test_the_test_split_has_its_own_folder_and_counts_absent_pairs(tmp_path, caplog):
    (pair,) = load("cvact", cvact_tree(tmp_path), "test")
    assert pair.street.parent == tmp_path / "ANU_data_test" / "streetview"
    assert "1 of 2 pairs lack an image" in caplog.text


@pytest.mark.parametrize("damage", [b"", b"MATLAB 5.0 MAT-file" + bytes(200), b"no table" * 40])
def test_a_damaged_table_is_named(tmp_path, damage):
    (cvact_tree(tmp_path) / "ACT_data.mat").write_bytes(damage)
    with pytest.raises(PairError, match=r"ACT_data\.mat"):
        load("cvact", tmp_path, "val")


SEVEN_3 = b"MATLAB 7.3 MAT-file, Platform: GLNXA64, Created on: Mon Jan  1 00:00:00 2018 HDF5"


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (SEVEN_3.ljust(124) + b"\x00\x02IM".ljust(388, b"\0") + b"\x89HDF\r\n\x1a\n", "with -v7"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a", "run `git lfs pull`"),
        (b"<!DOCTYPE html><html>", "an HTML page"),
        (bytes(3000), "an interrupted download"),
        (b"panoIds = 1", "text, 'panoIds = 1'"),
    ],
)
def test_a_table_that_is_something_else_is_named(tmp_path, damage, named):
    table = cvact_tree(tmp_path) / "ACT_data.mat"
    table.write_bytes(damage)
    with pytest.raises(PairError, match=f"{table} is .*{named}"):
        load("cvact", tmp_path, "val")


def test_a_table_cut_off_anywhere_is_named(tmp_path):
    table = cvact_tree(tmp_path) / "ACT_data.mat"
    whole = table.read_bytes()
    for size in range(128, len(whole), 40):
        table.write_bytes(whole[:size])
        with pytest.raises(PairError, match=r"cut off or damaged: copy it again|does not hold"):
            load("cvact", tmp_path, "val")


@pytest.mark.parametrize("utm", [(math.nan, 6e6), (1e9, 6e6), (7e5, math.inf)])
def test_a_position_outside_the_projection_is_named(tmp_path, utm):
    with pytest.raises(PairError, match=r"ACT_data\.mat, a-pano_id: utm .* is .*: it must"):
        load("cvact", cvact_tree(tmp_path, first=utm), "val")


def test_a_table_in_the_wrong_folder_is_named(tmp_path):
    table, inside = cvact_tree(tmp_path) / "ACT_data.mat", tmp_path / "ANU_data_small/ACT_data.mat"
    table.rename(inside)
    with pytest.raises(PairError, match=f"{inside} exists: give the folder that holds it"):
        load("cvact", tmp_path, "val")


def test_without_its_table_real_pairs_are_refused(real):
    with pytest.raises(PairError, match=r"ACT_data\.mat is missing"):
        load("cvact", real / "cvact", "val")

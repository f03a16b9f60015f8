import math
from dataclasses import replace

import numpy as np
import pytest
import rasterio
from dataset_samples import cvusa_tree, touch, vigor_tree, write_rows
from PIL import Image
from pyproj import Transformer
from rasterio.transform import Affine

from model.errors import SkyfixError
from model.geo import LatLon, offset
from model.panorama import GeometryError, PanoramaGeometry
from training.data.datasets import (
    DATASETS,
    default_splits,
    list_splits,
    load,
    load_gallery,
    warn_of_overlap,
)
from training.data.pairs import PairError, read_chip, read_strip
from training.recipes import find


@pytest.fixture
def cvusa(tmp_path):
    return cvusa_tree(tmp_path)


def test_cvusa_splits_geometry_and_coordinates(cvusa, caplog):
    (pair,) = load("cvusa", cvusa, "train")
    assert "1 of 2 pairs lack an image" in caplog.text
    assert "bingmap/19/0000003.jpg" in caplog.text
    assert pair.id == "0000002"
    assert pair.position == LatLon(59.0, -99.0)  # row i is id i
    assert pair.aerial.metres_per_pixel == pytest.approx(0.2986 * math.cos(math.radians(59)))
    assert (pair.aerial.column, pair.aerial.row) == (375, 375)
    assert pair.geometry.north == 0.5
    assert pair.geometry.extent(224, 1232) == pytest.approx((37, -28), abs=0.2)
    assert [pair.id for pair in load("cvusa", cvusa, "val")] == ["0000001"]
    assert len(load("cvusa", cvusa, "all")) == 2


def test_each_cvusa_pair_has_its_own_tile(cvusa):
    pairs, tiles = load("cvusa", cvusa, "all"), load_gallery("cvusa", cvusa, "all")
    assert [pair.tile_id for pair in pairs] == [tile.id for tile in tiles] == ["0000002", "0000001"]
    assert [tile.position for tile in tiles] == [pair.position for pair in pairs]


@pytest.mark.parametrize(
    ("file", "row"),
    [
        ("splits/val-19zl.csv", ["a.jpg", "b.jpg"]),
        ("split_locations/all.csv", [1, 2, "north", 3]),
        ("split_locations/all.csv", [1, 2, "nan", 3]),
        ("split_locations/all.csv", [1, 2, 50, 181]),
    ],
)
def test_a_damaged_cvusa_list_is_named(cvusa, file, row):
    write_rows(cvusa / file, [row])
    with pytest.raises(PairError, match=file):
        load("cvusa", cvusa, "val")


def test_cvusa_without_coordinates_is_logged(cvusa, caplog):
    (cvusa / "split_locations" / "all.csv").unlink()
    (pair,) = load("cvusa", cvusa, "val")
    assert pair.position is None
    assert "no coordinates" in caplog.text


def test_real_cvusa_pairs_have_positions(real):
    pairs = load("cvusa", real / "cvusa", "all")
    assert len(pairs) == 12
    assert {pair.id for pair in pairs} == {
        path.stem for path in (real / "cvusa/bingmap/19").iterdir()
    }
    assert all(24 < pair.position.latitude < 50 for pair in pairs)


def folder_of(tmp_path, rows, header=("street", "aerial", "metres_per_pixel")):
    write_rows(tmp_path / "pairs.csv", [header, *rows])
    touch(tmp_path / "s.png")
    touch(tmp_path / "a.png", (40, 20))
    return tmp_path


def write_folder(tmp_path):
    header = ("street", "aerial", "metres_per_pixel", "split", "latitude", "longitude")
    rows = [("s.png", "a.png", 0.5, split, 50, 8) for split in ("train", "val")]
    return folder_of(tmp_path, rows, header)


def test_folder_defaults(tmp_path):
    (pair,) = load("folder", folder_of(tmp_path, [("s.png", "a.png", 0.5)]), "all")
    assert (pair.id, pair.geometry, pair.position) == ("s", None, None)
    assert (pair.aerial.column, pair.aerial.row) == (20, 10)


def test_folder_columns(tmp_path):
    header = ("street", "aerial", "metres_per_pixel", "id", "split", "latitude", "longitude")
    header += ("column", "row", "heading_deg", "horizon", "vertical_fov_deg")
    row = ("s.png", "a.png", 0.5, "x", "train", 50, 8, 7, 9, 90, 0.4, 70)
    root = folder_of(tmp_path, [row, (*row[:3], "y", "val", *row[5:])], header)
    (pair,) = load("folder", root, "train")
    assert (pair.id, pair.position) == ("x", LatLon(50, 8))
    assert (pair.aerial.column, pair.aerial.row) == (7, 9)
    assert pair.geometry == PanoramaGeometry(0.25, horizon=0.4, vertical_fov_deg=70)
    assert len(load("folder", root, "all")) == 2


@pytest.mark.parametrize(
    ("rows", "names"),
    [
        ([("s.png", "none.png", 0.5)], "none of the 1 pairs exists; first absent: .*none.png"),
        ([("s.png", "a.png", "half")], r"row of s\.png.*half"),
        ([("s.png",)], "a row without street or aerial"),
        ([("s.png", "a.png")], r"row of s\.png"),
        ([("s.png", "a.png", 0)], r"row of s\.png: metres_per_pixel is 0.0"),
        ([("s.png", "a.png", "-0.5")], r"row of s\.png: metres_per_pixel is -0.5"),
        ([("s.png", "a.png", "nan")], r"row of s\.png: metres_per_pixel is nan"),
        ([], "split 'all': it lists no pairs"),
    ],
)
def test_a_bad_row_is_named(tmp_path, rows, names):
    with pytest.raises(PairError, match=names):
        load("folder", folder_of(tmp_path, rows), "all")


def test_an_unreadable_aerial_costs_only_its_own_pair(tmp_path):
    """The pair is listed and so counts as unreadable; the aerial's middle is not guessed."""
    names = ["a.png", "broken.png", "torn.tif"]
    root = folder_of(tmp_path, [(f"{i}.png", name, 0.5) for i, name in enumerate(names)])
    for i, name in enumerate(names):
        touch(root / f"{i}.png", (512, 256))
        if i:
            (root / name).write_bytes(b"broken")
    sound, *broken = load("folder", root, "all")
    assert (sound.aerial.column, sound.aerial.row) == (20, 10)
    for pair in broken:
        with pytest.raises((SkyfixError, OSError)):
            read_chip(pair.aerial, 8.0, 16, (0, 0, 0))
    assert [tile.id for tile in load_gallery("folder", root, "all")] == ["a", "broken", "torn"]


def test_a_folder_s_geotiff_is_opened_as_a_raster(tmp_path):
    """Pillow does not read a GeoTIFF with LERC or JPEG 2000."""
    root = folder_of(tmp_path, [("s.png", "a.tif", 0.5)])
    georeference = {"crs": "EPSG:32632", "transform": Affine(1, 0, 500_000, 0, -1, 5_600_000)}
    size = {"driver": "GTiff", "count": 3, "height": 20, "width": 40, "dtype": "uint8"}
    with rasterio.open(root / "a.tif", "w", **size, **georeference, compress="lerc") as file:
        file.write(np.zeros((3, 20, 40), np.uint8))
    (pair,) = load("folder", root, "all")
    assert (pair.aerial.column, pair.aerial.row) == (20, 10)


def test_stated_horizon_and_field_of_view_combine_with_the_panorama_s_heading(tmp_path):
    header = ("street", "aerial", "metres_per_pixel", "heading_deg", "horizon", "vertical_fov_deg")
    rows = [("s.png", "a.png", 0.5, "", *rest) for rest in [(0.4, 70), (0.4, ""), ("", "")]]
    stated, half, none = load("folder", folder_of(tmp_path, rows, header), "all")
    assert stated.geometry == PanoramaGeometry(None, horizon=0.4, vertical_fov_deg=70)
    assert half.geometry == PanoramaGeometry(None, horizon=0.4)
    assert none.geometry is None
    preprocessing = find("msae-demo").encoder.preprocessing
    Image.new("RGB", (512, 100)).save(tmp_path / "s.png")
    with pytest.raises(GeometryError, match="north is unknown"):
        read_strip(stated, preprocessing)
    image = Image.new("RGB", (512, 100))
    exif = Image.Exif()
    exif.get_ifd(0x8825).update({16: "T", 17: 90.0})  # the centre column looks east
    image.save(tmp_path / "s.png", "JPEG", exif=exif.tobytes())
    known = replace(stated, geometry=PanoramaGeometry(0.25, horizon=0.4, vertical_fov_deg=70))
    strip, north = read_strip(stated, preprocessing)
    assert north == pytest.approx(0.25)
    assert (strip == read_strip(known, preprocessing)[0]).all()


def test_missing_columns_are_named(tmp_path):
    with pytest.raises(PairError, match=r"lacks the columns \['metres_per_pixel'\]"):
        load("folder", folder_of(tmp_path, [("s.png", "a.png")], ("street", "aerial")), "all")


def test_a_folder_s_gallery_has_a_tile_at_the_middle_of_each_aerial(tmp_path, caplog):
    header = ("street", "aerial", "metres_per_pixel", "latitude", "longitude", "column", "row")
    rows = [("s.png", "a.png", 0.5, 50, 8, 30, 4), ("s.png", "a.png", 0.5, 50, 8, 30, 4)]
    root = folder_of(tmp_path, [*rows, ("s.png", "in/none.png", 0.5, 50, 8, "", "")], header)
    (tile,) = load_gallery("folder", root, "all")
    assert "1 of 2 tiles lack an image" in caplog.text
    assert (tile.aerial.column, tile.aerial.row) == (20, 10)
    # From the street 5 m west and 3 m south.
    assert tile.position == pytest.approx(offset(LatLon(50, 8), -5, -3))
    assert {pair.tile_id for pair in load("folder", root, "all")} == {tile.id} == {"a"}


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("cvact", "val"),
        ("cvusa", "val"),
        ("folder", "all"),
        ("town", "all"),
        ("vigor", "same-test"),
    ],
)
def test_a_folder_without_the_dataset_is_refused(tmp_path, name, split):
    with pytest.raises(PairError, match=str(tmp_path)):
        load(name, tmp_path, split)


def test_an_unknown_dataset_or_split_lists_the_known_names(cvusa):
    with pytest.raises(PairError, match="'vegas' is unknown; known: cvact, cvusa, folder"):
        load("vegas", cvusa, "all")
    with pytest.raises(PairError, match="has the splits train, val and all, not 'test'"):
        load("cvusa", cvusa, "test")


def test_the_default_splits_of_training_and_validation_differ():
    for name, dataset in DATASETS.items():
        training, held_out = default_splits(name)
        assert {training, held_out} <= {*dataset.splits, "all"} or not dataset.splits
        assert (training == held_out) == (name == "town")  # a town has no other split
        # For example "all", which contains the validation split.
        assert default_splits(name, "other") == ("other", held_out)
    assert default_splits("vigor") == ("same-train", "same-test")
    assert default_splits("vigor", "cross-train") == ("cross-train", "cross-test")


def test_pairs_in_both_training_and_validation_are_logged(cvusa, caplog):
    train, val = load("cvusa", cvusa, "train"), load("cvusa", cvusa, "val")
    caplog.clear()
    warn_of_overlap(train, val)
    assert caplog.text == ""
    warn_of_overlap([*train, *val], val)
    assert "1 of 1 pairs to measure with have the id of a training pair, such as 0" in caplog.text


def test_a_folder_of_another_dataset_is_recognised(cvusa):
    with pytest.raises(PairError, match=r"ACT_data.mat is missing.* looks like cvusa"):
        load("cvact", cvusa, "val")


def test_a_town_s_poses_are_found_in_its_raster(tmp_path):
    """Positions chosen in UTM metres and written as WGS84 are found again as pixels."""
    raster = {"driver": "GTiff", "count": 3, "height": 80, "width": 100, "dtype": "uint8"}
    georeference = {"crs": "EPSG:32632", "transform": Affine(0.25, 0, 500_000, 0, -0.25, 5_600_000)}
    rows = [("id", "file", "latitude", "longitude")]
    to_wgs84 = Transformer.from_crs("EPSG:32632", "EPSG:4326", always_xy=True)
    for i, (east, south) in enumerate([(5.0, 5.0), (12.5, 17.25)]):
        longitude, latitude = to_wgs84.transform(500_000 + east, 5_600_000 - south)
        rows.append((i, f"panoramas/{i}.jpg", latitude, longitude))
    for name in ("3", "4"):
        write_rows(tmp_path / name / "poses.csv", rows)
        with rasterio.open(tmp_path / name / "aerial.tif", "w", **raster, **georeference) as file:
            file.write(np.zeros((3, 80, 100), np.uint8))
        for i in range(2):
            touch(tmp_path / name / "panoramas" / f"{i}.jpg")
    pairs = load("town", tmp_path, "all")
    assert [pair.id for pair in pairs] == ["3/0", "3/1", "4/0", "4/1"]
    view = pairs[1].aerial
    assert view.metres_per_pixel == 0.25
    assert (view.column, view.row) == pytest.approx((50, 69), abs=0.01)
    assert pairs[1].geometry is None
    assert len(load("town", tmp_path / "3", "all")) == 2
    with pytest.raises(PairError, match="only the split 'all'"):
        load("town", tmp_path, "val")


@pytest.mark.parametrize(
    ("name", "tree", "split", "files"),
    [
        ("cvusa", cvusa_tree, "val", ["splits/val-19zl.csv", "split_locations/all.csv"]),
        ("folder", write_folder, "all", ["pairs.csv"]),
        ("vigor", vigor_tree, "same-train", ["splits/Seattle/*train__corrected.txt"]),
        ("vigor", vigor_tree, "same-train", ["splits/Seattle/satellite_list.txt"]),
    ],
)
def test_a_byte_order_mark_and_empty_lines_do_not_change_a_list(tmp_path, name, tree, split, files):
    root = tree(tmp_path)
    before = load(name, root, split), load_gallery(name, root, split)
    for pattern in files:
        (path,) = root.glob(pattern)
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes() + b"\n\n")
    assert (load(name, root, split), load_gallery(name, root, split)) == before


def test_spaces_around_cells_and_empty_rows_are_ignored(tmp_path):
    before = load("folder", write_folder(tmp_path), "all")
    table = tmp_path / "pairs.csv"
    rows = table.read_text().splitlines()
    spaced = [row.replace(",", " , ") for row in rows]
    quoted = spaced[1].replace("a.png", '"a.png"')
    table.write_text("\n".join([spaced[0], ",,,,", quoted, *spaced[2:], ",,,,", ""]))
    assert load("folder", tmp_path, "all") == before


def test_empty_cells_in_cvusa_coordinates_do_not_shift_later_rows(cvusa):
    path = cvusa / "split_locations" / "all.csv"
    path.write_text(",,,,\n" + path.read_text() + ",,,,\n")
    with pytest.raises(PairError, match=r"all\.csv, line 1 is no position"):
        load("cvusa", cvusa, "val")


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (b"street,aerial,metres_per_pixel\n\nstra\xdfe.png,a.png,1\n", "line 3: byte 0xdf"),
        ("street,aerial".encode("utf-16"), "line 1: byte 0xff"),
    ],
)
def test_the_line_of_invalid_utf_8_is_named(tmp_path, content, names):
    (tmp_path / "pairs.csv").write_bytes(content)
    with pytest.raises(PairError) as caught:
        load("folder", tmp_path, "all")
    assert f"pairs.csv, {names} is not UTF-8: save the file as UTF-8" in str(caught.value)
    assert "\\x" not in str(caught.value)


@pytest.mark.parametrize(
    ("latitude", "longitude", "names"),
    [
        ("nan", 8, "latitude is nan: it must be -90 to 90"),
        (91, 8, "latitude is 91: it must be -90 to 90"),
        ("north", 8, "latitude is north: it must be -90 to 90"),
        (50, 999, "longitude is 999: it must be -180 to 180"),
        (50, "-inf", "longitude is -inf: it must be -180 to 180"),
        (50, "", "it has a latitude but no longitude: give both or neither"),
    ],
)
def test_the_line_of_an_impossible_position_is_named(tmp_path, latitude, longitude, names):
    header = ("street", "aerial", "metres_per_pixel", "latitude", "longitude")
    rows = [("s.png", "a.png", 0.5, *place) for place in [(-90, 180), (latitude, longitude)]]
    with pytest.raises(PairError) as caught:
        load("folder", folder_of(tmp_path, rows, header), "all")
    assert f"pairs.csv, line 3, row of s.png: {names}" in str(caught.value)


@pytest.mark.parametrize(
    ("column", "row", "names"),
    [
        ("nan", 5, "column is nan: it must be a finite number"),
        (5, "inf", "row is inf: it must be a finite number"),
        (5, "", "it has a column but no row: give both or neither"),
        ("", 5, "it has a row but no column: give both or neither"),
    ],
)
def test_half_a_point_is_not_replaced_by_the_aerial_s_middle(tmp_path, column, row, names):
    header = ("street", "aerial", "metres_per_pixel", "column", "row")
    root = folder_of(tmp_path, [("s.png", "a.png", 0.5, column, row)], header)
    with pytest.raises(PairError, match=rf"pairs\.csv, line 2, row of s\.png: {names}"):
        load("folder", root, "all")


def of_splits(tmp_path, *splits):
    rows = [("s.png", "a.png", 0.5, i, split) for i, split in enumerate(splits)]
    return folder_of(tmp_path, rows, ("street", "aerial", "metres_per_pixel", "id", "split"))


def test_an_unknown_split_lists_the_table_s_splits(tmp_path):
    root = of_splits(tmp_path, " mine", "", "val")
    assert [pair.id for pair in load("folder", root, "mine")] == ["0"]
    with pytest.raises(PairError, match=r"'train': it lists no pairs; .* splits mine, val and all"):
        load("folder", root, "train")


def test_a_table_without_splits_offers_only_all(tmp_path):
    root = folder_of(tmp_path, [("s.png", "a.png", 0.5)])
    with pytest.raises(PairError, match="it has no column split: use --split all"):
        load("folder", root, "train")
    with pytest.raises(PairError, match="its column split is empty: use --split all"):
        load("folder", of_splits(tmp_path, "", " "), "train")


def test_the_splits_of_a_dataset_hold_each_pair_once(tmp_path):
    root = of_splits(tmp_path, "train", "", "val", "train")
    splits = list_splits("folder", root)
    assert splits == ["train", "", "val"]
    listed = [pair.id for split in splits for pair in DATASETS["folder"].pairs(root, split)]
    assert sorted(listed) == [pair.id for pair in load("folder", root, "all")]

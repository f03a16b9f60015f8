import csv

import numpy as np
import pytest
from dataset_samples import cvusa_tree, touch, vigor_tree, write_rows
from imagery_samples import patchwork, write_raster
from pair_samples import write_pairs

from model.geo import LatLon
from service.imagery.image_folder import ImageFolderSource
from training.__main__ import main
from training.data.datasets import load_gallery
from training.data.export import ExportError, export_tiles


def test_a_town_needs_no_export(tmp_path, capsys):
    town = tmp_path / "town"
    town.mkdir()
    write_raster(town / "aerial.tif", patchwork(64, 64, 0))
    (town / "poses.csv").write_text("id,file,latitude,longitude\n00000,0.jpg,50.1,15.0\n")
    (town / "0.jpg").touch()
    assert main(["export-tiles", "town", str(town), str(tmp_path / "out")]) == 1
    assert "aerial.tif is a raster: give it to `skyfix ingest` as it is" in capsys.readouterr().err


def test_ingest_reads_an_export(tmp_path):
    root, out = cvusa_tree(tmp_path / "data"), tmp_path / "tiles"
    assert main(["export-tiles", "cvusa", str(root), str(out)]) == 0
    tiles = {tile.id: tile for tile in load_gallery("cvusa", root, "all")}
    source = ImageFolderSource(out)
    cuts = list(source.cuts(None, None))
    assert {cut.tile_id for cut in cuts} == tiles.keys() == {"0000001", "0000002"}
    for cut in cuts:
        view = tiles[cut.tile_id].aerial
        assert cut.centre == tiles[cut.tile_id].position
        assert cut.size_m == pytest.approx(750 * view.metres_per_pixel, abs=1e-3)
        assert np.abs(source.read(cut, 8).pixels[0, 0, 0].astype(int) - int(cut.tile_id)) <= 2


def test_tiles_without_a_street_are_exported_and_images_are_not_copied(tmp_path):
    root, out = vigor_tree(tmp_path / "data"), tmp_path / "tiles"
    assert export_tiles("vigor", root, "same-train", out) == 2
    with (out / "tiles.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["size_m"]) for row in rows] == [pytest.approx(640 * 0.100817, abs=1e-3)] * 2
    for row in rows:
        original = root / "Seattle" / "satellite" / row["file"]
        assert (out / row["file"]).samefile(original)


def test_a_linked_image_is_exported_as_a_file(tmp_path):
    root, out = cvusa_tree(tmp_path / "data"), tmp_path / "tiles"
    image = root / "bingmap/19/0000001.jpg"
    image.rename(tmp_path / "elsewhere.jpg")
    image.symlink_to(tmp_path / "elsewhere.jpg")
    export_tiles("cvusa", root, "val", out)
    assert not (out / "0000001.jpg").is_symlink()
    assert ImageFolderSource(out).count(None, None) == 1


def test_own_pairs_are_exported_once_for_each_aerial(tmp_path):
    out = tmp_path / "tiles"
    assert export_tiles("folder", write_pairs(tmp_path / "data", 3), "all", out) == 3
    cuts = list(ImageFolderSource(out).cuts(None, None))
    assert [cut.tile_id for cut in cuts] == ["aerial-0", "aerial-1", "aerial-2"]
    assert cuts[1].centre == pytest.approx(LatLon(50.01, 8.0))
    assert cuts[1].size_m == 48


def test_aerials_with_absolute_paths_are_exported(tmp_path, monkeypatch):
    """A whole path inside the folder gives the id of the relative path."""
    root, other = write_pairs(tmp_path / "data", 3), tmp_path / "my tiles"
    other.mkdir()
    (root / "aerial-2.png").rename(other / "é.png")
    text = (root / "pairs.csv").read_text().replace("aerial-1.png", f"{root}/aerial-1.png")
    (root / "pairs.csv").write_text(text.replace("aerial-2.png", f"{other}/é.png"))
    monkeypatch.chdir(tmp_path)
    for number, folder in enumerate([root, root.relative_to(tmp_path)]):
        out = tmp_path / f"tiles-{number}"
        export_tiles("folder", folder, "all", out)
        first, second, third = (cut.tile_id for cut in ImageFolderSource(out).cuts(None, None))
        assert (first, second) == ("aerial-0", "aerial-1")
        assert third.endswith("-my_20tiles-_e9")


def unplaced(root):
    (root / "split_locations" / "all.csv").unlink()


def resized(root):
    touch(root / "bingmap/19/0000001.jpg", (256, 256))


def broken(root):
    (root / "bingmap/19/0000001.jpg").write_bytes(b"broken")


@pytest.mark.parametrize(
    ("damage", "names"),
    [
        (unplaced, "has no coordinates"),
        (resized, "is 256x256, not 750x750"),
        (broken, r"0000001\.jpg is no image"),
    ],
)
def test_a_tile_without_position_or_size_is_refused_and_leaves_no_file(tmp_path, damage, names):
    root = cvusa_tree(tmp_path / "data")
    damage(root)
    with pytest.raises(ExportError, match=names):
        export_tiles("cvusa", root, "all", tmp_path / "tiles")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_an_existing_folder_is_not_overwritten(tmp_path):
    (tmp_path / "tiles").mkdir()
    with pytest.raises(ExportError, match="exists already"):
        export_tiles("cvusa", cvusa_tree(tmp_path / "data"), "all", tmp_path / "tiles")


@pytest.mark.parametrize(
    ("aerials", "names"),
    [(["a b.png"], "'a b' is not"), (["x/a.png", "x-a.png"], "two tiles have the id 'x-a'")],
)
def test_the_export_refuses_ids_that_ingest_refuses(tmp_path, aerials, names):
    root = tmp_path / "data"
    header = ("street", "aerial", "metres_per_pixel", "latitude", "longitude")
    write_rows(root / "pairs.csv", [header, *(("s.png", aerial, 0.5, 50, 8) for aerial in aerials)])
    for name in ("s.png", *aerials):
        touch(root / name)
    with pytest.raises(ExportError, match=names):
        export_tiles("folder", root, "all", tmp_path / "tiles")

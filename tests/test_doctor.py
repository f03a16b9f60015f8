import numpy as np
import pytest
from dataset_samples import cvact_tree, cvusa_tree, touch, vigor_tree, write_rows
from pair_samples import write_pairs
from PIL import Image

from training import recipes
from training.__main__ import main
from training.data.datasets import load
from training.data.doctor import GAP, SIDE, examine, report_lines
from training.data.pairs import read_chip


def report(name, root):
    return "\n".join(report_lines(examine(name, root)))


def test_cvusa_counts_absent_files_and_compares_with_the_published_counts(tmp_path):
    text = report("cvusa", cvusa_tree(tmp_path))
    assert "train: 2 pairs listed (PUBLISHED: 35532), 1 there" in text
    assert "aerials: 1 of 2 ABSENT: bingmap/19/0000003.jpg" in text
    assert "panoramas: all 2 there" in text
    assert "train and val: disjoint" in text
    assert "panoramas, a sample: 2 of 1232x224\n" in text
    assert "tiles of the gallery: 1 of 3 ABSENT" in text
    assert text.endswith("\nusable")


def test_shared_and_repeated_pairs_and_unusual_sizes_are_reported(tmp_path):
    root = cvusa_tree(tmp_path)
    row = ["bingmap/19/0000002.jpg", "streetview/panos/0000002.jpg"]
    write_rows(root / "splits" / "val-19zl.csv", [row, row])
    touch(root / row[0], (256, 256))
    text = report("cvusa", root)
    assert "train and val: 1 pairs SHARED" in text
    assert "REPEATED: 1 ids, such as 0000002" in text
    assert "of 256x256 (PUBLISHED: 750x750)" in text


def test_an_unreadable_image_and_a_missing_list_leave_the_rest_usable(tmp_path):
    root = cvusa_tree(tmp_path)
    (root / "streetview/panos/0000002.jpg").write_bytes(b"broken")
    assert "UNREADABLE: 0000002: " in report("cvusa", root)
    (root / "splits" / "train-19zl.csv").unlink()
    text = report("cvusa", root)
    assert "train: UNUSABLE: " in text
    assert text.endswith("\nusable")


def test_pairs_without_a_heading_are_not_called_usable(tmp_path):
    root = write_pairs(tmp_path, 2)
    assert report("folder", root).endswith("\nusable")
    table = root / "pairs.csv"
    table.write_text("".join(f"{row[:-2]}\n" for row in table.read_text().splitlines()[1:]))
    header = "street,aerial,metres_per_pixel,latitude,longitude\n"
    table.write_text(header + table.read_text())
    text = report("folder", root)
    assert "UNREADABLE: street-0: north is unknown" in text
    assert text.endswith("NOT USABLE: no pair can be read")


def with_splits(root, *splits):
    table = write_pairs(root, len(splits)) / "pairs.csv"
    rows = table.read_text().splitlines()
    table.write_text("".join(f"{a},{b}\n" for a, b in zip(rows, ["split", *splits], strict=True)))
    return root


def test_own_pairs_are_reported_by_split(tmp_path):
    text = report("folder", with_splits(tmp_path, "train", "val", "train", ""))
    assert "\ntrain: 2 pairs listed, 2 there\n" in text
    assert "\nval: 1 pairs listed, 1 there\n" in text
    assert "\nwithout a split: 1 pairs listed, 1 there\n" in text
    assert [line for line in text.splitlines() if " and " in line] == ["train and val: disjoint"]


def test_own_pairs_without_splits_are_reported_as_all(tmp_path):
    assert "\nall: 2 pairs listed, 2 there\n" in report("folder", write_pairs(tmp_path, 2))


@pytest.mark.parametrize(
    ("name", "file", "content"),
    [
        ("folder", "pairs.csv", b"street,aerial,metres_per_pixel\n\xff\xfe,b,1"),
        ("town", "poses.csv", b"id,file,latitude,longitude\n0,0.jpg,north,8"),
        ("town", "poses.csv", b"id,file\n0,0.jpg"),
        ("cvusa", "splits/train-19zl.csv", b"\xff\xfe,\xff"),
    ],
)
def test_a_list_that_cannot_be_read_is_reported(tmp_path, name, file, content):
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    text = report(name, tmp_path)
    assert f"UNUSABLE: a list of {name} at {tmp_path} cannot be read: " in text


def shared_val(root):
    names = ["val-19zl.csv", "train-19zl.csv"]
    content = "".join((root / "splits" / name).read_text() for name in names)
    (root / "splits" / "val-19zl.csv").write_text(content)


def no_val(root):
    (root / "splits" / "val-19zl.csv").unlink()


def broken_street(root):
    (root / "streetview/panos/0000002.jpg").write_bytes(b"broken")


@pytest.mark.parametrize(
    ("damage", "names"),
    [
        (shared_val, "train and val share 2 pairs"),
        (no_val, "val is unusable"),
        (broken_street, "1 of 2 sampled are unreadable"),
    ],
)
def test_faults_beside_usable_pairs_give_exit_code_1(tmp_path, damage, names, capsys):
    root = cvusa_tree(tmp_path / "data")
    command = ["doctor", "cvusa", str(root), "--picture", str(tmp_path / "pair.png")]
    assert main(command) == 0  # though an image is absent
    damage(root)
    assert main(command) == 1
    streams = capsys.readouterr()
    assert f"cvusa at {root}: {names}\n" in streams.err
    assert "\nusable\n" in streams.out


@pytest.mark.parametrize("place", [(9999, 5), (5, -0.5), (65, 64)])
def test_a_point_outside_its_aerial_is_reported(tmp_path, place):
    table = write_pairs(tmp_path, 2) / "pairs.csv"
    header, *rows = table.read_text().splitlines()
    column, row = place
    ends = [f",{column},{row}", ",64,0"]  # the second point is a corner
    lines = [f"{header},column,row", *(a + b for a, b in zip(rows, ends, strict=True))]
    table.write_text("\n".join(lines))
    text = report("folder", tmp_path)
    (line,) = [line for line in text.splitlines() if line.startswith("UNREADABLE")]
    assert f"street-0: the point at column {column:g}, row {row:g} lies outside" in line
    assert line.endswith("aerial-0.png, which is 64x64")


def test_streets_of_one_name_in_two_folders_are_two_pairs(tmp_path):
    root = with_splits(tmp_path, "train", "val")
    table = root / "pairs.csv"
    text = table.read_text()
    for i in range(2):
        (root / f"{i}").mkdir()
        (root / f"street-{i}.png").rename(root / f"{i}" / "s.png")
        text = text.replace(f"street-{i}.png", f"{i}/s.png")
    table.write_text(text)
    assert "train and val: disjoint" in report("folder", root)


def without_places(root):
    (cvusa_tree(root) / "split_locations" / "all.csv").unlink()


@pytest.mark.parametrize(("name", "tree"), [("vigor", vigor_tree), ("cvusa", without_places)])
def test_a_warning_of_a_list_is_logged_once(tmp_path, name, tree, caplog):
    tree(tmp_path)
    examine(name, tmp_path)
    messages = [record.getMessage() for record in caplog.records]
    assert messages
    assert len(messages) == len(set(messages))


def test_vigor_s_points_are_checked_against_coordinates(tmp_path):
    text = report("vigor", vigor_tree(tmp_path))
    assert "same-train: 1 pairs listed (PUBLISHED: 52609), 1 there" in text
    assert "cross-train: UNUSABLE" in text
    assert "places: 2 streets stand 0.0" in text
    lists = tmp_path / "splits/Seattle/satellite_list.txt"
    lists.write_text(lists.read_text().splitlines()[1])
    assert "LOST: 2 pairs name a tile that the gallery lacks" in report("vigor", tmp_path)


def test_cvact_s_validation_pairs_may_be_among_its_test_pairs(tmp_path):
    text = report("cvact", cvact_tree(tmp_path))
    assert "train and val: disjoint" in text
    assert "train and test: disjoint" in text
    assert "SHARED" not in text


def test_the_picture_shows_panorama_projection_and_crop(tmp_path, capsys):
    root = cvusa_tree(tmp_path / "data")
    picture = tmp_path / "pair.png"
    assert main(["doctor", "cvusa", str(root), "--picture", str(picture)]) == 0
    assert str(picture) in capsys.readouterr().out
    image = np.asarray(Image.open(picture))
    assert image.shape == (SIDE, round(SIDE * 1232 / 224) + 2 * (SIDE + GAP), 3)
    config = recipes.find("msae-demo").encoder
    (pair,) = load("cvusa", root, "train")
    chip = read_chip(pair.aerial, config.aerial_footprint_m, SIDE, config.preprocessing.fill)
    assert (image[:, -SIDE:] == chip).all()
    assert main(["doctor", "cvusa", str(root), "--picture", str(tmp_path / "pair.txt")]) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "pair.png"]


def own_pairs_tree(root):
    return write_pairs(root, 2)


TREES = {"cvact": cvact_tree, "cvusa": cvusa_tree, "folder": own_pairs_tree, "vigor": vigor_tree}


@pytest.mark.parametrize("name", TREES)
@pytest.mark.parametrize("given", ["outer", "outer/inner/splits"])
def test_a_dataset_in_another_folder_is_pointed_at(tmp_path, name, given, capsys):
    right = tmp_path / "outer" / "inner"
    right.mkdir(parents=True)
    TREES[name](right)
    assert main(["doctor", name, str(tmp_path / given)]) == 1
    assert f"; {right} looks like {name}: give that folder\n" in capsys.readouterr().out
    assert main(["doctor", name, str(right)]) == (name == "vigor")  # whose tree has one city


def test_coordinates_at_the_root_are_pointed_at(tmp_path, caplog):
    places = cvusa_tree(tmp_path) / "split_locations" / "all.csv"
    places.rename(tmp_path / "all.csv")
    assert report("cvusa", tmp_path).endswith("\nusable")
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith(f"{places} is absent: the pairs have no coordinates; ")
    assert message.endswith(f"{tmp_path / 'all.csv'} exists: move it there")


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.mark.parametrize(
    "file", ["splits/train-19zl.csv", "split_locations/all.csv", "streetview/panos/0000002.jpg"]
)
def test_a_pointer_of_git_lfs_is_named(tmp_path, file):
    (cvusa_tree(tmp_path) / file).write_bytes(POINTER)
    assert "a Git LFS pointer, not the file itself: run `git lfs pull`" in report("cvusa", tmp_path)


def test_a_spreadsheet_is_no_list(tmp_path):
    (cvusa_tree(tmp_path) / "splits" / "val-19zl.csv").write_bytes(b"PK\x03\x04\x14\0\xff\xff")
    assert "val-19zl.csv is a ZIP archive or an office document" in report("cvusa", tmp_path)


@pytest.mark.parametrize("name", ["cvact", "cvusa", "folder", "town", "vigor"])
def test_nothing_usable_is_exit_code_1(tmp_path, name, capsys):
    assert main(["doctor", name, str(tmp_path)]) == 1
    streams = capsys.readouterr()
    assert "NOT USABLE" in streams.out
    assert "can be read" in streams.err


def test_real_cvusa_has_12_of_44416(real):
    findings = examine("cvusa", real / "cvusa")
    text = "\n".join(report_lines(findings))
    assert sum(len(listing.pairs) for listing in findings.listings.values()) == 44_416
    assert sum(len(listing.present) for listing in findings.listings.values()) == 12
    assert "PUBLISHED" not in text
    assert findings.usable


def test_real_lists_without_images_differ_from_an_empty_folder(real):
    findings = examine("vigor", real / "vigor")
    text = "\n".join(report_lines(findings))
    assert not findings.usable
    assert "same-train and same-test: disjoint" in text
    assert "20776 of 20776 ABSENT" in text

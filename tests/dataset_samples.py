"""Tiny trees with the layouts of the published datasets, made here."""

import csv
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

from model.geo import LatLon, offset

CANBERRA = (692_000.0, 6_092_000.0)  # UTM zone 55 south, metres
MIDDLE = LatLon(47.6, -122.3)  # of VIGOR's only tile with a street
QUERY_M = (5.0, 10.0)  # from the tile's middle to the street, east and north
SCALE = 0.100817


def write_rows(path: Path, rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def touch(path: Path, size=(16, 16), colour=(0, 0, 0)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def cvusa_tree(root: Path) -> Path:
    """Three listed pairs, of which the third has no aerial; coordinates for all."""

    def row(n):
        return [f"bingmap/19/{n:07d}.jpg", f"streetview/panos/{n:07d}.jpg", f"none/{n:07d}.png"]

    write_rows(root / "splits" / "train-19zl.csv", [row(2), row(3)])
    write_rows(root / "splits" / "val-19zl.csv", [row(1)])
    places = [[0, 0, 60.0 - i, -100.0 + i, 5] for i in range(3)]
    write_rows(root / "split_locations" / "all.csv", places)
    for n in (1, 2, 3):
        touch(root / row(n)[1], (1232, 224))
    for n in (1, 2):
        touch(root / row(n)[0], (750, 750), (n, 0, 0))
    return root


def cvact_tree(root: Path, *, as_cells: bool = False, first=CANBERRA) -> Path:
    """Pairs a-d, each 100 m east of the one before: train d, b; val a; test a, c (c is absent).

    first: the stated position of pair a, in UTM.
    """
    ids = np.array([f"{letter}-pano_id" for letter in "abcd"])
    groups = {
        "trainSet": {"trainInd": [[4], [2]]},
        "valSet": {"valInd": [[1]]},
        "valSetAll": {"valInd": [[1], [3]]},
    }
    utm = np.array([[CANBERRA[0] + 100 * i, CANBERRA[1]] for i in range(4)])
    utm[0] = first
    table = {"panoIds": ids.astype(object) if as_cells else ids, "utm": utm, **groups}
    savemat(root / "ACT_data.mat", table)
    for folder, letters in (("ANU_data_small", "abd"), ("ANU_data_test", "a")):
        for letter in letters:
            name = f"{letter}-pano_id"
            touch(root / folder / "streetview" / f"{name}_grdView.jpg", (1664, 832))
            touch(root / folder / "satview_polish" / f"{name}_satView_polish.jpg", (1200, 1200))
    return root


def vigor_tree(root: Path, ground: str = "{city}/panorama", satellite: str = "{city}/satellite"):
    """Seattle alone: two tiles, a street in the first, a red spot at the street's point."""
    east, north = QUERY_M
    place = offset(MIDDLE, east, north)
    street = f"abc-_1,{place.latitude:.6f},{place.longitude:.6f},.jpg"
    tile, other = (
        f"satellite_{MIDDLE.latitude}_{MIDDLE.longitude}.png",
        "satellite_47.61_-122.3.png",
    )
    touch(root / ground.format(city="Seattle") / street, (2048, 1024))
    tiles = root / satellite.format(city="Seattle")
    image = Image.open(touch(tiles / tile, (640, 640)))
    spot = (round(320 + east / SCALE), round(320 - north / SCALE))
    image.paste((255, 0, 0), (spot[0] - 5, spot[1] - 5, spot[0] + 5, spot[1] + 5))
    image.save(tiles / tile)
    touch(tiles / other, (640, 640))
    delta = f"{-north / SCALE:.1f} {-east / SCALE:.1f}"
    lists = root / "splits" / "Seattle"
    lists.mkdir(parents=True)
    (lists / "satellite_list.txt").write_text(f"{tile}\n{other}\n")
    line = f"{street} {tile} {delta} " + " ".join([f"{other} 0.0 0.0"] * 3) + "\n"
    (lists / "same_area_balanced_train__corrected.txt").write_text(line)
    (lists / "same_area_balanced_test.txt").write_text(line.replace("abc-_1", "uncorrected"))
    touch(root / ground.format(city="Seattle") / street.replace("abc-_1", "uncorrected"), (64, 32))
    return root

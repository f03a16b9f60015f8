"""VIGOR: 105,214 panoramas and 90,618 overlapping tiles of four cities, aligned to north.

Layout: <City>/panorama and <City>/satellite, or rearranged as ground/ and satellite/, with or
without a folder a city inside; the lists in splits/<City>/. The corrected lists, whose names end
in __corrected.txt, are preferred: the published lists place streets metres off.

Published with the corrected lists: each city's scale, which is Web Mercator's level 20, and the
street's point. The lists' positions agree (Seattle: 0.1007 to 0.1010 m per pixel); no road of an
image was measured. Published: north is the panorama's middle.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from model.geo import LatLon
from model.panorama import PanoramaGeometry
from training.data.datasets import list_files
from training.data.pairs import AerialPoint, GalleryTile, Pair, PairError

AERIAL_SIZE = (640, 640)
GEOMETRY = PanoramaGeometry()  # the full sphere, its centre column north
METRES_PER_PIXEL = {
    "NewYork": 0.113248,
    "Seattle": 0.100817,
    "SanFrancisco": 0.118141,
    "Chicago": 0.111262,
}
LIST_FOLDERS = ("splits__corrected", "splits_corrected", "splits", ".")


class Part(NamedTuple):
    """The cities of a split, and the list that names its panoramas in each."""

    cities: Sequence[str]
    list_name: str


PARTS = {
    "same-train": Part(list(METRES_PER_PIXEL), "same_area_balanced_train"),
    "same-test": Part(list(METRES_PER_PIXEL), "same_area_balanced_test"),
    "cross-train": Part(["NewYork", "Seattle"], "pano_label_balanced"),
    "cross-test": Part(["SanFrancisco", "Chicago"], "pano_label_balanced"),
}


def pairs(root: Path, split: str) -> Sequence[Pair]:
    """The listed pairs, with the positive tile; "all" is both same-area splits."""
    names = ["same-train", "same-test"] if split == "all" else [split]
    files = [file for name in names for file in _lists(root, *PARTS[name])]
    return [pair for city, path in files for pair in _city_pairs(root, city, path)]


def gallery(root: Path, split: str) -> Sequence[GalleryTile]:
    """All tiles of the split's cities."""
    cities = PARTS["same-test" if split == "all" else split].cities
    return [
        GalleryTile(tile.stem, _point(city, tile), _tile_position(tile, path))
        for city, path in _lists(root, cities, "satellite_list")
        for folder in [_folder(root, city, "satellite")]
        for tile in [folder / name for name in list_files.text(path).split()]
    ]


def _lists(root: Path, cities: Sequence[str], name: str) -> list[tuple[str, Path]]:
    """The list of each city. Cities without a list are logged. Raises PairError if all lack it."""
    every = {city: _list(root, city, name) for city in cities}
    found = [(city, path) for city, path in every.items() if path is not None]
    if not found:
        lacking = root / "splits" / cities[0] / f"{name}__corrected.txt"
        raise PairError(f"{lacking} is missing, as in every other city: is this VIGOR's root?")
    if len(found) < len(cities):
        lacking_cities = ", ".join(city for city, path in every.items() if path is None)
        list_files.warn_once(f"VIGOR at {root}: left out, without a list {name}: {lacking_cities}")
    for _, path in found:
        if name != "satellite_list" and "__corrected" not in path.name:
            list_files.warn_once(f"{path} is not the corrected list: its positions are metres off")
    return found


def _list(root: Path, city: str, name: str) -> Path | None:
    endings = ("__corrected.txt", ".txt")
    paths = [root / f / city / (name + end) for end in endings for f in LIST_FOLDERS]
    return next((path for path in paths if path.is_file()), None)


def _city_pairs(root: Path, city: str, path: Path) -> list[Pair]:
    streets, tiles = _folder(root, city, "panorama", "ground"), _folder(root, city, "satellite")
    pairs = []
    for number, line in enumerate(list_files.text(path).splitlines(), 1):
        if not line.strip():
            continue
        with list_files.fault_at(f"{path}, line {number} is no pair of VIGOR"):
            pairs.append(_pair(city, streets, tiles, line.split()))
    return pairs


def _pair(city: str, streets: Path, tiles: Path, fields: Sequence[str]) -> Pair:
    """A line's pair: a panorama, then four times a tile and its middle, pixels north and east."""
    if len(fields) != 13:
        raise ValueError(f"{len(fields)} fields, not 13")
    street, tile, north, east = fields[:4]
    name, latitude, longitude = street.split(",")[:3]
    return Pair(
        id=name,
        street=streets / street,
        aerial=_point(
            city, tiles / tile, list_files.number("north", north), list_files.number("east", east)
        ),
        geometry=GEOMETRY,
        position=list_files.position(latitude, longitude),
        tile=Path(tile).stem,
        semi_positives=tuple(Path(other).stem for other in fields[4::3]),
    )


def _point(city: str, tile: Path, north: float = 0.0, east: float = 0.0) -> AerialPoint:
    """The point whose tile's middle lies so many pixels to its north and east."""
    row, column = AERIAL_SIZE[0] / 2 + north, AERIAL_SIZE[1] / 2 - east
    return AerialPoint(tile, METRES_PER_PIXEL[city], column, row)


def _tile_position(tile: Path, source: Path) -> LatLon:
    expected = f"{source} names {tile.name!r}, expected satellite_<lat>_<lon>.png"
    with list_files.fault_at(expected):
        _, latitude, longitude = tile.stem.split("_")
        return list_files.position(latitude, longitude)


def _folder(root: Path, city: str, *kinds: str) -> Path:
    """The folder of a city's images of a kind: as published, else as rearranged."""
    official = [root / city / kind for kind in kinds]
    others = [folder for kind in kinds for folder in (root / kind / city, root / kind)]
    return next((folder for folder in (*official, *others) if folder.is_dir()), official[0])

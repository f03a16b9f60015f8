"""A folder of aerial images with a CSV of their positions: each image is one tile.

`tiles.csv` (or the only CSV with its columns) has a header; the columns, in any order:
    id         the tile's own name, kept as it is
    latitude   or lat: of the image's centre, WGS84 degrees
    longitude  or lon, lng
    size_m     or size: ground width and height of the image, metres
    file       optional, relative to the folder; else the id, with or without an image suffix
Images are square and north up.
"""

from __future__ import annotations

import csv
import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from model.geo import LatLon
from model.images import ImageError, Rgb, decode_image
from service.imagery.grid import check_metres
from service.imagery.source import (
    TILE_ID,
    Cut,
    Source,
    SourceError,
    SourceMissing,
    TileImage,
    source_name,
)

SUFFIXES = ("", ".jpg", ".jpeg", ".png", ".webp")
MAX_SIZE_MISMATCH = 0.05  # share by which an image may be smaller than its tile
MAX_OBLONG = 0.02  # height against width
COLUMNS = ("id", "latitude", "longitude", "size_m")
SHORT = {"lat": "latitude", "lon": "longitude", "lng": "longitude", "size": "size_m"}


class Placed(NamedTuple):
    """One row of the CSV, checked."""

    file: Path
    centre: LatLon
    size_m: float


class ImageFolderSource(Source):
    """A folder of images, which are on no grid. Tiles smaller than their images are cut from the
    images' middles."""

    kind = "folder"

    def __init__(self, path: Path, name: str | None = None) -> None:
        """Reads and checks the whole CSV and that every file is there; decodes no image.

        Raises:
            SourceError: no CSV, missing columns, or bad rows, all of them counted.
        """
        self.path = path
        self.name = source_name(path, name)
        self._csv = _find_csv(path)
        self._tiles = _read_csv(self._csv)

    def signature(self) -> str:
        """A digest of the CSV and of every image's size and modification time."""
        digest = hashlib.sha256(self._csv.read_bytes())
        for tile in self._tiles.values():
            stat = tile.file.stat()
            digest.update(f"{tile.file.name}-{stat.st_size}-{stat.st_mtime_ns}".encode())
        return digest.hexdigest()

    def count(self, size_m: float | None, stride_m: float | None) -> int:
        return len(self._tiles)

    def cuts(self, size_m: float | None, stride_m: float | None) -> Iterator[Cut]:
        """The images in the CSV's order, `size_m` wide where they are larger; no stride needed.

        Raises:
            SourceError: images smaller than `size_m` by more than MAX_SIZE_MISMATCH.
        """
        least_m = 0.0
        if size_m is not None:
            least_m = check_metres("tile size", size_m) * (1.0 - MAX_SIZE_MISMATCH)
        small = [(name, tile) for name, tile in self._tiles.items() if tile.size_m < least_m]
        if small:
            name, tile = small[0]
            raise SourceError(
                f"{self._csv}: {len(small)} of {len(self._tiles)} images show less ground than "
                f"tiles of {size_m:g} m need, the first is {name!r} with {tile.size_m:g} m: "
                "correct size_m in the CSV, or use imagery of the size the encoder was trained on"
            )
        for name, tile in self._tiles.items():
            yield Cut(name, tile.centre, min(tile.size_m, size_m or tile.size_m))

    def read(self, cut: Cut, pixels: int) -> TileImage:
        """The middle of the image, as wide as the cut."""
        tile = self._tiles.get(cut.tile_id)
        if tile is None:
            raise SourceError(f"{self._csv}: no row has the id {cut.tile_id!r} any more")
        share = cut.size_m / tile.size_m
        image = _decode(tile.file, math.ceil(pixels / share))
        height, width = image.shape[:2]
        if abs(height / width - 1.0) > MAX_OBLONG:
            raise SourceError(f"{tile.file.name} is {width}x{height} pixels: tiles are square")
        margin = np.array([width, height]) * (1.0 - share) / 2.0
        box = (margin[0], margin[1], width - margin[0], height - margin[1])
        small = Image.fromarray(image).resize((pixels, pixels), Image.Resampling.BICUBIC, box=box)
        return TileImage(np.asarray(small), 1.0)


def _decode(file: Path, side: int) -> Rgb:
    try:
        return decode_image(file.read_bytes(), min_size=(side, side))
    except FileNotFoundError as error:
        raise SourceMissing(f"{file} is no longer there") from error
    except (OSError, ImageError) as error:
        raise SourceError(f"{file.name}: {error}") from error


def has_columns(file: Path) -> bool:
    """Whether a CSV's header names the columns of tiles.csv."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            header = next(csv.reader(lines), [])
    except (OSError, UnicodeDecodeError, csv.Error):
        return False
    return set(COLUMNS) <= _plain(dict.fromkeys(header, "")).keys()


def _find_csv(folder: Path) -> Path:
    named = folder / "tiles.csv"
    if named.is_file():
        return named
    found = sorted(folder.glob("*.csv"))
    found = [file for file in found if has_columns(file)] or found
    if len(found) != 1:
        raise SourceError(
            f"{folder} holds {len(found)} CSV files and no tiles.csv: write one with the columns "
            "id, latitude, longitude, size_m (rasters and z/x/y map tiles need none)"
        )
    return found[0]


def _read_csv(path: Path) -> dict[str, Placed]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            table = [_plain(row) for row in csv.DictReader(lines)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"{path}: not a readable CSV file: {error}") from error
    if not table:
        raise SourceError(f"{path} lists no tile: it needs a header and one row for each image")
    missing = [name for name in COLUMNS if name not in table[0]]
    if missing:
        raise SourceError(f"{path} lacks the columns {missing}; it has {sorted(table[0])}")
    tiles: dict[str, Placed] = {}
    counts = Counter(row["id"] for row in table)
    problems = [f"id {name!r} occurs {n} times" for name, n in counts.items() if n > 1]
    for line, row in enumerate(table, start=2):
        try:
            tiles[row["id"]] = _placed(path.parent, row)
        except ValueError as error:
            problems.append(f"line {line}: {error}")
    if problems:
        shown = "; ".join(problems[:5])
        raise SourceError(f"{path}: {len(problems)} of {len(table)} rows are unusable: {shown}")
    return tiles


def _plain(row: Mapping[str | None, str | None]) -> dict[str, str]:
    plain = {k.strip().lower(): (v or "").strip() for k, v in row.items() if isinstance(k, str)}
    for short, name in SHORT.items():
        if short in plain:
            plain.setdefault(name, plain.pop(short))
    return plain


def _placed(folder: Path, row: Mapping[str, str]) -> Placed:
    if not TILE_ID.fullmatch(row["id"]):
        raise ValueError(f"id {row['id']!r} is not 1-128 of the characters A-Z a-z 0-9 . _ -")
    latitude, longitude, size_m = (_number(row, name) for name in COLUMNS[1:])
    if abs(latitude) > 90.0 or abs(longitude) > 180.0:
        raise ValueError(f"latitude {latitude:g}, longitude {longitude:g} is not on Earth")
    if size_m <= 0.0:
        raise ValueError(f"size_m {size_m:g} is not positive")
    return Placed(_file(folder, row), LatLon(latitude, longitude), size_m)


def _number(row: Mapping[str, str], name: str) -> float:
    try:
        value = float(row[name])
    except ValueError:
        raise ValueError(f"{name} {row[name]!r} is not a number") from None
    if not math.isfinite(value):
        raise ValueError(f"{name} {row[name]!r} is not finite")
    return value


def _file(folder: Path, row: Mapping[str, str]) -> Path:
    given = row.get("file", "")
    candidates = [given] if given else [row["id"] + suffix for suffix in SUFFIXES]
    for candidate in candidates:
        file = folder / candidate
        if file.is_file():
            if not file.resolve().is_relative_to(folder.resolve()):
                raise ValueError(f"file {candidate!r} lies outside the folder")
            return file
    raise ValueError(f"file {candidates[0]!r} is missing")

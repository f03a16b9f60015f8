"""A dataset's tiles as a folder with tiles.csv, for `skyfix ingest`."""

from __future__ import annotations

import csv
import errno
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from model.atomic_write import atomic_folder, sync
from model.errors import SkyfixError
from training.data import datasets
from training.data.pairs import GalleryTile
from training.progress import progress_bar

COLUMNS = ("id", "file", "latitude", "longitude", "size_m")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
TILE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")  # as `skyfix ingest` requires


class ExportError(SkyfixError):
    """`skyfix ingest` could not use the tiles."""


def export_tiles(name: str, root: Path, split: str, out: Path) -> int:
    """Write the gallery of a split; returns the number of tiles.

    The images are hard links if the file system allows it, else copies. The folder appears
    complete or not at all.

    Raises:
        PairError: as `datasets.load_gallery`. ExportError: `out` exists, or a tile has no
            position, no usable id, or no square image of the published size.
    """
    tiles = datasets.load_gallery(name, root, split)
    size = datasets.find(name).aerial_size
    _check(tiles)
    out.parent.mkdir(parents=True, exist_ok=True)
    with (
        atomic_folder(out, ExportError) as folder,
        progress_bar("exporting tiles", len(tiles)) as advance,
    ):
        rows = []
        for tile in tiles:
            rows.append(_row(tile, size))
            _link(tile.aerial.path, folder / rows[-1][1])
            advance()
        with (folder / "tiles.csv").open("w", newline="") as file:
            csv.writer(file).writerows([COLUMNS, *rows])
        sync(folder / "tiles.csv")
    return len(tiles)


def _check(tiles: Sequence[GalleryTile]) -> None:
    """Refuse rasters and unusable or repeated ids before any image is copied."""
    seen: set[str] = set()
    for tile in tiles:
        path = tile.aerial.path
        if path.suffix.lower() not in SUFFIXES:
            raise ExportError(f"{path} is a raster: give it to `skyfix ingest` as it is")
        if not TILE_ID.fullmatch(tile.id):
            allowed = "1-128 of A-Z a-z 0-9 . _ -"
            raise ExportError(f"tile id {tile.id!r} is not {allowed}: rename or move {path}")
        if tile.id in seen:
            raise ExportError(f"two tiles have the id {tile.id!r}: rename one of their files")
        seen.add(tile.id)


def _row(tile: GalleryTile, size: tuple[int, int] | None) -> tuple[str, str, float, float, float]:
    """The line of tiles.csv; reads the image's header."""
    path, position = tile.aerial.path, tile.position
    if position is None:
        raise ExportError(f"tile {tile.id} has no coordinates: an index needs them")
    try:
        with Image.open(path) as image:
            width, height = image.size
    except UnidentifiedImageError as error:
        raise ExportError(f"{path} is no image: fetch it again, or remove it") from error
    if (height, width) != (size or (width, width)):
        expected = f"{size[1]}x{size[0]}" if size else "square"
        raise ExportError(f"{path} is {width}x{height}, not {expected}: its metres are unknown")
    size_m = round(width * tile.aerial.metres_per_pixel, 4)
    name = tile.id + path.suffix.lower()
    return tile.id, name, position.latitude, position.longitude, size_m


def _link(source: Path, target: Path) -> None:
    """A hard link, never a symbolic link: the folder must stand on its own."""
    try:
        os.link(source.resolve(), target)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
            raise
        shutil.copyfile(source, target)

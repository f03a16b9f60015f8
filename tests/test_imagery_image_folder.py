"""A folder's images are tiles under their own names; every bad row is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from imagery_samples import patchwork, write_folder, write_rows
from PIL import Image

from model.geo import LatLon
from service.imagery.image_folder import ImageFolderSource
from service.imagery.source import Cut, SourceError, SourceMissing
from service.imagery.source_kinds import open_source

HEADER = ["id", "latitude", "longitude", "size_m"]


def test_each_image_is_one_tile(tmp_path: Path) -> None:
    source = open_source(write_folder(tmp_path / "tiles"), "cvusa")
    cuts = list(source.cuts(None, None))
    assert [cut.tile_id for cut in cuts] == ["0", "1", "2", "3"]
    assert cuts[1].centre == LatLon(50.0009, 15.0)
    assert {cut.size_m for cut in cuts} == {64.0}
    picture = source.read(cuts[2], 96)
    assert (picture.pixels == patchwork(96, 96, seed=2)).all()
    assert picture.valid == 1.0


def test_smaller_tiles_are_the_middles_of_the_images(tmp_path: Path) -> None:
    source = ImageFolderSource(write_folder(tmp_path, size_m=128.0))
    cut = next(source.cuts(64.0, None))
    assert cut.size_m == 64.0
    assert (source.read(cut, 48).pixels == patchwork(96, 96)[24:72, 24:72]).all()


def test_a_slightly_small_image_is_used_whole_and_a_much_smaller_image_refused(
    tmp_path: Path,
) -> None:
    source = ImageFolderSource(write_folder(tmp_path, size_m=62.0))
    assert next(source.cuts(64.0, None)).size_m == 62.0
    with pytest.raises(SourceError, match="4 of 4 images show less ground"):
        next(source.cuts(100.0, None))


def test_short_column_names_and_the_file_column(tmp_path: Path) -> None:
    write_folder(tmp_path)
    write_rows(tmp_path, ["size", "lon", "lat", "ID", "file"], [[64, 15, 50, "a", "1.png"]])
    (cut,) = ImageFolderSource(tmp_path).cuts(None, None)
    assert cut == Cut("a", LatLon(50.0, 15.0), 64.0)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (["9", 50, 15, 64], "'9' is missing"),
        (["0", 50, 15, 0], "size_m 0 is not positive"),
        (["0", 95, 15, 64], "is not on Earth"),
        (["0", "north", 15, 64], "latitude 'north' is not a number"),
        (["0", 50, "nan", 64], "not finite"),
        (["../0", 50, 15, 64], "is not 1-128"),
        (["", 50, 15, 64], "is not 1-128"),
        (["1", 50, 15, 64], "'1' occurs 2 times"),
    ],
)
def test_bad_rows_are_named(row: list[Any], reason: str, tmp_path: Path) -> None:
    write_folder(tmp_path)
    write_rows(tmp_path, HEADER, [["1", 50, 15, 64], row])
    with pytest.raises(SourceError, match=r"1 of 2 rows are unusable.*" + reason):
        ImageFolderSource(tmp_path)


def test_a_file_outside_the_folder_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "tiles")
    Image.fromarray(patchwork(32, 32)).save(tmp_path / "secret.png")
    write_rows(folder, [*HEADER, "file"], [["a", 50, 15, 64, "../secret.png"]])
    with pytest.raises(SourceError, match="outside the folder"):
        ImageFolderSource(folder)


def test_folders_without_a_list_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="0 CSV files"):
        ImageFolderSource(tmp_path)
    write_rows(tmp_path, HEADER, [])
    with pytest.raises(SourceError, match="lists no tile"):
        ImageFolderSource(tmp_path)
    write_rows(tmp_path, ["id", "latitude"], [["a", 1]])
    with pytest.raises(SourceError, match=r"lacks the columns \['longitude', 'size_m'\]"):
        ImageFolderSource(tmp_path)
    with pytest.raises(SourceMissing, match="neither a raster file nor a folder"):
        open_source(tmp_path / "nothing")


def test_an_oblong_or_broken_image_is_refused_when_read(tmp_path: Path) -> None:
    source = ImageFolderSource(write_folder(tmp_path))
    cuts = list(source.cuts(None, None))
    Image.fromarray(patchwork(40, 80)).save(tmp_path / "0.png")
    (tmp_path / "1.png").write_bytes(b"\x89PNG")
    (tmp_path / "2.png").unlink()
    for cut, reason in zip(cuts, ["80x40", "1.png", "no longer there"], strict=False):
        with pytest.raises(SourceError, match=reason):
            source.read(cut, 32)


def test_the_signature_follows_the_files(tmp_path: Path) -> None:
    source = ImageFolderSource(write_folder(tmp_path))
    before = source.signature()
    assert ImageFolderSource(tmp_path).signature() == before
    Image.fromarray(np.zeros((96, 96, 3), np.uint8)).save(tmp_path / "0.png")
    assert source.signature() != before

"""Imagery becomes tiles; what holds nothing is skipped and counted; errors change nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from imagery_samples import patchwork, write_folder, write_raster

from service.imagery.source import SourceError, SourceMissing
from service.imagery.tiles import tile_image
from service.index.catalogue import Catalogue, TileUnknown
from service.ingest import BadPictures, IngestReport, NothingToIngest, ingest


@pytest.fixture
def catalogue(tmp_path: Path) -> Iterator[Catalogue]:
    with Catalogue.of(tmp_path / "home") as catalogue:
        yield catalogue


def changes(report: IngestReport) -> tuple[int, ...]:
    return report.added, report.updated, report.removed, report.unchanged


def test_again_changes_nothing_and_an_edit_changes_the_tiles_it_touches(
    catalogue: Catalogue, tmp_path: Path
) -> None:
    image = patchwork(400, 400)
    path = write_raster(tmp_path / "town.tif", image)
    first = ingest(catalogue, path, size_m=32.0, stride_m=32.0)
    assert changes(first) == (first.tiles, 0, 0, 0)
    assert changes(ingest(catalogue, path, size_m=32.0, stride_m=32.0)) == (0, 0, 0, first.tiles)
    image[100:110, 100:110] = 0
    write_raster(path, image)
    edited = ingest(catalogue, path, size_m=32.0, stride_m=32.0)
    assert 1 <= edited.updated <= 4
    assert edited.unchanged == first.tiles - edited.updated


def test_empty_tiles_are_skipped_and_counted(catalogue: Catalogue, tmp_path: Path) -> None:
    image = patchwork(400, 400)
    image[:, 200:] = 0
    report = ingest(catalogue, write_raster(tmp_path / "a.tif", image, nodata=0), size_m=32.0)
    assert report.skipped_empty == pytest.approx(report.tiles, rel=0.15)
    assert catalogue.count() == report.tiles
    all_of_them = report.tiles + report.skipped_empty
    assert ingest(catalogue, tmp_path / "a.tif", size_m=32.0, min_valid=0.0).tiles == all_of_them


def test_imagery_that_gives_no_tile_is_an_error(catalogue: Catalogue, tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", np.zeros((300, 300, 3), np.uint8), nodata=0)
    with pytest.raises(NothingToIngest, match=r"covered by imagery to less than 50%"):
        ingest(catalogue, path, size_m=64.0)
    assert catalogue.sources() == []


def test_a_folders_bad_images_are_counted_together(catalogue: Catalogue, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "tiles")
    ingest(catalogue, folder, size_m=None)
    for bad in ("1.png", "3.png"):
        (folder / bad).write_bytes(b"broken")
    with pytest.raises(BadPictures, match=r"2 tiles .* 1\.png.* 3\.png"):
        ingest(catalogue, folder, size_m=None)
    assert catalogue.count() == 4


def test_the_source_is_recorded(catalogue: Catalogue, tmp_path: Path) -> None:
    path = write_raster(tmp_path / "My Town.tif", patchwork(300, 300))
    ingest(catalogue, path, size_m=32.0, licence="CC0", attribution="us")
    record = catalogue.source("My-Town")
    assert (record.size_m, record.stride_m, record.licence) == (32.0, 8.0, "CC0")
    assert next(catalogue.tiles()).tile_id.startswith("My-Town-8m-n")
    with pytest.raises(SourceError, match="'a/b'"):
        ingest(catalogue, path, size_m=32.0, name="a/b")


def test_progress_ends_at_the_number_of_cuts(catalogue: Catalogue, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    folder = write_folder(tmp_path / "tiles")
    ingest(catalogue, folder, size_m=None, progress=lambda *at: seen.append(at))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_tiles_picture_is_cut_again_at_any_size(catalogue: Catalogue, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "tiles")
    ingest(catalogue, folder, size_m=None)
    assert (tile_image(catalogue, "2", 96) == patchwork(96, 96, seed=2)).all()
    with pytest.raises(TileUnknown, match="'nowhere'"):
        tile_image(catalogue, "nowhere", 96)
    folder.rename(tmp_path / "moved")
    with pytest.raises(SourceMissing, match="source 'tiles' is gone from"):
        tile_image(catalogue, "2", 96)

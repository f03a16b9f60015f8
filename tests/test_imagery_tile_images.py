"""A build cuts the imagery that was ingested, or raises."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from imagery_samples import patchwork, write_folder, write_raster

from service.imagery.tile_images import ImageryChanged, TileImages
from service.index.catalogue import Catalogue
from service.ingest import HASH_PIXELS, content_hash, ingest


@pytest.fixture
def catalogue(tmp_path: Path) -> Iterator[Catalogue]:
    with Catalogue.of(tmp_path / "home") as catalogue:
        yield catalogue


def images_of(catalogue: Catalogue, pixels: int = 32) -> TileImages:
    sources = {source.name: source for source in catalogue.sources()}
    return TileImages(sources, list(catalogue.tiles()), pixels)


def test_a_tile_is_cut_again_like_the_ingested_tile(catalogue: Catalogue, tmp_path: Path) -> None:
    image = patchwork(400, 400).astype(np.uint16) * 16
    for _ in range(2):  # the second time with the range of values that the first reading found
        write_raster(tmp_path / "town.tif", image)
        ingest(catalogue, tmp_path / "town.tif", size_m=32.0, stride_m=16.0)
        image[:40, :40] = 65_535
    tiles = list(catalogue.tiles())
    with images_of(catalogue, HASH_PIXELS) as reader:
        for rows, images in reader.batches(np.arange(len(tiles)), 64):
            for row, image in zip(rows, images, strict=True):
                assert content_hash(image) == tiles[row].sha256


def edit_raster(town: Path) -> None:
    write_raster(town / "a.tif", patchwork(400, 400, seed=1))


def break_raster(town: Path) -> None:
    (town / "a.tif").write_bytes((town / "a.tif").read_bytes()[:100_000])


def edit_image(town: Path) -> None:
    shutil.copy(town / "1.png", town / "20.png")


def remove_image(town: Path) -> None:
    (town / "0.png").unlink()


@pytest.mark.parametrize("change", [edit_raster, break_raster, edit_image, remove_image])
def test_a_change_during_a_build_is_noticed(
    catalogue: Catalogue, tmp_path: Path, change: object
) -> None:
    assert callable(change)
    town = tmp_path / "town"
    if change in (edit_raster, break_raster):
        town.mkdir()
        write_raster(town / "a.tif", patchwork(400, 400))
    else:
        write_folder(town, 40)
    count = ingest(catalogue, town, size_m=64.0).tiles
    with images_of(catalogue) as reader:
        batches = reader.batches(np.arange(count), 8)
        next(batches)
        reader.check()
        change(town)
        with pytest.raises(ImageryChanged, match=r"'town' .* has changed since"):
            reader.check()
        with pytest.raises(ImageryChanged, match=r"'town' .* has changed since"):
            list(batches)

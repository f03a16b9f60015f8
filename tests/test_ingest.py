"""Imagery becomes tiles; empty tiles are skipped and counted; errors change nothing."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import rasterio
from imagery_samples import EAST_M, NORTH_M, patchwork, write_folder, write_raster
from pyproj import Transformer

from service.imagery.grid import GridError
from service.imagery.reading import Reading
from service.imagery.source import SourceError, SourceMissing
from service.imagery.source_kinds import open_source
from service.imagery.tile_images import tile_image
from service.index.catalogue import Catalogue, TileUnknown
from service.ingest import BadImages, IngestReport, NothingToIngest, ingest


@pytest.fixture
def catalogue(tmp_path: Path) -> Iterator[Catalogue]:
    with Catalogue.of(tmp_path / "home") as catalogue:
        yield catalogue


def changes(report: IngestReport) -> tuple[int, ...]:
    return report.added, report.updated, report.removed, report.unchanged


def test_a_second_ingest_changes_nothing_and_an_edit_changes_only_its_tiles(
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


@pytest.mark.parametrize(("corner", "value"), [(0, 65_535), (250, 0), (730, 65_535)])
def test_an_edit_of_a_hundredth_of_16_bits_changes_no_other_tile(
    catalogue: Catalogue, tmp_path: Path, corner: int, value: int
) -> None:
    image = np.random.default_rng(0).normal(9_000, 1_500, (800, 800, 3)).astype(np.uint16)
    path = write_raster(tmp_path / "town.tif", image)
    ingest(catalogue, path, size_m=32.0, stride_m=32.0)
    before = {tile.tile_id: tile for tile in catalogue.tiles()}
    edit = slice(corner, corner + 80)
    image[edit, edit] = value
    write_raster(path, image)
    ingest(catalogue, path, size_m=32.0, stride_m=32.0)
    to_utm = Transformer.from_crs(4326, 32633, always_xy=True)
    for tile in catalogue.tiles():
        east, north = to_utm.transform(tile.longitude, tile.latitude)
        at = 2.0 * (east - EAST_M), 2.0 * (NORTH_M - north)  # pixels of 0.5 m
        off = max(abs(coordinate - (corner + 40)) for coordinate in at)
        if off < 40 + 32 - 4:
            assert tile.sha256 != before[tile.tile_id].sha256
        if off > 40 + 32 + 4:
            assert tile == before[tile.tile_id]


def test_empty_tiles_are_skipped_and_counted(catalogue: Catalogue, tmp_path: Path) -> None:
    image = patchwork(400, 400)
    image[:, 200:] = 0
    report = ingest(catalogue, write_raster(tmp_path / "a.tif", image, nodata=0), size_m=32.0)
    assert report.skipped_empty == pytest.approx(report.tiles, rel=0.15)
    assert len(list(catalogue.tiles())) == report.tiles
    all_of_them = report.tiles + report.skipped_empty
    assert len(list(open_source(tmp_path / "a.tif").cuts(32.0, 8.0))) == all_of_them


def test_imagery_that_gives_no_tile_is_an_error(catalogue: Catalogue, tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", np.zeros((300, 300, 3), np.uint8), nodata=0)
    with pytest.raises(NothingToIngest, match=r"imagery covers less than 50% of each of the \d+"):
        ingest(catalogue, path, size_m=64.0)
    assert catalogue.sources() == []


def test_blank_tiles_are_refused_or_counted(
    catalogue: Catalogue, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    image = patchwork(400, 400) // 64  # dark grey levels, unlike each other by 3
    with pytest.raises(NothingToIngest, match=r"a\.tif: (\d+) of \1 tiles are black .* --nodata"):
        ingest(catalogue, write_raster(tmp_path / "a.tif", image), size_m=32.0)
    assert catalogue.sources() == []
    image = patchwork(400, 400)
    image[:, 200:] = 255
    report = ingest(catalogue, write_raster(tmp_path / "a.tif", image), size_m=32.0)
    assert re.search(rf"source a: \d+ of {report.tiles} tiles are black or white", caplog.text)


def test_a_nodata_value_changes_the_range_of_unchanged_files(
    catalogue: Catalogue, tmp_path: Path
) -> None:
    image = patchwork(300, 300).astype(np.uint16)
    image[:, 200:] = 65_535
    path = write_raster(tmp_path / "a.tif", image)
    highest = []
    for nodata in (float("nan"), 65_535.0, None):  # None: as before
        ingest(catalogue, path, size_m=32.0, reading=Reading(nodata=nodata))
        highest.append(float(catalogue.source("a").signature.split(";")[2]))
    assert highest[0] == 65_535.0
    assert highest[1] == highest[2] <= 255.0


def test_doubts_are_warned_of_and_bands_are_said(
    catalogue: Catalogue, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    image = np.dstack([patchwork(300, 300), patchwork(300, 300, seed=1)[..., :1]])
    path = write_raster(tmp_path / "a.tif", image, photometric="RGB", alpha="YES")
    said: list[str] = []
    ingest(catalogue, path, size_m=32.0, say=said.append)
    assert "bands 1, 2, 3 are read as red, green, blue" in said[0]
    assert "a.tif: band 4 is flagged alpha" in caplog.text


def test_a_folders_bad_images_are_counted_together(catalogue: Catalogue, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "tiles")
    ingest(catalogue, folder, size_m=None)
    for bad in ("1.png", "3.png"):
        (folder / bad).write_bytes(b"broken")
    with pytest.raises(BadImages, match=r"2 tiles .* 1\.png.* 3\.png"):
        ingest(catalogue, folder, size_m=None)
    assert len(list(catalogue.tiles())) == 4


def test_the_source_is_recorded(catalogue: Catalogue, tmp_path: Path) -> None:
    path = write_raster(tmp_path / "My Town.tif", patchwork(300, 300))
    ingest(catalogue, path, size_m=32.0, licence="CC0", attribution="us")
    record = catalogue.source("My-Town")
    assert (record.size_m, record.stride_m, record.licence) == (32.0, 8.0, "CC0")
    assert next(catalogue.tiles()).tile_id.startswith("My-Town-8m-n")
    with pytest.raises(SourceError, match="'a/b'"):
        ingest(catalogue, path, size_m=32.0, name="a/b")


def test_without_options_the_values_of_the_former_ingest_are_kept(
    catalogue: Catalogue, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_raster(tmp_path / "town.tif", patchwork(200, 200))
    said = {"licence": "CC BY 4.0", "attribution": "the survey"}
    first = ingest(catalogue, path, size_m=32.0, stride_m=16.0, **said)
    record = catalogue.source("town")
    assert changes(ingest(catalogue, path, size_m=32.0)) == (0, 0, 0, first.tiles)
    assert catalogue.source("town")._replace(ingested_at="") == record._replace(ingested_at="")
    assert caplog.text == ""
    with rasterio.open(path, "r+") as raster:
        raster.update_tags(LICENCE="CC0")
    ingest(catalogue, path, size_m=32.0)
    assert catalogue.source("town").licence == "CC BY 4.0"
    assert "states the licence 'CC0'; 'CC BY 4.0' of the former ingest is kept" in caplog.text
    ingest(catalogue, path, size_m=32.0, licence="")
    ingest(catalogue, path, size_m=32.0)
    assert catalogue.source("town").licence == "CC0"


def test_another_size_or_stride_is_logged(
    catalogue: Catalogue, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_raster(tmp_path / "town.tif", patchwork(300, 300))
    ingest(catalogue, path, size_m=32.0, stride_m=12.0)
    ingest(catalogue, path, size_m=32.0, stride_m=24.0)
    assert "town: the stride was 12 m and is 24 m" in caplog.text
    assert "tiles were" not in caplog.text
    ingest(catalogue, path, size_m=64.0)
    assert "town: tiles were 32 m wide and are 64 m" in caplog.text
    assert catalogue.source("town").stride_m == 16.0


def test_a_folders_images_have_no_stride(
    catalogue: Catalogue, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_folder(tmp_path / "tiles")
    for size_m in (None, 64.0):
        ingest(catalogue, folder, size_m=size_m)
        assert catalogue.source("tiles").stride_m is None
        assert "stride" not in caplog.text
    ingest(catalogue, folder, size_m=None, stride_m=0.0)
    assert "tiles: the stride of 0 m is ignored" in caplog.text
    assert catalogue.source("tiles").stride_m is None


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


@pytest.mark.parametrize("stride_m", [0.0, -4.0, float("nan"), 64.1])
def test_a_stride_without_a_grid_is_refused(
    catalogue: Catalogue, tmp_path: Path, stride_m: float
) -> None:
    path = write_raster(tmp_path / "a.tif", patchwork(300, 300))
    with pytest.raises(GridError, match=rf"stride (is )?{stride_m:g} m"):
        ingest(catalogue, path, size_m=64.0, stride_m=stride_m)
    assert catalogue.sources() == []


def test_zero_overlap_and_overlapping_sources_are_logged(
    catalogue: Catalogue, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fine = write_raster(tmp_path / "fine.tif", patchwork(300, 300), resolution_m=0.25)
    coarse = write_raster(tmp_path / "coarse.tif", patchwork(300, 300), resolution_m=1.0)
    ingest(catalogue, fine, size_m=32.0, stride_m=32.0)
    assert "do not overlap: a camera may be 23 m from" in caplog.text
    inside = len(list(catalogue.tiles()))
    ingest(catalogue, coarse, size_m=32.0)
    assert f"{inside} tiles of source fine lie in the area of coarse" in caplog.text
    assert "skyfix remove" in caplog.text


SPARSE = """
import re, sys
from pathlib import Path
from service.index.catalogue import Catalogue
from service.ingest import ingest
with Catalogue.of(Path(sys.argv[1])) as catalogue:
    report = ingest(catalogue, Path(sys.argv[2]), size_m=512.0, stride_m=512.0)
peak_kib = re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]
print(report.tiles, report.skipped_empty, peak_kib)
"""


def test_an_absurd_raster_is_cut_in_bounded_memory(tmp_path: Path) -> None:
    """36,000 x 18,000 pixels would be 1.9 GB; only one block of them is on the disk."""
    path = write_sparse(tmp_path / "absurd.tif")
    assert path.stat().st_size < 20_000_000
    command = [sys.executable, "-c", SPARSE, str(tmp_path / "home"), str(path)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    tiles, skipped, peak_kib = map(int, answer.split())
    assert (tiles, tiles + skipped) == (pytest.approx(4, abs=3), pytest.approx(618, rel=0.04))
    assert peak_kib < 400_000


def write_sparse(path: Path) -> Path:
    profile = {"tiled": True, "blockxsize": 512, "blockysize": 512, "SPARSE_OK": True}
    with rasterio.open(
        path, "w", driver="GTiff", height=18_000, width=36_000, count=3, dtype="uint8",
        crs="EPSG:32633", transform=rasterio.Affine(0.5, 0, 500_000, 0, -0.5, 5_540_000), **profile,
    ) as raster:  # fmt: skip
        window = rasterio.windows.Window(1024, 1024, 2048, 2048)
        raster.write(np.moveaxis(patchwork(2048, 2048), -1, 0), window=window)
    return path

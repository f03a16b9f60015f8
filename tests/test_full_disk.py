"""A disk that is really full: a small tmpfs. Skipped where mounting one is not allowed."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fakes import FakeEncoder
from imagery_samples import patchwork, write_raster
from imagery_server import files, planned, serving
from kill_campaign import check

from service.__main__ import main
from service.build import BuildFailed, build
from service.index.catalogue import Catalogue, CatalogueError
from service.index.versions import IndexUnwritable, Versions
from service.ingest import ingest
from service.remote.http_client import RemoteError

SIZE_KIB = 1024


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """An empty disk of SIZE_KIB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_KIB}k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no tmpfs can be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path, leave_kib: int) -> Path:
    """A file that leaves `leave_kib` free."""
    free = shutil.disk_usage(disk).free - leave_kib * 1024
    (disk / "filler").write_bytes(bytes(free))
    return disk / "filler"


def test_nothing_is_published_and_the_old_version_stays(small_disk: Path, tmp_path: Path) -> None:
    path = write_raster(tmp_path / "town.tif", patchwork(400, 400))
    with Catalogue.of(small_disk) as catalogue:
        ingest(catalogue, path, size_m=64.0)
    live = build(small_disk, FakeEncoder()).name
    other = FakeEncoder(fingerprint="bb" * 32)
    for leave_kib in (4, 12, 20, 32):
        filler = fill(small_disk, leave_kib)
        with pytest.raises(BuildFailed, match="the build stopped"):
            build(small_disk, other)
        assert Versions(small_disk).names() == [live]
        check(small_disk)
        filler.unlink()
    assert build(small_disk, FakeEncoder()).name != live


def test_prune_frees_a_disk_without_a_free_byte(
    small_disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_raster(tmp_path / "town.tif", patchwork(400, 400))
    with Catalogue.of(small_disk) as catalogue:
        ingest(catalogue, path, size_m=64.0)
    old, live = (build(small_disk, FakeEncoder()).name for _ in range(2))
    fill(small_disk, 0)
    versions = Versions(small_disk)
    assert versions.verify(old).version == old
    with pytest.raises(IndexUnwritable, match=rf"{old} is not made live: .*free space"):
        versions.activate(old)
    check(small_disk)
    with pytest.raises(BuildFailed, match="the build stopped"):
        build(small_disk, FakeEncoder())
    assert main(["prune", "--keep", "1", "--home", str(small_disk)]) == 0
    assert capsys.readouterr().out == f"{old} deleted\n"
    assert versions.names() == [live]
    assert versions.activate(live).version == live
    check(small_disk)


def test_the_catalogue_stays_as_it_was(small_disk: Path, tmp_path: Path) -> None:
    small = write_raster(tmp_path / "small.tif", patchwork(400, 400))
    large = write_raster(tmp_path / "large.tif", patchwork(900, 900))
    with Catalogue.of(small_disk) as catalogue:
        ingest(catalogue, small, size_m=64.0)
        before = list(catalogue.tiles())
        fill(small_disk, 8)
        with pytest.raises(CatalogueError, match="cannot be"):
            ingest(catalogue, large, size_m=64.0)
        assert list(catalogue.tiles()) == before


def test_a_fetch_that_fills_the_disk_says_so(small_disk: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (800, 800, 3), np.uint8)
    write_raster(tmp_path / "town.tif", noise)
    with serving(files(tmp_path)) as server:
        fetch = planned(small_disk, f"{server.url}/town.tif", None)
        with pytest.raises(
            RemoteError, match=r"cannot be written.*(disk may be full|No space left)"
        ):
            fetch.run(lambda done, expected: None)
    assert not fetch.done
    assert list(fetch.folder.glob("*.tif")) == []

"""A SIGKILL and a full disk leave only whole files."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fakes import FakeEncoder
from imagery_samples import patchwork, write_raster
from kill_campaign import TOWNS, check, kill_repeatedly, update, write_towns

from service.build import BuildFailed, build
from service.index.catalogue import Catalogue, CatalogueError
from service.index.versions import Versions
from service.ingest import ingest


@contextmanager
def files_no_longer_than(size: int) -> Iterator[None]:
    """Stands in for a full disk: no file of this process can grow beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_ten_kills_lose_nothing(tmp_path: Path) -> None:
    assert kill_repeatedly(tmp_path, kills=10, seed=1).total() == 10


def test_a_full_disk_publishes_nothing_and_the_next_build_works(tmp_path: Path) -> None:
    write_towns(tmp_path)
    update(tmp_path, "a.tif")
    live = Versions(tmp_path).current()
    for limit in (100, 4_000, 12_000):
        with files_no_longer_than(limit), pytest.raises(BuildFailed, match="the build stopped"):
            build(tmp_path, FakeEncoder(fingerprint="bb" * 32))
        assert Versions(tmp_path).names() == [live]
        check(tmp_path)
    assert build(tmp_path, FakeEncoder()).name != live


def test_a_full_disk_can_be_pruned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_towns(tmp_path)
    for town in TOWNS:
        update(tmp_path, town)
    versions = Versions(tmp_path)
    old, live = versions.names()
    with files_no_longer_than(0):
        assert versions.verify(old).version == old
        assert versions.prune(keep=1) == [old]
    assert "the holder of the lock of" in caplog.text
    assert versions.names() == [live]
    check(tmp_path)


def test_a_full_disk_leaves_the_catalogue_as_it_was(tmp_path: Path) -> None:
    write_towns(tmp_path)
    update(tmp_path, "a.tif")
    write_raster(tmp_path / "large.tif", patchwork(900, 900))
    with Catalogue.of(tmp_path) as catalogue:
        before = list(catalogue.tiles())
        size = catalogue.path.stat().st_size
        with files_no_longer_than(size), pytest.raises(CatalogueError, match="cannot be"):
            ingest(catalogue, tmp_path / "large.tif", size_m=64.0)
        assert list(catalogue.tiles()) == before
    check(tmp_path)
